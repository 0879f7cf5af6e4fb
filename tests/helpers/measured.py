"""A module that logs an accuracy, and a fit of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, Strategy
from tests.helpers.tiny import BATCH, Tiny, TinyData, tiny_trainer

EPOCHS = 4


class Measured(Tiny):
    """Logs an accuracy, as most modules do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.log("val/loss", cross_entropy(logits, y))
        self.log("val/accuracy", (logits.argmax(1) == y).float().mean())


def fit(
    make: Callable[[], Strategy],
    path: Path,
    num_workers: int = 0,
    seed: int = 0,
    processes: int = 1,
    ckpt_path: Any = None,
    callbacks: tuple[Callback, ...] = (),
) -> None:
    """A fit of its own: only the checkpoint can make it equal to one with another seed."""
    seed_everything(seed, verbose=False)
    strategy, module = make(), Measured()
    trainer = tiny_trainer(
        path.parent,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), Trained(strategy, path), *callbacks],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        limit_val_batches=1,
        max_epochs=EPOCHS,
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
    )
    data = AdaptiveDataModule(TinyData(batch_size=BATCH // processes, num_workers=num_workers))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)


from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_as import Strategy
from tests.helpers.measured import EPOCHS
from tests.helpers.tiny import BATCH


class Trained(Callback):
    """Keeps the batches that were trained on, and the strategy's state after each; writes them down at the end."""

    def __init__(self, strategy: Strategy, path: Path) -> None:
        self.strategy = strategy
        self.path = path
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.states: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(tuple(batch))
        self.states.append(self.strategy.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        report = {"batches": self.batches, "states": self.states, "weights": pl_module.state_dict()}
        torch.save(report, self.path.with_suffix(f".{trainer.global_rank}.pt"))
