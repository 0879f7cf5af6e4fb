"""One cell as an ordinary `Trainer.fit`, which goes on from its last checkpoint where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint

from lightning_as.data.mnist import MNISTDataModule
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.plugin.callback import AdaptiveSamplingCallback
from thesis.grid import ARMS, DATA, Cell
from thesis.measurements import Clock, Measurements, Row


def train(cell: Cell, epochs: int, checkpoint: Path, device: str, report: Callable[[list[Row]], None]) -> list[Row]:
    """Train and measure a cell.

    Args:
        cell: What is trained.
        epochs: How long.
        checkpoint: File that is written after each epoch. If it is there, the training goes on from it, on a CPU to the
            last bit as it would have without the interruption.
        device: The Trainer's accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``. One device is used.
        report: Called after each epoch with all rows so far.

    Returns:
        The rows of epoch 0 to the last.

    Raises:
        KeyboardInterrupt: If the user interrupts it.
    """
    seed_everything(cell.seed, verbose=False)
    arm = ARMS[cell.arm]
    data = MNISTDataModule(cell.batch_size, bins=arm.bins, device="auto", **DATA[cell.data])
    strategy, clock = arm.make(cell), Clock()
    measurements = Measurements(data, strategy, clock)
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_epochs=epochs,
        limit_val_batches=0,
        callbacks=[
            clock,
            AdaptiveSamplingCallback(strategy, weights=arm.weights),
            measurements,
            _Report(measurements, report),
            EpochCheckpoint(checkpoint),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        ConvNetClassifier(optimizer=cell.optimizer), data, ckpt_path=checkpoint if checkpoint.exists() else None
    )
    if trainer.interrupted:  # older Lightnings end the fit, and no more
        raise KeyboardInterrupt
    return measurements.rows


class EpochCheckpoint(Checkpoint):
    """Saves a checkpoint after each epoch, with the random state that dropout draws from, and brings that back.

    A file is replaced in one step, so that whenever the process is killed there is a whole one.

    Args:
        path: The file, in a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restored: dict[str, Any] | None = None
        self._device = torch.device("cpu")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the random state back: the last moment before it matters, after all that a new fit makes."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"])
            if self._restored["cuda"] is not None and pl_module.device.type == "cuda":
                torch.cuda.set_rng_state(self._restored["cuda"], pl_module.device)
            self._restored = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after all callbacks of other kinds."""
        self._device = pl_module.device
        unfinished = self.path.with_suffix(".unfinished")
        trainer.save_checkpoint(unfinished)
        os.replace(unfinished, self.path)

    def state_dict(self) -> dict[str, Any]:
        # Of the one GPU that trains: who goes on may see more of them, or fewer.
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A checkpoint may be loaded onto an accelerator, but generators take their states from the CPU.
        self._restored = {name: None if state is None else state.cpu() for name, state in state_dict.items()}


class _Report(Callback):
    """Tells of the rows that another callback has."""

    def __init__(self, measurements: Measurements, report: Callable[[list[Row]], None]) -> None:
        self.measurements = measurements
        self.report = report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(self.measurements.rows)
