"""The callback with a cooperating module: what it learns, saves, logs and refuses, and that it makes no GPU wait."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    PrioritizedSampling,
    Strategy,
    Uniform,
)
from tests.helpers.looking import no_looking
from tests.helpers.tiny import BATCH, EPOCH, ReadyData, Tiny, make_data, tiny_dataset, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Cooperating(Tiny):
    """Returns what the callback needs, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        losses = cross_entropy(logits, batch[1], reduction="none") * (1 + batch_idx)
        self.seen.append((losses.detach(), logits.detach()))
        return self.outputs(losses, logits)

    def outputs(self, losses: Tensor, logits: Tensor) -> Any:
        return {"loss": losses.mean(), "losses": losses, "logits": logits}


def returned(folder: Path, make: Callable[[], LightningModule] = Cooperating, **options: Any) -> Any:
    """A fit in which the callback gets all from the step."""
    ours = {"logits_from": None, **options.pop("ours", {})}
    return tiny_fit(folder, options.pop("strategy", None), make, ours=ours, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_batch_updates_the_strategy_with_the_losses_and_logits_that_the_step_returned(
    tmp_path: Path, precision: Any
):
    data = make_data("wrapped", num_workers=2)
    strategy, _, _, module, _ = returned(
        tmp_path, data=data, max_epochs=2, accumulate_grad_batches=3, precision=precision
    )
    assert len(strategy.told) == len(module.seen) == 2 * EPOCH
    for (draw, losses, bounds), (expected, logits) in zip(strategy.told, module.seen, strict=True):
        assert torch.equal(losses, expected.double())
        errors = logits.double().softmax(1) - torch.eye(4)[tiny_dataset().tensors[1][draw.indices]]
        torch.testing.assert_close(bounds, errors.square().sum(1))
        assert not losses.requires_grad


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(tmp_path: Path):
    first, again, other = (tiny_fit(tmp_path, seed=seed, max_epochs=2) for seed in (0, 0, 1))
    assert first.strategy.indices() == again.strategy.indices() != other.strategy.indices()
    for weight, same in zip(first.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(weight, same)


def test_schedules_begin_again_with_a_new_trainer_and_go_on_with_a_resumed_one(tmp_path: Path):
    class Seen(Callback):
        def __init__(self) -> None:
            self.betas: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.betas.append(strategy.beta)  # of the next draw

    data, strategy, module = make_data("ready"), PrioritizedSampling(), Tiny()
    callback = AdaptiveSamplingCallback(strategy, logits_from="net")

    def fit(max_epochs: int, find: bool = False, more: Any = (), ckpt_path: Any = None) -> list[float]:
        seen = Seen()
        options = {"max_epochs": max_epochs, "limit_train_batches": 4, "limit_val_batches": 0}
        trainer = tiny_trainer(tmp_path, callbacks=[callback, seen, *more], enable_checkpointing=bool(more), **options)
        if find:
            Tuner(trainer).lr_find(module, datamodule=data, num_training=3, update_attr=False)
            seen.betas.clear()
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return seen.betas

    whole = fit(2)
    assert whole[0] < 0.6 < 0.99 < whole[-1]
    assert len(whole) == 8
    assert fit(2, find=True) == whole
    fit(1, more=[ModelCheckpoint(tmp_path, "half")])
    assert fit(2, ckpt_path=tmp_path / "half.ckpt") == whole[4:]


def test_testing_a_checkpoint_between_two_fits_leaves_the_state_alone(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)  # amid the epoch
    data = make_data("ready")
    strategy, _, trainer, module, _ = tiny_fit(tmp_path, data=data, callbacks=(saving,), limit_train_batches=3)
    callback = trainer.callbacks[0]  # pyright: ignore[reportAttributeAccessIssue]
    known = strategy.probabilities()
    loader = DataLoader(tiny_dataset(), BATCH)
    tiny_trainer(tmp_path, callbacks=[callback]).test(module, loader, tmp_path / "step=2.ckpt", verbose=False)
    tiny_trainer(tmp_path, callbacks=[callback], limit_train_batches=3).fit(module, datamodule=data)
    assert len(strategy.told) == 6
    draw = strategy.told[3][0]
    torch.testing.assert_close(draw.probabilities, known[draw.indices], rtol=1e-12, atol=0)


def test_it_logs_its_figures(tmp_path: Path):
    logger = CSVLogger(tmp_path)
    strategy = tiny_fit(
        tmp_path, ours={"weights": "unbiased"}, max_epochs=4, logger=logger, log_every_n_steps=4
    ).strategy
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [3, 7, 11, 15, 19, 23]
    for row in rows:
        draw = strategy.told[int(row["step"])][0]
        weights = 1 / (96 * draw.probabilities)
        assert row["adaptive/ess"] == pytest.approx(1 / float(draw.probabilities.mean()), rel=1e-6)
        assert row["adaptive/weight_mean"] == pytest.approx(float(weights.mean()), rel=1e-6)
        assert row["adaptive/weight_max"] == pytest.approx(float(weights.max()), rel=1e-6)
        assert row["adaptive/skipped"] == 0
    for name, value in strategy.metrics().items():
        assert rows[-1][f"adaptive/{name}"] == pytest.approx(value, rel=1e-6)


# --- What is refused ---


class Own(Dataset[Any]):
    """A data set of a user's own, whose labels can be wrong, and its batches too small."""

    def __init__(self, shift: int = 0, left_out: int = 0, more: tuple[int, ...] = ()) -> None:
        self.targets = (torch.arange(40) + shift) % 4
        self.left_out = left_out
        self.more = more

    def __len__(self) -> int:
        return 40

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(torch.ones(8), index % 4, *self.more) for index in indices[self.left_out :]]


def ours(**options: Any) -> AdaptiveDataLoader:
    return AdaptiveDataLoader(Own(**options), batch_size=8)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.rand(8, 8), torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        (lambda: DataLoader(Own(), 8), {}, "is a DataLoader that draws from a SequentialSampler, .* return `Ada"),
        (lambda: {"a": ours(), "b": ours()}, {}, "needs one train DataLoader, but .* gave a dict"),
        (lambda: DataLoader(Endless(), batch_size=None), {}, "IterableDataset has no indices"),
        (lambda: ours(shift=1), {}, "The target of an instance is ., but it was drawn from the bin of the label"),
        (lambda: ours(left_out=4), {}, "A batch of 8 was drawn, but a list of 2 has 4 targets"),
        (lambda: ours(more=(0,)), {}, r"Which part of the batch, a list of 3, has the targets\?.*target_key=…"),
        (
            ours,
            {"weights": "unbiased"},
            "`weights='unbiased'` of AdaptiveSampling cannot reach the loss: name .*net.2;",
        ),
        (ours, {"logits_from": "head"}, "`logits_from='head'` is no submodule of Cooperating. It has: net"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    tmp_path: Path, loader: Any, options: dict[str, Any], message: str
):
    module = Cooperating()
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(**options)])
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, loader())
    assert module.seen == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strategy": AdaptiveSampling}, TypeError, r"`strategy` must be an object such as AdaptiveSampling\(\), got"),
        ({"per_sample_loss": "mean"}, TypeError, "`per_sample_loss` must be a function of logits and targets, got 'me"),
        ({"gradient_bound": "exact"}, TypeError, "`gradient_bound` must be a function or 'autograd', got 'exact'"),
        ({"gradient_bound": "autograd"}, ValueError, "observes a gradient at a submodule: name it, `logits_from`"),
        ({"weights": "biased"}, ValueError, "`weights` must be one of source, none, unbiased, clipped, power; got 'bi"),
        ({"weight_limit": 0.0}, ValueError, "`weight_limit` must be finite and positive, got 0.0"),
        ({"weight_power": 1.5}, ValueError, r"`weight_power` must be in \[0, 1\], got 1.5"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        AdaptiveSamplingCallback(**arguments)
    assert isinstance(AdaptiveSamplingCallback(weight_power=1.0).strategy, AdaptiveSampling)


# --- As if all were on a GPU ---


class Guarded(Callback):
    """Allows no look at a tensor from the start of the second step to that of the last, whoever takes it."""

    def __init__(self) -> None:
        self.guard = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.guard.enter_context(no_looking())
        if batch_idx == 29:
            self.guard.close()


@pytest.mark.parametrize(
    ("strategy", "options"),
    [(AdaptiveSampling, {}), (AdaptiveSampling, {"logits_from": "net", "weights": "unbiased"}), (Uniform, {})],
)
def test_off_the_cpu_nothing_in_a_training_waits_and_it_is_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, strategy: type[Strategy], options: dict[str, Any]
):
    def fit(*more: Callback) -> Tensor:
        seed_everything(0, verbose=False)
        module, callback = Cooperating(), AdaptiveSamplingCallback(strategy(), **options)
        trainer = tiny_trainer(tmp_path, callbacks=[callback, *more], log_every_n_steps=1000, limit_train_batches=30)
        trainer.fit(module, datamodule=ReadyData(3))
        assert trainer.global_step == 30
        return torch.cat([losses for losses, _ in module.seen])

    here, guarded = fit(), Guarded()
    request.getfixturevalue("in_torch")
    with guarded.guard:  # in any case it ends here
        there = fit(guarded)
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("in_torch")
def test_off_the_cpu_wrong_labels_are_found_at_the_first_batch_and_with_the_log(tmp_path: Path):
    class Shifting(Callback):
        def __init__(self, batch: int) -> None:
            self.batch = batch

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx >= self.batch:
                batch[1].copy_((batch[1] + 1) % 4)

    for shifted, steps in ((0, 0), (2, 5)):
        callbacks = [Shifting(shifted), AdaptiveSamplingCallback()]
        trainer = tiny_trainer(tmp_path, callbacks=callbacks, log_every_n_steps=5)
        with pytest.raises(MisconfigurationException, match="filed under the wrong instances"):
            trainer.fit(Cooperating(), datamodule=make_data("wrapped"))
        assert trainer.global_step == steps
