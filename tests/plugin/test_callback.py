import copy
import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import (
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    ClosenessSampling,
    GradientNormSampling,
    PrioritizedSampling,
    RHOLoss,
    Uniform,
)
from lightning_as.plugin.figures import batch_sums, estimates
from tests.helpers.looking import no_looking
from tests.helpers.tiny import (
    EPOCH,
    ReadyData,
    Tiny,
    differences,
    make_data,
    refused,
    tiny_dataset,
    tiny_fit,
    tiny_trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Cooperating(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        losses = cross_entropy(logits, batch[1], reduction="none") * (1 + batch_idx)
        self.seen.append((losses.detach(), logits.detach()))
        return {"loss": losses.mean(), "losses": losses, "logits": logits}


def test_every_batch_updates_the_strategy_with_the_losses_and_logits_that_the_step_returned(tmp_path: Path):
    options: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 3, "precision": "bf16-mixed"}
    strategy, _, _, module, _ = tiny_fit(
        tmp_path, None, Cooperating, make_data("wrapped", num_workers=2), {"logits_from": None}, **options
    )
    assert len(strategy.told) == len(module.seen) == 2 * EPOCH
    for (draw, losses, bounds), (expected, logits) in zip(strategy.told, module.seen, strict=True):
        assert torch.equal(losses, expected.cpu().double())
        errors = logits.cpu().double().softmax(1) - torch.eye(4)[tiny_dataset().tensors[1][draw.indices]]
        torch.testing.assert_close(bounds, errors.square().sum(1))
        assert not losses.requires_grad


def test_schedules_begin_again_with_a_new_trainer_and_go_on_with_a_resumed_one(tmp_path: Path):
    data, strategy, module = make_data("ready"), PrioritizedSampling(), Tiny()
    callback = AdaptiveSamplingCallback(strategy, logits_from="net")

    def fit(max_epochs: int, find: bool = False, more: Any = (), ckpt_path: Any = None) -> list[float]:
        betas: list[float] = []
        seen = LambdaCallback(on_train_batch_start=lambda *_: betas.append(strategy.beta))  # of the next draw
        options = {"max_epochs": max_epochs, "limit_train_batches": 4, "limit_val_batches": 0}
        trainer = tiny_trainer(tmp_path, callbacks=[callback, seen, *more], enable_checkpointing=bool(more), **options)
        if find:
            Tuner(trainer).lr_find(module, datamodule=data, num_training=3, update_attr=False)
            betas.clear()
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return betas

    whole = fit(2)
    assert whole[0] < 0.6 < 0.99 < whole[-1]
    assert len(whole) == 8
    assert fit(2, find=True) == whole
    fit(1, more=[ModelCheckpoint(tmp_path, "half")])
    assert fit(2, ckpt_path=tmp_path / "half.ckpt") == whole[4:]


def test_it_logs_its_figures(tmp_path: Path):
    logger = CSVLogger(tmp_path)
    options: dict[str, Any] = {"max_epochs": 4, "logger": logger, "log_every_n_steps": 4}
    strategy = tiny_fit(tmp_path, ours={"weights": "unbiased"}, **options).strategy
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [3, 7, 11, 15, 19, 23]
    for row in rows:
        draw = strategy.told[int(row["step"])][0]
        weights = 1 / (96 * draw.probabilities)
        told = strategy.told[: int(row["step"]) + 1]
        batches = [(one[0].probabilities, *one[1:]) for one in told]
        expected = estimates(batch_sums(batches, 96).sum(1))
        assert {name: row[f"adaptive/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
        assert row["adaptive/weight_mean"] == pytest.approx(float(weights.mean()), rel=1e-6)
        assert row["adaptive/weight_max"] == pytest.approx(float(weights.max()), rel=1e-6)
        assert row["adaptive/skipped"] == 0
    for name, value in strategy.metrics().items():
        assert rows[-1][f"adaptive/{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strategy": AdaptiveSampling}, TypeError, r"`strategy` must be an object such as ClosenessSampling\(\), got"),
        ({"per_sample_loss": 1}, TypeError, "`per_sample_loss` must be a function of logits and targets, or .*, got 1"),
        ({"gradient_bound": "exact"}, TypeError, "`gradient_bound` must be a function or 'autograd', got 'exact'"),
        ({"gradient_bound": "autograd"}, ValueError, "observes a gradient at a submodule: name it, `logits_from`"),
        ({"weights": "biased"}, ValueError, "`weights` must be one of source, none, unbiased, clipped, power; got 'bi"),
        ({"weight_limit": 0.0}, ValueError, "`weight_limit` must be finite and positive, got 0.0"),
        ({"forward": "net"}, TypeError, "`forward` must be a function of a batch that gives its logits, got 'net'"),
        ({"weights_attribute": "a b"}, ValueError, "`weights_attribute` must be the name of an attribute, got 'a b'"),
        ({"weight_power": 1.5}, ValueError, r"`weight_power` must be in \[0, 1\], got 1.5"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        AdaptiveSamplingCallback(**arguments)
    assert isinstance(AdaptiveSamplingCallback(weight_power=1.0).strategy, ClosenessSampling)


def test_a_strategy_that_does_not_go_with_the_options_cannot_be_set_later():
    callback = AdaptiveSamplingCallback(kept="rows")
    with pytest.raises(ValueError, match="`kept='rows'` does not go with RHOLoss"):
        callback.strategy = RHOLoss(torch.zeros(4))
    assert isinstance(callback.strategy, ClosenessSampling)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (AdaptiveSampling, {}),
        (AdaptiveSampling, {"logits_from": "net", "weights": "unbiased"}),
        (ClosenessSampling, {}),
        (Uniform, {}),
    ],
)
def test_off_the_cpu_a_training_never_waits_and_is_the_same(tmp_path: Path, request: Any, strategy: Any, options: Any):
    def fit(*more: Callback) -> Tensor:
        seed_everything(0, verbose=False)
        module, callback = Cooperating(), AdaptiveSamplingCallback(strategy(), **options)
        trainer = tiny_trainer(tmp_path, callbacks=[callback, *more], log_every_n_steps=1000, limit_train_batches=30)
        trainer.fit(module, datamodule=ReadyData(3))
        assert trainer.global_step == 30
        return torch.cat([losses for losses, _ in module.seen])

    def allow_no_look(trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """From the start of the second step to that of the last, whoever takes it."""
        if batch_idx == 1:
            guard.enter_context(no_looking())
        if batch_idx == 29:
            guard.close()

    here = fit()
    request.getfixturevalue("in_torch")
    with ExitStack() as guard:  # in any case it ends here
        there = fit(LambdaCallback(on_train_batch_start=allow_no_look))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


def test_wrong_labels_are_found_at_once_or_off_the_cpu_with_the_log(tmp_path: Path, request: pytest.FixtureRequest):
    def wrong_from(batch: int) -> int:
        def shift(trainer: Any, pl_module: Any, batch_: Any, batch_idx: int) -> None:
            if batch_idx >= batch:
                batch_[1].copy_((batch_[1] + 1) % 4)

        callbacks = [LambdaCallback(on_train_batch_start=shift), AdaptiveSamplingCallback()]
        trainer = tiny_trainer(tmp_path, callbacks=callbacks, log_every_n_steps=5)
        with pytest.raises(MisconfigurationException, match="filed under the wrong instances"):
            trainer.fit(Cooperating(), datamodule=make_data("wrapped"))
        return trainer.global_step

    assert [wrong_from(0), wrong_from(2)] == [0, 3]
    request.getfixturevalue("in_torch")
    assert [wrong_from(0), wrong_from(2)] == [0, 5]


def fit(folder: Path, callback: Callback, *more: Callback) -> None:
    trainer = tiny_trainer(folder, callbacks=[callback, *more], limit_val_batches=0)
    trainer.fit(Cooperating(), datamodule=make_data("wrapped"))


def test_a_strategy_serves_one_callback_and_what_another_one_gets_is_a_copy(tmp_path: Path):
    strategy = AdaptiveSampling()
    callback, other = (AdaptiveSamplingCallback(strategy) for _ in range(2))
    for _ in range(2):
        fit(tmp_path, callback)
    state = callback.state_dict()
    with refused(r"This AdaptiveSampling has been at work in another .*: give .*, such as `copy.deepcopy\(strategy\)`"):
        fit(tmp_path, other)
    assert differences(callback.state_dict(), state) == []
    other.strategy = copy.deepcopy(strategy)
    fit(tmp_path, other)


def test_a_callback_serves_one_fit_at_a_time_with_one_strategy(tmp_path: Path):
    def attempt(trainer: Any, pl_module: Any) -> None:
        with refused("at work in a fit that has not ended: give a fit within it a callback of its own"):
            fit(tmp_path, callback)
        with refused("cannot be replaced amid a fit"):
            callback.strategy = Uniform()
        ended.append(trainer)

    callback, ended = AdaptiveSamplingCallback(), list[Any]()
    fit(tmp_path, callback, LambdaCallback(on_train_epoch_end=attempt))  # which goes on
    assert len(ended) == 1
    with pytest.raises(TypeError, match="`strategy` must be an object such as"):
        callback.strategy = "uniform"  # pyright: ignore[reportAttributeAccessIssue]
    callback.strategy = Uniform()
    fit(tmp_path, callback)


def test_between_batches_a_module_is_its_owner_s_whatever_is_sampled_by(tmp_path: Path):
    def count(trainer: Any, pl_module: Any, *rest: Any) -> None:
        counts.append(sum(len(part._forward_hooks) for part in pl_module.modules()))

    counts, at = (
        list[int](),
        ("on_train_epoch_start", "on_train_batch_end", "on_validation_start", "on_train_epoch_end"),
    )
    look = LambdaCallback(**dict.fromkeys(at, count))  # pyright: ignore[reportArgumentType]
    callbacks = [
        AdaptiveSamplingCallback(strategy, logits_from="net", weights=weights)
        for strategy, weights in ((GradientNormSampling(), "source"), (AdaptiveSampling(), "unbiased"), (None, "none"))
    ]
    for order in ([callbacks[0], look], [callbacks[1], look], [look, callbacks[2]]):
        tiny_trainer(tmp_path, callbacks=order).fit(Tiny(), datamodule=make_data("wrapped"))
    assert len(counts) > 3 * EPOCH
    assert set(counts) == {0}
