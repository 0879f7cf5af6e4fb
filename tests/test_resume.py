"""A resumed fit is the uninterrupted one, bit for bit: its batches, its law and its parameters."""

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
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback, Strategy, Uniform
from tests.test_trainer_features import BATCH, EPOCH, Recording, Tiny, TinyData, differences, tiny_dataset, tiny_trainer


class Scheduled(Tiny):
    """Asks for the number of steps ahead, for which Lightning makes the train loader before it restores its loops."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithLoaders(Tiny):
    """Has its own loaders, and so no DataModule."""

    num_workers = 0

    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny_dataset(), BATCH)


class Setting(NamedTuple):
    """What is trained, and until when. Both ends are in the third epoch."""

    num_workers: int = 0
    module: type[Tiny] = Tiny
    end: str = "max_epochs"
    reload: bool = False

    def options(self) -> dict[str, Any]:
        ends = {"max_epochs": {"max_epochs": 3}, "max_steps": {"max_epochs": -1, "max_steps": 2 * EPOCH + 4}}
        return {**ends[self.end], "reload_dataloaders_every_n_epochs": int(self.reload)}


class Outcome(NamedTuple):
    """What a fit ended with."""

    strategy: Recording
    weights: dict[str, Tensor]
    messages: list[str]


def fit(setting: Setting, folder: Path, callbacks: list[Callback], seed: int, ckpt_path: Any = None) -> Outcome:
    """A fit of its own: only the checkpoint can make it equal to one with another seed."""
    seed_everything(seed, verbose=False)
    strategy, module = Recording(), setting.module()
    data = AdaptiveDataModule(TinyData(num_workers=setting.num_workers))
    if isinstance(module, WithLoaders):
        module.num_workers, data = setting.num_workers, None
    trainer = tiny_trainer(
        folder,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), *callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        val_check_interval=3,
        limit_val_batches=1,
        **setting.options(),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return Outcome(strategy, module.state_dict(), [str(one.message) for one in caught])


def check(rest: Outcome, whole: Outcome, done: int) -> None:
    """Check that a resumed fit has gone on as the uninterrupted one did after the steps that were `done`."""
    assert 0 < len(rest.strategy.indices()) == len(whole.strategy.indices()) - done
    assert rest.strategy.indices() == whole.strategy.indices()[done:]
    assert torch.equal(rest.strategy.probabilities(), whole.strategy.probabilities())
    assert differences(rest.strategy.state_dict(), whole.strategy.state_dict()) == []
    assert differences(rest.weights, whole.weights) == []
    assert not [message for message in rest.messages if "resum" in message.lower() or "mid-epoch" in message]


Whole = Callable[[Setting], tuple[Outcome, Path]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The fit with a setting, without a break, and the folder with the checkpoints that it left."""
    known: dict[Setting, tuple[Outcome, Path]] = {}

    def get(setting: Setting) -> tuple[Outcome, Path]:
        if setting not in known:
            folder = tmp_path_factory.mktemp("whole")
            saving: list[Callback] = [
                ModelCheckpoint(folder, "batch-{step}", every_n_train_steps=1, save_top_k=-1),
                ModelCheckpoint(folder, "epoch-{step}", save_on_train_epoch_end=True, save_top_k=-1),
                # The mode is there because Lightning wants them to differ in something that it looks at.
                ModelCheckpoint(folder, "validation-{step}", save_on_train_epoch_end=False, save_top_k=-1, mode="max"),
            ]
            known[setting] = fit(setting, folder, saving, seed=0), folder
        return known[setting]

    return get


class At(Callback):
    """Does something when so many batches have been trained on."""

    def __init__(self, steps: int, action: Callable[[], None], hook: str) -> None:
        def act(trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == steps:
                action()

        setattr(self, hook, act)


def fail() -> None:
    raise ValueError("something broke")


def interrupted(setting: Setting, folder: Path, hook: str) -> Path:
    """The checkpoint of a fit that broke off when 8 batches had been trained on."""
    with pytest.raises(ValueError, match="something broke"):
        fit(setting, folder, [At(8, fail, hook), OnExceptionCheckpoint(folder)], seed=0)
    return folder / "on_exception.ckpt"


MOMENTS = {
    "mid-epoch": ("batch-step=7.ckpt", 7),
    "last batch of an epoch": ("batch-step=12.ckpt", 12),
    "end of an epoch": ("epoch-step=12.ckpt", 12),
    "validation in an epoch": ("validation-step=9.ckpt", 9),
    "validation at the end of an epoch": ("validation-step=12.ckpt", 12),
    "exception": ("", 8),
}


def resume(moment: str, setting: Setting, folder: Path, uninterrupted: Whole) -> None:
    """Check that a fit that is resumed from a checkpoint of the moment is exact."""
    whole, saved = uninterrupted(setting)
    name, done = MOMENTS[moment]
    path = saved / name if name else interrupted(setting, folder, "on_before_backward")
    check(fit(setting, folder, [], seed=1, ckpt_path=path), whole, done)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("module", [Tiny, Scheduled])
@pytest.mark.parametrize("end", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_resumed_fit_is_the_uninterrupted_one(
    num_workers: int, module: type[Tiny], end: str, moment: str, tmp_path: Path, uninterrupted: Whole
):
    resume(moment, Setting(num_workers, module, end), tmp_path, uninterrupted)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_module_with_a_loader_of_its_own_is_resumed_exactly(
    num_workers: int, reload: bool, moment: str, tmp_path: Path, uninterrupted: Whole
):
    resume(moment, Setting(num_workers, WithLoaders, reload=reload), tmp_path, uninterrupted)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_loader_made_anew_each_epoch_is_resumed_exactly(
    num_workers: int, moment: str, tmp_path: Path, uninterrupted: Whole
):
    resume(moment, Setting(num_workers, reload=True), tmp_path, uninterrupted)
