from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule
from lightning_as.comparison.rivals import UNIFORM, Rival
from lightning_as.comparison.setting import Setting
from tests.helpers.tiny import BATCH, Tiny, TinyData, tiny_dataset


def wrapped() -> AdaptiveDataModule:
    return AdaptiveDataModule(TinyData())


def test_the_seed_makes_the_weights_and_each_run_has_parts_of_its_own():
    setting = Setting(Tiny, wrapped, {})
    one, other, third = (setting.parts(seed)[0] for seed in (1, 1, 2))
    assert one is not other
    assert torch.equal(one.net[0].weight, other.net[0].weight)  # pyright: ignore
    assert not torch.equal(one.net[0].weight, third.net[0].weight)  # pyright: ignore


def test_a_trainer_says_and_writes_nothing(tmp_path: Path):
    given = {"logger": True, "enable_checkpointing": True, "profiler": "simple", "default_root_dir": "/nowhere"}
    given |= {"max_epochs": 3, "accelerator": "cpu", "callbacks": EarlyStopping("val/loss")}
    setting, first, last = Setting(Tiny, wrapped, given), Callback(), Callback()
    trainer: Any = setting.trainer(Rival(UNIFORM, None), str(tmp_path), first, last, {"limit_train_batches": 2})
    assert [type(one) for one in trainer.callbacks] == [Callback, EarlyStopping, Callback]
    assert (trainer.callbacks[0], trainer.callbacks[-1]) == (first, last)
    assert (trainer.max_epochs, trainer.limit_train_batches, trainer.default_root_dir) == (3, 2, str(tmp_path))
    trainer.logger.experiment.add_image("what a module may say", None)
    trainer.logger.log_metrics({"x": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "data", "trainer", "error", "message"),
    [
        (Tiny(), wrapped, {}, TypeError, "`module` must be a function that makes a new one for each run, .* got Tiny"),
        (Tiny, wrapped(), {}, TypeError, "`data` must be a function .* got AdaptiveDataModule"),
        (Tiny, wrapped, [], TypeError, "`trainer` must be a dict of the Trainer's options"),
        (Tiny, wrapped, {"max_time": "00:01"}, ValueError, "`max_time='00:01'`, but runs of equal length"),
        (Tiny, wrapped, {"fast_dev_run": True}, ValueError, "`fast_dev_run=True`, but runs of equal length"),
        (lambda: 3, wrapped, {}, TypeError, "`module` must make a LightningModule, got int"),
        (Tiny, tiny_dataset, {}, TypeError, "`data` must make a DataModule, or a train and .*, got TensorDataset"),
        (Tiny, lambda: (1, 2), {}, TypeError, "`data` must make a DataModule, or a train and .*, got tuple"),
    ],
)
def test_what_makes_no_parts_is_refused(module: Any, data: Any, trainer: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Setting(module, data, trainer).parts(0)


def test_parts_that_have_been_trained_with_are_refused():
    module, data = Tiny(), wrapped()
    loaders = AdaptiveDataLoader(tiny_dataset(), BATCH), DataLoader(tiny_dataset(), BATCH)
    for setting, name in (
        (Setting(lambda: module, wrapped, {}), "module"),
        (Setting(Tiny, lambda: data, {}), "data"),
        (Setting(Tiny, lambda: loaders, {}), "data"),
    ):
        setting.parts(0)
        with pytest.raises(ValueError, match=f"`{name}` gave the same object as before"):
            setting.parts(0)
