"""The features of Lightning's Trainer, each with an unedited module: one update per trained batch, on its indices."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback
from tests.helpers.tiny import (
    BATCH,
    EPOCH,
    Recording,
    Tiny,
    TinyData,
    Watch,
    differences,
    make_data,
    tell,
    tiny_dataset,
    tiny_trainer,
)
from tests.helpers.versions import FINDER_SHORTENS_THE_FIT


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., tuple[Recording, Watch, Trainer]]:
    """Fit a module with the callback and the options of the Trainer."""

    def fit(
        make: Callable[[], LightningModule] = Tiny,
        data: LightningDataModule | None = None,
        strategy: Recording | None = None,
        callbacks: tuple[Callback, ...] = (),
        compile: bool = False,
        gradient_bound: Any = None,
        **options: Any,
    ) -> tuple[Recording, Watch, Trainer]:
        seed_everything(0, verbose=False)
        module = make()
        strategy, watch = Recording() if strategy is None else strategy, Watch()
        ours = AdaptiveSamplingCallback(strategy, logits_from="net", gradient_bound=gradient_bound)
        trainer = tiny_trainer(tmp_path, callbacks=[ours, watch, *callbacks], **{"limit_val_batches": 0, **options})
        data = AdaptiveDataModule(TinyData()) if data is None else data
        trained: Any = torch.compile(module, backend="aot_eager") if compile else module
        trainer.fit(trained, datamodule=data)
        return strategy, watch, trainer

    return fit


Fit = Callable[..., tuple[Recording, Watch, Trainer]]
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"compile": True},
        {"compile": True, "accumulate_grad_batches": 2, "precision": "bf16-mixed"},
        {"limit_val_batches": 1.0},
        {"limit_val_batches": 2, "val_check_interval": 2, "num_sanity_val_steps": 2},
        {"detect_anomaly": True},
        {"profiler": "simple"},
    ],
    ids=str,
)
def test_every_trained_batch_is_one_update_with_its_own_losses(fit: Fit, options: dict[str, Any]):
    strategy, watch, trainer = fit(max_epochs=2, **options)
    tell(2 * EPOCH, strategy, watch)
    assert trainer.global_step == math.ceil(EPOCH / options.get("accumulate_grad_batches", 1)) * 2


class Manual(Tiny):
    """Steps by itself, twice in a batch for good measure, and returns nothing, as Lightning's own examples do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for _ in range(2):
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


class ManualWithLoss(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        return {"loss": torch.tensor(0.0)}


@pytest.mark.parametrize("module", [Manual, ManualWithLoss])
def test_manual_optimization_updates_on_every_batch_whatever_the_step_returns(fit: Fit, module: type[Tiny]):
    strategy, watch, trainer = fit(module, max_epochs=2)
    assert trainer.global_step == 2 * 2 * EPOCH
    tell(2 * EPOCH, strategy, watch)


class ByLBFGS(Tiny):
    def configure_optimizers(self) -> Any:
        self.calls = 0
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        return super().training_step(batch, batch_idx)


def test_an_optimizer_that_repeats_its_closure_gives_one_update_per_batch(fit: Fit):
    module = ByLBFGS()
    strategy, watch, _ = fit(lambda: module)
    assert module.calls >= 3 * EPOCH
    tell(EPOCH, strategy, watch)


class WithBatchNorm(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


def test_averages_of_the_weights_leave_the_batches_and_the_losses_alone(fit: Fit):
    alone, _, _ = fit(max_epochs=3)
    averaging = getattr(lightning.pytorch.callbacks, "EMAWeightAveraging", None)
    if averaging is None:
        pytest.skip("this Lightning has no EMAWeightAveraging")
    strategy, watch, _ = fit(max_epochs=3, callbacks=(averaging(),), limit_val_batches=1.0)
    tell(3 * EPOCH, strategy, watch)
    assert strategy.indices() == alone.indices()
    strategy, watch, _ = fit(max_epochs=3, callbacks=(StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),))
    tell(3 * EPOCH, strategy, watch)
    assert strategy.indices()[:EPOCH] == alone.indices()[:EPOCH]


def test_the_extra_epoch_of_swa_for_batch_norm_stays_in_step(fit: Fit):
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    strategy, watch, _ = fit(WithBatchNorm, max_epochs=3, callbacks=(averaging,))
    tell(4 * EPOCH, strategy, watch)


def test_gradients_of_the_backward_pass_are_not_missed_where_swa_makes_none(fit: Fit):
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    strategy, _, _ = fit(WithBatchNorm, max_epochs=3, callbacks=(averaging,), gradient_bound="autograd")
    assert len(strategy.told) >= 3 * EPOCH


@pytest.mark.parametrize("num_workers", [0, 2])
def test_limit_train_batches_stays_in_step(fit: Fit, num_workers: int):
    data = AdaptiveDataModule(TinyData(num_workers=num_workers))
    strategy, watch, _ = fit(data=data, limit_train_batches=4, max_epochs=3)
    tell(3 * 4, strategy, watch)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 4}], ids=str)
def test_a_loader_made_anew_each_epoch_is_followed(fit: Fit, num_workers: int, options: dict[str, Any]):
    made: list[AdaptiveDataLoader] = []

    class Counting(AdaptiveDataModule):
        def train_dataloader(self) -> AdaptiveDataLoader:
            made.append(super().train_dataloader())
            return made[-1]

    def run(**more: Any) -> tuple[Recording, Watch]:
        strategy, watch, _ = fit(data=Counting(TinyData(num_workers=num_workers)), max_epochs=3, **options, **more)
        return strategy, watch

    kept, _ = run()
    assert len(made) == 1
    strategy, watch = run(reload_dataloaders_every_n_epochs=1)
    assert len(made) == 1 + 3
    tell(3 * options.get("limit_train_batches", EPOCH), strategy, watch)
    assert strategy.indices() == kept.indices()
    assert torch.equal(strategy.probabilities(), kept.probabilities())


def again(trainer: Trainer, folder: Path, *more: Callback, **options: Any) -> Trainer:
    """Another Trainer with the same callbacks, and more."""
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return tiny_trainer(folder, callbacks=[*callbacks, *more], **{"limit_val_batches": 0, **options})


def state_of(trainer: Trainer) -> dict[str, Any]:
    """The state that the callback would save."""
    (callback,) = (one for one in trainer.callbacks if isinstance(one, AdaptiveSamplingCallback))  # pyright: ignore
    return callback.state_dict()


def test_the_state_in_the_comparisons_here_has_what_they_are_about(fit: Fit):
    _, _, short = fit(limit_train_batches=2)
    _, _, longer = fit(limit_train_batches=3)
    found = differences(state_of(short), state_of(longer))
    assert {".sampler.generator", ".sampler.strategy_state.over_bins.age"} <= set(found)
    assert any("inside" in path for path in found)
    assert differences(state_of(short), state_of(short)) == []


KINDS = pytest.mark.parametrize("kind", ["wrapped", "ready"])


@KINDS
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_learning_rate_finder_leaves_no_trace(fit: Fit, tmp_path: Path, kind: str, num_workers: int):
    def fit_twice(find: bool) -> tuple[Recording, Watch]:
        data = make_data(kind, num_workers)
        strategy, watch, first = fit(data=data)
        module = Tiny()
        if find:
            before, updates = state_of(first), len(strategy.told)
            trainer = again(first, tmp_path)
            Tuner(trainer).lr_find(module, datamodule=data, num_training=8, update_attr=False)
            assert differences(state_of(trainer), before) == []
            assert len(strategy.told) == updates
            assert not any(one != watch._see for one in module.net._forward_hooks.values())
        seed_everything(0, verbose=False)
        again(first, tmp_path).fit(Tiny(), datamodule=data)
        return strategy, watch

    without, _ = fit_twice(False)
    strategy, watch = fit_twice(True)
    tell(2 * EPOCH, strategy, watch)
    assert strategy.indices() == without.indices()


@KINDS
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_batch_size_finder_leaves_no_trace_but_the_batch_size(fit: Fit, tmp_path: Path, kind: str, mode: str):
    data = make_data(kind)
    strategy, watch, first = fit(data=data)
    before, updates = state_of(first), len(strategy.told)
    trainer = again(first, tmp_path)
    Tuner(trainer).scale_batch_size(Tiny(), datamodule=data, mode=mode, max_trials=3, init_val=3, steps_per_trial=2)
    assert differences(state_of(trainer), before) == []
    assert len(strategy.told) == updates
    assert data.batch_size != BATCH
    again(first, tmp_path).fit(Tiny(), datamodule=data)
    steps = BATCH * EPOCH // data.batch_size
    assert len(strategy.told) == updates + steps == len(watch.batches)
    assert {len(indices) for indices in strategy.indices()[updates:]} == {data.batch_size}


@KINDS
@pytest.mark.parametrize(
    "finder", [LearningRateFinder(num_training_steps=4), BatchSizeFinder(init_val=8, max_trials=2)]
)
def test_a_finder_that_is_a_callback_goes_before_the_fit(fit: Fit, kind: str, finder: Callback):
    strategy, watch, trainer = fit(data=make_data(kind), callbacks=(finder,))
    assert len(strategy.told) == len(watch.batches) == trainer.global_step
    assert trainer.global_step == trainer.num_training_batches or FINDER_SHORTENS_THE_FIT
    features, _ = tiny_dataset().tensors
    for draw, (x, _) in zip(strategy.indices(), watch.batches, strict=True):
        assert torch.equal(x, features[draw])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fast_dev_run(fit: Fit, num_workers: int):
    data = AdaptiveDataModule(TinyData(num_workers=num_workers))
    tell(1, *fit(data=data, fast_dev_run=True)[:2])
    tell(3, *fit(data=data, fast_dev_run=3)[:2])


def test_barebones_trains_as_ever_and_logs_nothing(fit: Fit):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bare = {"enable_checkpointing": None, "logger": None, "enable_progress_bar": None, "enable_model_summary": None}
        strategy, watch, _ = fit(barebones=True, max_epochs=2, **bare)
    tell(2 * EPOCH, strategy, watch)
    assert not [str(one.message) for one in caught if "log" in str(one.message)]
    assert strategy.indices() == fit(max_epochs=2)[0].indices()


def save(trainer: Trainer, folder: Path) -> str:
    trainer.save_checkpoint(folder / "saved.ckpt")
    return str(folder / "saved.ckpt")


@KINDS
def test_validation_between_two_fits_of_one_trainer_changes_nothing(fit: Fit, kind: str):
    class Going:
        """Two fits of one Trainer, one epoch each."""

        def __init__(self, validate: bool) -> None:
            data = make_data(kind)
            self.strategy, self.watch, trainer = fit(data=data)
            module = trainer.lightning_module
            if validate:
                before = state_of(trainer)
                trainer.limit_val_batches = 1.0
                trainer.validate(module, datamodule=data, verbose=False)
                assert differences(state_of(trainer), before) == []
            trainer.fit_loop.max_epochs = 2
            trainer.fit(module, datamodule=data)

    alone, validated = Going(False), Going(True)
    tell(2 * EPOCH, validated.strategy, validated.watch)
    assert validated.strategy.indices() == alone.strategy.indices()


def test_a_checkpoint_is_tested_by_a_fresh_trainer_with_and_without_the_callback(fit: Fit, tmp_path: Path):
    strategy, _, trainer = fit()
    law = strategy.probabilities()
    path = save(trainer, tmp_path)
    expected = trainer.test(trainer.lightning_module, DataLoader(tiny_dataset(), BATCH), verbose=False)

    class Testing(TinyData):
        def test_dataloader(self) -> DataLoader[Any]:
            return self.val_dataloader()

    for callbacks in ([], [AdaptiveSamplingCallback(logits_from="net")]):
        fresh = tiny_trainer(tmp_path, callbacks=callbacks)
        assert fresh.test(Tiny(), datamodule=AdaptiveDataModule(Testing()), ckpt_path=path, verbose=False) == expected
    assert torch.equal(strategy.probabilities(), law)


@KINDS
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_fits_of_one_datamodule_with_one_callback_are_as_one_long_fit(
    fit: Fit, tmp_path: Path, kind: str, num_workers: int
):
    class Plain(Tiny):
        """Without momentum, which a new optimizer would not have."""

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    whole, _, _ = fit(Plain, make_data(kind, num_workers), max_epochs=2)
    data = make_data(kind, num_workers)
    strategy, watch, first = fit(Plain, data)
    again(first, tmp_path).fit(first.lightning_module, datamodule=data)
    tell(2 * EPOCH, strategy, watch)
    assert strategy.indices() == whole.indices()
    assert torch.equal(strategy.probabilities(), whole.probabilities())


class Keeping(AdaptiveDataModule):
    """Gives the same loader in every fit."""

    kept: AdaptiveDataLoader | None = None

    def train_dataloader(self) -> AdaptiveDataLoader:
        self.kept = self.kept or super().train_dataloader()
        return self.kept


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["wrapped", "ready", "kept"])
def test_a_fit_after_one_that_ended_amid_an_epoch_begins_with_a_whole_epoch(
    fit: Fit, tmp_path: Path, kind: str, num_workers: int
):
    data = Keeping(TinyData(num_workers=num_workers)) if kind == "kept" else make_data(kind, num_workers)
    strategy, watch, first = fit(data=data, max_steps=4, max_epochs=-1)
    assert len(strategy.told) == 4
    validated: list[int] = []

    class Validated(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            validated.append(trainer.global_step)

    last = again(first, tmp_path, Validated(), num_sanity_val_steps=0, max_epochs=2, limit_val_batches=1)
    last.fit(Tiny(), datamodule=data)
    tell(4 + 2 * EPOCH, strategy, watch)
    assert validated == [EPOCH, 2 * EPOCH]


class Skipping(Tiny):
    """Skips every third batch, as Lightning allows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_the_step_skips_is_no_update_and_the_others_stay_in_step(fit: Fit, num_workers: int):
    data = AdaptiveDataModule(TinyData(num_workers=num_workers))
    strategy, watch, _ = fit(Skipping, data, max_epochs=2)
    assert len(watch.batches) == 2 * EPOCH
    trained = [at for at in range(2 * EPOCH) if at % EPOCH % 3 != 1]
    watch.batches, watch.logits = [watch.batches[at] for at in trained], [watch.logits[at] for at in trained]
    tell(2 * (EPOCH - 2), strategy, watch)


class Leaving(Tiny):
    """Leaves each epoch before its fourth batch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"reload_dataloaders_every_n_epochs": 1}], ids=str)
def test_an_epoch_that_the_module_leaves_early_does_not_shift_the_next(
    fit: Fit, num_workers: int, options: dict[str, Any]
):
    data = AdaptiveDataModule(TinyData(num_workers=num_workers))
    strategy, watch, _ = fit(Leaving, data, max_epochs=3, limit_val_batches=1.0, **options)
    tell(3 * 3, strategy, watch)


class Robust(Tiny):
    """Leaves the losses that are not finite out of the mean, and so out of the gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        losses = cross_entropy(self.net(x), y, reduction="none")
        return losses.where(losses.isfinite(), torch.zeros(())).mean()


class Poisoned(TinyData):
    """Some of its instances have no finite loss."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.dataset.tensors[0][::7] = value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("module", [Robust, Tiny])
def test_losses_that_are_not_finite_are_skipped_and_logged(fit: Fit, tmp_path: Path, value: float, module: type[Tiny]):
    logger = CSVLogger(tmp_path)
    data = AdaptiveDataModule(Poisoned(value))
    strategy, watch, _ = fit(module, data, max_epochs=3, logger=logger, log_every_n_steps=1)
    law = strategy.probabilities()
    assert bool(law.isfinite().all())
    assert bool((law >= 0).all())
    torch.testing.assert_close(float(law.sum()), 1.0)
    assert len(strategy.told) == len(watch.batches) == 3 * EPOCH
    skipped = sum(int((~losses.isfinite()).sum()) for _, losses, _ in strategy.told)
    assert strategy.skipped >= skipped > 0
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [row["adaptive/skipped"] for row in csv.DictReader(file) if row.get("adaptive/skipped")]
    assert len(logged) == 3 * EPOCH
    assert float(logged[-1]) == strategy.skipped


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_may_be_started_either_way(fit: Fit, context: str):
    options = {"num_workers": 1, "multiprocessing_context": context, "persistent_workers": True}
    strategy, watch, _ = fit(data=AdaptiveDataModule(TinyData(**options)), max_epochs=2)
    tell(2 * EPOCH, strategy, watch)


def test_two_callbacks_are_refused(fit: Fit):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `AdaptiveSamplingCallback`"):
        fit(callbacks=(AdaptiveSamplingCallback(logits_from="net"),))


@pytest.mark.parametrize("overfit", [2, 0.5])
def test_overfit_batches_is_refused(fit: Fit, overfit: float):
    with pytest.raises(MisconfigurationException, match=f"`overfit_batches={overfit}` replaces the sampler"):
        fit(overfit_batches=overfit)


def test_nothing_is_left_on_the_module(fit: Fit):
    class Failing(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("a user's bug")

    watch, trainer = fit()[1:]
    assert list(trainer.lightning_module.get_submodule("net")._forward_hooks.values()) == [watch._see]
    failing = Failing()
    with pytest.raises(ValueError, match="a user's bug"):
        fit(lambda: failing)
    assert len(failing.net._forward_hooks) == 1
