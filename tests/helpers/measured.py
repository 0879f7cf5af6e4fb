"""A module that logs an accuracy, and a fit of it that writes down what it did, for one or several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, Strategy
from tests.helpers.processes import Report
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
    """A fit of its own: only the checkpoint can make it equal to one with another seed.

    Each process writes its `Report` to `path`, with the suffix ``.0.pt`` and so on.
    """
    seed_everything(seed, verbose=False)
    strategy, module = make(), Measured()
    trainer = tiny_trainer(
        path.parent,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), Report(path, strategy), *callbacks],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        limit_val_batches=1,
        max_epochs=EPOCHS,
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
    )
    data = AdaptiveDataModule(TinyData(batch_size=BATCH // processes, num_workers=num_workers))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
