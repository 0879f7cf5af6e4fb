"""The features of Lightning's Trainer, each with an unedited module: one update per trained batch, on its indices."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback, StochasticWeightAveraging
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import default_collate

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback
from tests.helpers.tiny import EPOCH, Manual, Tiny, TinyData, differences, make_data, tell, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
Fit = Callable[..., Any]
KINDS = pytest.mark.parametrize("kind", ["wrapped", "ready"])


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    return partial(tiny_fit, tmp_path)


BARE = {"enable_checkpointing": None, "logger": None, "enable_progress_bar": None, "enable_model_summary": None}


@pytest.mark.parametrize(
    ("loading", "options", "trained", "steps"),
    [
        ({}, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.01}, 12, 4),
        ({}, {"precision": "bf16-mixed", "compile": True, "accumulate_grad_batches": 2}, 12, 6),
        ({}, {"precision": "64-true", "detect_anomaly": True, "profiler": "simple"}, 12, 12),
        ({}, {"limit_val_batches": 2, "val_check_interval": 2, "num_sanity_val_steps": 2}, 12, 12),
        ({}, {"barebones": True, **BARE}, 12, 12),
        ({"num_workers": 2}, {"fast_dev_run": 3}, 3, 3),
        ({"num_workers": 2, "persistent_workers": True}, {"limit_train_batches": 4}, 8, 8),
        pytest.param({"num_workers": 1, "multiprocessing_context": "spawn"}, {}, 12, 12, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_trained_batch_is_one_update(fit: Fit, loading: Any, options: Any, trained: int, steps: int):
    data = AdaptiveDataModule(TinyData(**loading))
    strategy, watch, trainer, module, messages = fit(data=data, max_epochs=2, **options)
    tell(trained, strategy, watch)
    assert trainer.global_step == steps
    assert list(module.net._forward_hooks.values()) == [watch._see]  # nothing of ours is left
    assert not [message for message in messages if "barebones" in options and "log" in message]


class ByLBFGS(Tiny):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class WithBatchNorm(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


class Leaving(Tiny):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


class Plain(Tiny):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)  # a new optimizer would not have the momentum


class Late(Tiny):
    """Makes its layers when the data is known, or on the device, as for sharded training; its batches are mappings."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        del self.net

    def make(self, place: str) -> None:
        if place == self.place:
            self.net = Tiny().net

    def setup(self, stage: str) -> None:
        self.make("setup")

    def configure_model(self) -> None:
        self.make("configure_model")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["labels"]), batch_idx)


@pytest.mark.parametrize("place", ["setup", "configure_model"])
def test_layers_that_are_made_late_and_batches_that_are_mappings(fit: Fit, place: str):
    def collate(rows: list[Any]) -> dict[str, Any]:
        return dict(zip(("x", "labels"), default_collate(rows), strict=True))

    data, ours = AdaptiveDataModule(TinyData(collate_fn=collate)), {"weights": "unbiased"}
    strategy, watch, _, module, _ = fit(make=lambda: Late(place), data=data, ours=ours, max_epochs=2)
    watch.batches = [tuple(batch.values()) for batch in watch.batches]
    tell(2 * EPOCH, strategy, watch)
    assert list(module.net._forward_hooks.values()) == [watch._see]


SWA = partial(StochasticWeightAveraging, swa_lrs=0.05, swa_epoch_start=1)
EMA = getattr(lightning.pytorch.callbacks, "EMAWeightAveraging", None)


@pytest.mark.parametrize(
    ("make", "averaging", "options", "trained"),
    [
        (Manual, None, {}, 3 * EPOCH),
        (ByLBFGS, None, {}, 3 * EPOCH),
        (Leaving, None, {"limit_val_batches": 1.0}, 3 * 3),
        (Leaving, None, {"reload_dataloaders_every_n_epochs": 1}, 3 * 3),
        (Tiny, SWA, {}, 3 * EPOCH),
        (WithBatchNorm, SWA, {}, 4 * EPOCH),  # an extra epoch for the sake of batch norm
        pytest.param(Tiny, EMA, {}, 3 * EPOCH, marks=pytest.mark.skipif(EMA is None, reason="this Lightning has none")),
    ],
)
def test_unusual_modules_and_averages_stay_in_step(fit: Fit, make: Any, averaging: Any, options: Any, trained: int):
    data = AdaptiveDataModule(TinyData(num_workers=2 if make is Leaving else 0))
    callbacks = () if averaging is None else (averaging(),)
    strategy, watch, *_ = fit(make=make, data=data, callbacks=callbacks, max_epochs=3, **options)
    tell(trained, strategy, watch)
    if make is WithBatchNorm:  # in the extra epoch there is no backward pass
        ours = {"gradient_bound": "autograd"}
        assert len(fit(make=make, max_epochs=3, callbacks=(SWA(),), ours=ours).strategy.told) >= 3 * EPOCH


def test_a_batch_that_the_step_skips_is_no_update_and_the_others_stay_in_step(fit: Fit):
    class Skipping(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 3 == 1 else loss

    strategy, watch, *_ = fit(make=Skipping, data=make_data("wrapped", 2), max_epochs=2)
    assert len(watch.batches) == 2 * EPOCH
    trained = [at for at in range(2 * EPOCH) if at % EPOCH % 3 != 1]
    watch.batches, watch.logits = [watch.batches[at] for at in trained], [watch.logits[at] for at in trained]
    tell(2 * (EPOCH - 2), strategy, watch)


def test_a_loader_made_anew_each_epoch_is_followed(fit: Fit):
    options, data = {"max_epochs": 3, "limit_train_batches": 4}, make_data("wrapped", 2)
    kept = fit(data=make_data("wrapped", 2), **options).strategy
    strategy, watch, *_ = fit(data=data, reload_dataloaders_every_n_epochs=1, **options)
    tell(3 * 4, strategy, watch)
    assert strategy.indices() == kept.indices()
    assert torch.equal(strategy.probabilities(), kept.probabilities())


def again(fitted: Any, folder: Path, *more: Callback, **options: Any) -> Trainer:
    return tiny_trainer(folder, callbacks=[*fitted.trainer.callbacks, *more], **{"limit_val_batches": 0, **options})


def state_of(fitted: Any) -> dict[str, Any]:
    """The state that the callback would save, which changes with every batch."""
    return fitted.trainer.callbacks[0].state_dict()


@KINDS
def test_the_learning_rate_finder_leaves_no_trace(fit: Fit, tmp_path: Path, kind: str):
    runs = []
    for find in (False, True):
        data = make_data(kind, num_workers=2)
        first = fit(data=data)
        before = state_of(first)
        if find:
            Tuner(again(first, tmp_path)).lr_find(Tiny(), datamodule=data, num_training=8, update_attr=False)
            assert differences(state_of(first), before) == []
            assert len(first.strategy.told) == EPOCH
        seed_everything(0, verbose=False)
        again(first, tmp_path).fit(Tiny(), datamodule=data)
        assert len(differences(state_of(first), before)) > 1
        runs.append(first.strategy.indices())
    assert runs[0] == runs[1]
    assert len(runs[0]) == 2 * EPOCH


@KINDS
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_batch_size_finder_leaves_no_trace_but_the_batch_size(fit: Fit, tmp_path: Path, kind: str, mode: str):
    data = make_data(kind)
    first = fit(data=data)
    before, options = state_of(first), {"mode": mode, "max_trials": 3, "init_val": 3, "steps_per_trial": 2}
    Tuner(again(first, tmp_path)).scale_batch_size(Tiny(), datamodule=data, **options)
    assert differences(state_of(first), before) == []
    assert len(first.strategy.told) == EPOCH
    assert data.batch_size != 16
    again(first, tmp_path).fit(Tiny(), datamodule=data)
    assert len(first.strategy.told) == EPOCH + 16 * EPOCH // data.batch_size == len(first.watch.batches)
    assert {len(indices) for indices in first.strategy.indices()[EPOCH:]} == {data.batch_size}


@pytest.mark.parametrize(("kind", "num_workers"), [("wrapped", 2), ("ready", 0)])
def test_two_fits_are_as_one_whatever_is_tested_between_them(fit: Fit, tmp_path: Path, kind: str, num_workers: int):
    def save_amid(trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            trainer.save_checkpoint(tmp_path / "amid.ckpt")

    whole = fit(make=Plain, data=make_data(kind, num_workers), max_epochs=2).strategy
    data = make_data(kind, num_workers)
    first = fit(make=Plain, data=data, callbacks=(LambdaCallback(on_train_batch_start=save_amid),))
    before = state_of(first)
    first.trainer.limit_val_batches = 1.0
    first.trainer.validate(first.module, datamodule=data, verbose=False)
    assert differences(state_of(first), before) == []
    loader = TinyData().val_dataloader()
    again(first, tmp_path).test(Plain(), loader, tmp_path / "amid.ckpt", verbose=False)
    assert differences(state_of(first), before) == []
    again(first, tmp_path).fit(first.module, datamodule=data)
    tell(2 * EPOCH, first.strategy, first.watch)
    assert first.strategy.indices() == whole.indices()
    assert torch.equal(first.strategy.probabilities(), whole.probabilities())


@pytest.mark.parametrize(("kind", "num_workers"), [("wrapped", 2), ("ready", 2), ("kept", 0), ("kept", 2)])
def test_a_fit_after_one_cut_short_begins_with_a_whole_epoch(fit: Fit, tmp_path: Path, kind: str, num_workers: int):
    steps: list[int] = []
    validated = LambdaCallback(on_validation_end=lambda trainer, _: steps.append(trainer.global_step))
    data: Any = make_data("wrapped" if kind == "kept" else kind, num_workers)
    if kind == "kept":  # one loader for all fits
        loader = data.train_dataloader()
        data.train_dataloader = lambda: loader
    first = fit(data=data, max_steps=4, max_epochs=-1)
    assert len(first.strategy.told) == 4
    options = {"num_sanity_val_steps": 0, "max_epochs": 2, "limit_val_batches": 1}
    again(first, tmp_path, validated, **options).fit(Tiny(), datamodule=data)
    tell(4 + 2 * EPOCH, first.strategy, first.watch)
    assert steps == [EPOCH, 2 * EPOCH]


def test_losses_that_are_not_finite_are_skipped_and_logged(fit: Fit):
    data = TinyData()
    data.dataset.tensors[0][::7] = math.nan
    strategy, _, trainer, *_ = fit(data=AdaptiveDataModule(data), max_epochs=3, log_every_n_steps=1)
    assert len(strategy.told) == 3 * EPOCH
    skipped = sum(int((~losses.isfinite()).sum()) for _, losses, _ in strategy.told)
    assert strategy.skipped >= skipped > 0
    assert float(trainer.callback_metrics["adaptive/skipped"]) == strategy.skipped


def test_what_does_not_go_together_is_refused(fit: Fit):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `AdaptiveSamplingCallback`"):
        fit(callbacks=(AdaptiveSamplingCallback(logits_from="net"),))
    for overfit in (2, 0.5):
        with pytest.raises(MisconfigurationException, match=f"`overfit_batches={overfit}` replaces the sampler"):
            fit(overfit_batches=overfit)
