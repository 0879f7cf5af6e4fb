from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader
from tests.helpers.tiny import BATCH, EPOCH, Fitted, Tiny, differences, make_data, tiny_dataset, tiny_fit
from tests.helpers.versions import LOSES_COUNT, counted


class Scheduled(Tiny):
    """Asks for the number of steps ahead, for which Lightning makes the train loader before it restores its loops."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithLoaders(Tiny):
    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH, num_workers=2)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny_dataset(), BATCH)


def fit(folder: Path, callbacks: tuple[Callback, ...] = (), **setting: Any) -> Fitted:
    """A fit of its own: only the checkpoint can make it equal to one with another seed."""
    setting = {"max_epochs": 3, "val_check_interval": 3, "limit_val_batches": 1, **setting}
    kind, num_workers = setting.pop("data", "wrapped"), setting.pop("num_workers", 0)
    data = kind if kind == "own" else make_data(kind, num_workers)
    return tiny_fit(folder, data=data, callbacks=callbacks, **setting)


def check(rest: Fitted, whole: Fitted, done: int) -> None:
    assert 0 < len(rest.strategy.indices()) == len(whole.strategy.indices()) - done
    assert rest.strategy.indices() == whole.strategy.indices()[done:]
    assert differences(rest.strategy.state_dict(), whole.strategy.state_dict()) == []
    assert differences(rest.strategy.record.state_dict(), whole.strategy.record.state_dict()) == []
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
PLACES = {"batch": (7, 12), "epoch": (12,), "validation": (9, 12)}
MOMENTS = {f"{at}-step={step}": step for at, steps in PLACES.items() for step in steps}
SHORT = {"batch-step=6": 6, "batch-step=8": 8, "epoch-step=8": 8}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "plain": ({}, MOMENTS),
    "scheduled": ({"num_workers": 2, "make": Scheduled, "max_epochs": -1, "max_steps": 2 * EPOCH + 4}, MOMENTS),
    "loader of the module": ({"num_workers": 2, "make": WithLoaders, "data": "own"}, MOMENTS),
    "reloaded": ({"num_workers": 2, "reload_dataloaders_every_n_epochs": 1}, MOMENTS),
    "ready": ({"num_workers": 2, "data": "ready"}, MOMENTS),
    "ready, reloaded": ({"data": "ready", "reload_dataloaders_every_n_epochs": 1}, MOMENTS),
    "limited": ({"num_workers": 2, "limit_train_batches": 4}, SHORT),
    "accumulated": ({"accumulate_grad_batches": 2}, {"batch-step=4": 8, "batch-step=6": 12}),
}


@pytest.mark.parametrize(("setting", "moments"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_resumed_fit_is_the_uninterrupted_one(setting: dict[str, Any], moments: dict[str, int], tmp_path: Path):
    whole = fit(tmp_path, saving(tmp_path), **setting)
    for name, done in moments.items():
        if not (LOSES_COUNT and name.startswith("batch")):
            check(fit(tmp_path, seed=1, ckpt_path=tmp_path / f"{name}.ckpt", **setting), whole, done)


@counted
def test_a_checkpoint_that_is_written_while_training_goes_on_is_of_its_moment(tmp_path: Path):
    whole = fit(tmp_path, saving(tmp_path), plugins=[AsyncCheckpointIO()])
    check(fit(tmp_path, seed=1, ckpt_path=tmp_path / "batch-step=7.ckpt"), whole, 7)


def broken_off(folder: Path, hook: str, steps: int, **setting: Any) -> Path:
    """The checkpoint of a fit that broke off when so many batches had been trained on."""

    def fail(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == steps:
            raise ValueError("something broke")

    with pytest.raises(ValueError, match="something broke"):
        fit(folder, (LambdaCallback(**{hook: fail}), OnExceptionCheckpoint(folder)), **setting)
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
    whole = fit(tmp_path, num_workers=num_workers)
    for steps, hook in IN_TRAINING[2:4] if num_workers else IN_TRAINING + IN_VALIDATION:
        if not (LOSES_COUNT and hook == "on_train_batch_end"):
            path = broken_off(tmp_path, hook, steps, num_workers=num_workers)
            check(fit(tmp_path, seed=1, ckpt_path=path, num_workers=num_workers), whole, steps)
            path.unlink()


class Logged(Callback):
    """The figures after each batch."""

    def __init__(self) -> None:
        self.figures = list[dict[str, float]]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        found = trainer.callback_metrics
        self.figures.append({name: float(found[name]) for name in found if name.startswith("adaptive/")})


def test_a_fit_that_is_resumed_within_their_window_logs_the_figures_of_the_uninterrupted_one(tmp_path: Path):
    whole, rest = Logged(), Logged()
    fit(tmp_path, (whole, *saving(tmp_path)), log_every_n_steps=1)
    fit(tmp_path, (rest,), seed=1, ckpt_path=tmp_path / "epoch-step=12.ckpt", log_every_n_steps=1)
    assert {"adaptive/ess", "adaptive/loss", "adaptive/gain", "adaptive/variance_ratio"} <= rest.figures[0].keys()
    assert rest.figures == whole.figures[12:]


def test_a_fit_that_is_resumed_twice_in_one_epoch_is_the_uninterrupted_one(tmp_path: Path):
    whole = fit(tmp_path, saving(tmp_path), num_workers=2)
    again: dict[str, Any] = {"seed": 1, "num_workers": 2}
    path = broken_off(tmp_path, "on_before_backward", 10, ckpt_path=tmp_path / "batch-step=8.ckpt", **again)
    check(fit(tmp_path, seed=2, ckpt_path=path, num_workers=2), whole, 10)
    checkpoint = torch.load(tmp_path / "batch-step=7.ckpt", weights_only=True)  # plain data
    pending = checkpoint["callbacks"]["AdaptiveSamplingCallback"]["sampler"]["pending"]
    assert [draw["indices"].tolist() for draw in pending] == whole.strategy.indices()[7:11]
