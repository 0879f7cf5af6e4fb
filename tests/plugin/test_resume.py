"""A resumed fit is the uninterrupted one, bit for bit: its batches, its distribution and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader
from tests.helpers.tiny import BATCH, EPOCH, Fitted, Tiny, differences, make_data, tiny_dataset, tiny_fit
from tests.helpers.versions import LOSES_COUNT


class Scheduled(Tiny):
    """Asks for the number of steps ahead, for which Lightning makes the train loader before it restores its loops."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithLoaders(Tiny):
    """Has its own loaders, and so no DataModule."""

    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH, num_workers=2)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny_dataset(), BATCH)


class Setting(NamedTuple):
    """What is trained, on which data, and with which options of the Trainer."""

    num_workers: int = 0
    module: type[Tiny] = Tiny
    data: str = "wrapped"
    options: dict[str, Any] = {"max_epochs": 3}  # noqa: RUF012


def fit(setting: Setting, folder: Path, callbacks: tuple[Callback, ...], seed: int, ckpt_path: Any = None) -> Fitted:
    """A fit of its own: only the checkpoint can make it equal to one with another seed."""
    data = "own" if setting.data == "own" else make_data(setting.data, setting.num_workers)
    options: dict[str, Any] = {"val_check_interval": 3, "limit_val_batches": 1, **setting.options}
    return tiny_fit(folder, None, setting.module, data, callbacks=callbacks, seed=seed, ckpt_path=ckpt_path, **options)


def check(rest: Fitted, whole: Fitted, done: int) -> None:
    """Check that a resumed fit has gone on as the uninterrupted one did after the steps that were `done`."""
    assert 0 < len(rest.strategy.indices()) == len(whole.strategy.indices()) - done
    assert rest.strategy.indices() == whole.strategy.indices()[done:]
    assert differences(rest.strategy.state_dict(), whole.strategy.state_dict()) == []
    assert differences(rest.module.state_dict(), whole.module.state_dict()) == []
    assert not [message for message in rest.messages if "resum" in message.lower() or "mid-epoch" in message]


def saving(folder: Path) -> tuple[Callback, ...]:
    """Checkpoints after each batch, epoch and validation."""
    return (
        ModelCheckpoint(folder, "batch-{step}", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(folder, "epoch-{step}", save_on_train_epoch_end=True, save_top_k=-1),
        # The mode is there because Lightning wants them to differ in something that it looks at.
        ModelCheckpoint(folder, "validation-{step}", save_on_train_epoch_end=False, save_top_k=-1, mode="max"),
    )


# Amid an epoch, after its last batch, at its end, and after validations in it and at its end.
MOMENTS = {
    "batch-step=7": 7,
    "batch-step=12": 12,
    "epoch-step=12": 12,
    "validation-step=9": 9,
    "validation-step=12": 12,
}
SHORT = {"batch-step=6": 6, "batch-step=8": 8, "epoch-step=8": 8}
RELOAD = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
SETTINGS: dict[str, tuple[Setting, dict[str, int]]] = {
    "plain": (Setting(), MOMENTS),
    "scheduled, max_steps": (Setting(2, Scheduled, options={"max_epochs": -1, "max_steps": 2 * EPOCH + 4}), MOMENTS),
    "loader of the module": (Setting(2, WithLoaders, "own"), MOMENTS),
    "reloaded": (Setting(2, options=RELOAD), MOMENTS),
    "ready": (Setting(2, data="ready"), MOMENTS),
    "ready, reloaded": (Setting(data="ready", options=RELOAD), MOMENTS),
    "limited": (Setting(2, options={"max_epochs": 3, "limit_train_batches": 4}), SHORT),
    "accumulated": (
        Setting(options={"max_epochs": 3, "accumulate_grad_batches": 2}),
        {"batch-step=4": 8, "batch-step=6": 12},
    ),
}


@pytest.mark.parametrize(("setting", "moments"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_resumed_fit_is_the_uninterrupted_one(setting: Setting, moments: dict[str, int], tmp_path: Path):
    whole = fit(setting, tmp_path, saving(tmp_path), seed=0)
    for name, done in moments.items():
        if not (LOSES_COUNT and name.startswith("batch")):
            check(fit(setting, tmp_path, (), seed=1, ckpt_path=tmp_path / f"{name}.ckpt"), whole, done)


class At(Callback):
    """Does something when so many batches have been trained on."""

    def __init__(self, steps: int, action: Callable[[], None], hook: str) -> None:
        def act(trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == steps:
                action()

        setattr(self, hook, act)


def fail() -> None:
    raise ValueError("something broke")


def broken_off(setting: Setting, folder: Path, hook: str, steps: int, ckpt_path: Any = None) -> Path:
    """The checkpoint of a fit that broke off when so many batches had been trained on."""
    callbacks = (At(steps, fail, hook), OnExceptionCheckpoint(folder))
    with pytest.raises(ValueError, match="something broke"):
        fit(setting, folder, callbacks, seed=0 if ckpt_path is None else 1, ckpt_path=ckpt_path)
    return folder / "on_exception.ckpt"


IN_TRAINING = [
    (0, "on_train_batch_start"),
    (8, "on_train_batch_start"),
    (8, "on_before_backward"),
    (8, "on_train_batch_end"),
    (12, "on_train_batch_end"),
    (12, "on_train_epoch_end"),
]
# Without workers: Lightning would leave them running, and the next garbage collection wait 10 seconds for them.
IN_VALIDATION = [(9, "on_validation_start"), (12, "on_validation_end")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_exception_anywhere_in_the_loop_is_resumed_exactly(num_workers: int, tmp_path: Path):
    setting = Setting(num_workers)
    whole = fit(setting, tmp_path, (), seed=0)
    for steps, hook in IN_TRAINING[2:4] if num_workers else IN_TRAINING + IN_VALIDATION:
        if not (LOSES_COUNT and hook == "on_train_batch_end"):
            path = broken_off(setting, tmp_path, hook, steps)
            check(fit(setting, tmp_path, (), seed=1, ckpt_path=path), whole, steps)
            path.unlink()


def test_a_fit_that_is_resumed_twice_in_one_epoch_is_the_uninterrupted_one(tmp_path: Path):
    whole = fit(Setting(2), tmp_path, saving(tmp_path), seed=0)
    path = broken_off(Setting(2), tmp_path, "on_before_backward", 10, tmp_path / "batch-step=8.ckpt")
    check(fit(Setting(2), tmp_path, (), seed=2, ckpt_path=path), whole, 10)
    checkpoint = torch.load(tmp_path / "batch-step=7.ckpt", weights_only=True)  # plain data
    pending = checkpoint["callbacks"]["AdaptiveSamplingCallback"]["sampler"]["pending"]
    assert [draw["indices"].tolist() for draw in pending] == whole.strategy.indices()[7:11]
