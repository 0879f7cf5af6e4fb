"""Several processes draw one global batch, share it, and keep one law between them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback
from tests.test_trainer_features import BATCH, EPOCH, Recording, Tiny, TinyData, differences, tiny_dataset, tiny_trainer

SHARE = BATCH // 2  # of a process


def within(seconds: float, function: Callable[[], object]) -> str:
    """Run a function in a process of its own, which may start others, and end them all if it takes longer.

    Returns:
        The traceback of what it raised, or "".
    """

    def run(writer: Any) -> None:
        os.setsid()
        warnings.simplefilter("ignore")
        try:
            function()
            writer.send("")
        except BaseException:
            writer.send(traceback.format_exc())

    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(writer,))  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    try:
        if not reader.poll(seconds):
            pytest.fail(f"It hangs: {seconds} s have passed.")
        return reader.recv()
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.join()


class Report(Callback):
    """Writes down, in each process, what it drew, trained on and learnt."""

    def __init__(self, folder: Path, strategy: Recording) -> None:
        self.folder = folder
        self.strategy = strategy
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.states: list[dict[str, Any]] = []
        self.gradients: list[list[Tensor]] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gradients.append([weight.grad.clone() for weight in pl_module.parameters() if weight.grad is not None])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(tuple(batch))
        self.states.append(self.strategy.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        report = {
            "batches": self.batches,
            "states": self.states,
            "gradients": self.gradients,
            "drawn": [draw.indices for draw, _, _ in self.strategy.told],
            "probabilities": [draw.probabilities for draw, _, _ in self.strategy.told],
            "weights": pl_module.state_dict(),
        }
        torch.save(report, self.folder / f"rank{trainer.global_rank}.pt")


def fit(
    folder: Path,
    processes: int,
    make: Callable[[], LightningModule] = Tiny,
    num_workers: int = 0,
    seed: int = 0,
    callbacks: tuple[Callback, ...] = (),
    ckpt_path: Any = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """A fit in so many processes, with batches of the same size in all.

    Returns:
        The report of each.
    """
    folder.mkdir(exist_ok=True)

    def run() -> None:
        seed_everything(seed, verbose=False)
        strategy, module = Recording(), make()
        data = AdaptiveDataModule(TinyData(batch_size=BATCH // processes, num_workers=num_workers))
        trainer = tiny_trainer(
            folder,
            callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net", **options), Report(folder, strategy), *callbacks],
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            limit_val_batches=0,
            max_epochs=2,
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)

    assert within(60, run) == ""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


def frozen() -> Tiny:
    """A module that never moves: its losses are a function of the instance alone."""
    return Tiny(lr=0.0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_draw_and_learn_what_one_with_twice_the_batch_does(tmp_path: Path, num_workers: int):
    (alone,) = fit(tmp_path / "one", 1, frozen, num_workers)
    both = fit(tmp_path / "two", 2, frozen, num_workers)
    assert len(alone["batches"]) == 2 * EPOCH
    for rank, report in enumerate(both):
        assert differences(dict(enumerate(report["states"])), dict(enumerate(alone["states"]))) == []
        assert len(report["batches"]) == 2 * EPOCH
        for (x, y), (all_x, all_y) in zip(report["batches"], alone["batches"], strict=True):
            assert torch.equal(x, all_x[rank::2])
            assert torch.equal(y, all_y[rank::2])
        assert torch.equal(torch.stack(report["drawn"]), torch.stack(alone["drawn"]))
