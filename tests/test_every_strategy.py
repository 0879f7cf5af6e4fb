"""Every strategy under a Trainer: resumed exactly, in step among processes, and trained by its preset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, Strategy
from tests.strategies.catalogue import CATALOGUE
from tests.test_ddp import within
from tests.test_trainer_features import BATCH, EPOCH, Tiny, TinyData, differences, tiny_trainer
from tests.versions import LOSES_COUNT

EPOCHS = 4
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
every_strategy = pytest.mark.parametrize("make", CATALOGUE.values(), ids=list(CATALOGUE))


class Measured(Tiny):
    """Logs an accuracy, as most modules do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.log("val/loss", cross_entropy(logits, y))
        self.log("val/accuracy", (logits.argmax(1) == y).float().mean())


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


@every_strategy
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_fit_is_the_uninterrupted_one(make: Callable[[], Strategy], num_workers: int, tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(make, tmp_path / "whole", num_workers, callbacks=(saving,))
    whole = torch.load(tmp_path / "whole.0.pt", weights_only=True)
    assert len(whole["batches"]) == EPOCHS * EPOCH
    # Amid an epoch, and after its last batch; but Lightning never makes up for the validation that would follow there.
    listens = type(make()).validated is not Strategy.validated
    if listens and LOSES_COUNT:
        pytest.skip("Lightning 2.4 leaves out the validation of an epoch that is resumed in the middle.")
    for step in (EPOCH + 2,) if listens or LOSES_COUNT else (EPOCH + 2, 2 * EPOCH):
        fit(make, tmp_path / "rest", num_workers, seed=1, ckpt_path=tmp_path / f"step={step}.ckpt")
        rest = torch.load(tmp_path / "rest.0.pt", weights_only=True)
        assert len(rest["batches"]) == EPOCHS * EPOCH - step
        for name in ("batches", "states"):
            assert differences(rest[name], whole[name][step:]) == []
        assert differences(rest["weights"], whole["weights"]) == []


@every_strategy
def test_two_processes_stay_in_step_and_share_the_batch(make: Callable[[], Strategy], tmp_path: Path):
    assert within(60, lambda: fit(make, tmp_path / "both", processes=2)) == ""
    one, other = (torch.load(tmp_path / f"both.{rank}.pt", weights_only=True) for rank in range(2))
    assert differences(one["states"], other["states"]) == []
    assert differences(one["weights"], other["weights"]) == []
    assert [len(x) for x, _ in one["batches"]] == [len(x) for x, _ in other["batches"]] == [BATCH // 2] * EPOCHS * EPOCH
    assert not all(torch.equal(x, y) for (x, _), (y, _) in zip(one["batches"], other["batches"], strict=True))
