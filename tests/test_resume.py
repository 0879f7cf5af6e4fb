"""A resumed fit is the uninterrupted one, bit for bit: the batches, the law and the parameters."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback, Strategy, Uniform
from tests.test_trainer_features import BATCH, EPOCH, Recording, Tiny, TinyData, differences, tiny_dataset, tiny_trainer

END = {"max_epochs": {"max_epochs": 3}, "max_steps": {"max_epochs": -1, "max_steps": 2 * EPOCH + 4}}


class Scheduled(Tiny):
    """Asks for the number of steps ahead, for which Lightning makes the train loader before it restores its loops."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Setting(NamedTuple):
    """What is trained, and until when. It has the interface that the other kinds of data have below, too."""

    num_workers: int = 0
    module: type[Tiny] = Tiny
    end: str = "max_epochs"
    wrapped: bool = True
    reload: bool = False


class WithLoader(LightningDataModule):
    """A DataModule whose author uses our loader."""

    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH, num_workers=self.num_workers)


class Outcome(NamedTuple):
    """What a fit ended with."""

    strategy: Recording
    weights: dict[str, Tensor]
    messages: list[str]


def fit(
    folder: Path, setting: Setting, seed: int, callbacks: list[Callback], ckpt_path: Any = None, **options: Any
) -> Outcome:
    """A fit of its own: nothing but the checkpoint can make it equal to another one with another seed."""
    seed_everything(seed, verbose=False)
    strategy, module = Recording(), setting.module()
    trainer = tiny_trainer(
        folder,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), *callbacks],
        enable_checkpointing=True,
        val_check_interval=3,
        reload_dataloaders_every_n_epochs=int(setting.reload),
        **{**END[setting.end], **options},
    )
    data = TinyData(num_workers=setting.num_workers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=AdaptiveDataModule(data), ckpt_path=ckpt_path)
    return Outcome(strategy, module.state_dict(), [str(one.message) for one in caught])
