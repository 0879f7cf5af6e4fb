import csv
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    Bins,
    ConvNetClassifier,
    MNISTDataModule,
    PrioritizedSampling,
    Strategy,
    Uniform,
    gradient_bound,
)
from tests.helpers.looking import no_looking
from tests.helpers.recording import Recording

MakeData = Callable[..., MNISTDataModule]
MakeTrainer = Callable[..., Trainer]


class Linear(LightningModule):
    """As small as a cooperating module can be."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(784, 10)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        logits = self.linear(images.flatten(1))
        losses = cross_entropy(logits, labels, reduction="none")
        self.seen.append((losses.detach(), logits.detach()))
        return self.outputs(losses, logits)

    def outputs(self, losses: Tensor, logits: Tensor) -> Any:
        return {"loss": losses.mean(), "losses": losses, "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_batch_updates_the_strategy_with_its_own_losses(
    make_data: MakeData, make_trainer: MakeTrainer, num_workers: int
):
    strategy, module = Recording(), Linear()
    data = make_data(num_workers=num_workers)
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)], max_epochs=2, accumulate_grad_batches=3)
    trainer.fit(module, datamodule=data)
    labels = data.dataset("train").labels
    assert labels is not None
    assert len(strategy.told) == len(module.seen) == 40
    for (draw, losses, bounds), (expected, logits) in zip(strategy.told, module.seen, strict=True):
        assert torch.equal(losses, expected.double())
        assert torch.equal(bounds, gradient_bound(logits, labels[draw.indices]))
        assert not losses.requires_grad
    assert strategy.metrics()["seen"] > 0.8


def test_the_law_favours_what_is_hard(make_data: MakeData, make_trainer: MakeTrainer):
    strategy, module = AdaptiveSampling(), Linear()
    data = make_data()
    make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)], max_epochs=4).fit(module, datamodule=data)
    dataset = data.dataset("train")
    assert dataset.labels is not None
    with torch.no_grad():
        losses = cross_entropy(module.linear(dataset.images.flatten(1)), dataset.labels, reduction="none").double()
    law = strategy.probabilities()
    assert float(law @ losses) > 1.5 * float(losses.mean())
    torch.testing.assert_close(float(law.sum()), 1.0)


def test_without_the_callback_the_same_data_trains_in_shuffled_epochs(make_data: MakeData, make_trainer: MakeTrainer):
    drawn: list[Tensor] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            drawn.append(batch[0].flatten(1).sum(1))

    data = make_data()
    make_trainer(callbacks=[AdaptiveSamplingCallback()]).fit(Linear(), datamodule=data)
    make_trainer(callbacks=[Watch()]).fit(Linear(), datamodule=data)
    expected = data.dataset("train").images.flatten(1).sum(1)
    torch.testing.assert_close(torch.cat(drawn).sort().values, expected.sort().values)


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(make_data: MakeData, make_trainer: MakeTrainer):
    def run(seed: int) -> tuple[list[list[int]], dict[str, Tensor]]:
        seed_everything(seed, verbose=False)
        strategy, module = Recording(), ConvNetClassifier()
        trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)])
        trainer.fit(module, datamodule=make_data(seed=None))
        return strategy.indices(), module.state_dict()

    (first, weights), (again, same), (other, _) = run(0), run(0), run(1)
    assert first == again
    assert first != other
    for name, value in weights.items():
        assert torch.equal(value, same[name]), name


def test_a_second_fit_goes_on_with_the_same_sampler_and_strategy(make_data: MakeData, make_trainer: MakeTrainer):
    data, callback = make_data(), AdaptiveSamplingCallback(Recording())
    make_trainer(callbacks=[callback]).fit(Linear(), datamodule=data)
    sampler = data.sampler
    make_trainer(callbacks=[callback], max_epochs=2, limit_train_batches=3).fit(Linear(), datamodule=data)
    assert data.sampler is sampler
    assert isinstance(callback.strategy, Recording)
    assert len(callback.strategy.told) == 20 + 2 * 3


def test_schedules_begin_again_with_a_new_trainer_and_go_on_with_a_resumed_one(
    make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path
):
    class Seen(Callback):
        def __init__(self) -> None:
            self.betas: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.betas.append(strategy.beta)  # of the next draw

    data, strategy = make_data(), PrioritizedSampling()
    callback, module = AdaptiveSamplingCallback(strategy), ConvNetClassifier()
    saving = ModelCheckpoint(tmp_path, "half", every_n_epochs=1, save_top_k=1)

    def fit(max_epochs: int, find: bool = False, ckpt_path: str | None = None, **options: Any) -> list[float]:
        seen = Seen()
        trainer = make_trainer(callbacks=[callback, seen], max_epochs=max_epochs, limit_train_batches=4, **options)
        if find:
            Tuner(trainer).lr_find(module, datamodule=data, num_training=3, update_attr=False)
            seen.betas.clear()
        if ckpt_path is None and options:
            trainer.callbacks.append(saving)  # pyright: ignore[reportAttributeAccessIssue]
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return seen.betas

    whole = fit(2)
    assert whole[0] < 0.6 < 0.99 < whole[-1]
    assert len(whole) == 8
    assert fit(2) == whole
    assert fit(2, find=True) == whole
    fit(1, enable_checkpointing=True)
    assert fit(2, ckpt_path=str(tmp_path / "half.ckpt")) == whole[4:]


def test_validation_and_the_sanity_check_do_not_touch_the_sampler(make_data: MakeData, make_trainer: MakeTrainer):
    data, strategy = make_data(), Recording()
    trainer = make_trainer(
        callbacks=[AdaptiveSamplingCallback(strategy)],
        limit_val_batches=1,
        num_sanity_val_steps=1,
        val_check_interval=5,
    )
    model = ConvNetClassifier()
    trainer.fit(model, datamodule=data)
    law = strategy.probabilities()
    trainer.validate(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert len(strategy.told) == 20
    assert torch.equal(strategy.probabilities(), law)


def test_a_checkpoint_can_be_tested_by_a_fresh_datamodule(
    make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path
):
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback()], limit_train_batches=2)
    model = ConvNetClassifier()
    trainer.fit(model, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fresh = make_trainer()
    result = fresh.test(
        ConvNetClassifier(), datamodule=make_data(), ckpt_path=str(tmp_path / "last.ckpt"), verbose=False
    )
    assert 0 <= result[0]["test/accuracy"] <= 1


def test_testing_a_checkpoint_between_two_fits_leaves_the_state_alone(
    make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path
):
    strategy, data = Recording(), make_data()
    callback, model = AdaptiveSamplingCallback(strategy), ConvNetClassifier()
    trainer = make_trainer(callbacks=[callback], limit_train_batches=3)
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)  # amid the epoch
    trainer.callbacks.append(saving)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(model, datamodule=data)
    law = strategy.probabilities()
    tester = make_trainer(callbacks=[callback])
    tester.test(model, datamodule=data, ckpt_path=str(tmp_path / "step=2.ckpt"), verbose=False)
    make_trainer(callbacks=[callback], limit_train_batches=3).fit(model, datamodule=data)
    assert len(strategy.told) == 6
    before_second = strategy.told[3][0]
    torch.testing.assert_close(before_second.probabilities, law[before_second.indices], rtol=1e-12, atol=0)


def test_it_logs_its_figures(make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path):
    logger = CSVLogger(tmp_path)
    callback = AdaptiveSamplingCallback()
    make_trainer(callbacks=[callback], logger=logger, log_every_n_steps=4).fit(Linear(), datamodule=make_data())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 7, 11, 15, 19]
    names = {"ess", "entropy_p", "p_min", "p_max", "seen", "age_p"}
    assert {f"adaptive/{name}" for name in names} <= rows[0].keys()
    last = {name: float(rows[-1][f"adaptive/{name}"]) for name in names}
    assert 1 < last["ess"] < 2000
    assert 0 < last["p_min"] < 0.1 < last["p_max"] < 1
    assert 0 < last["entropy_p"] < torch.tensor(10.0).log()
    assert last["age_p"] == 0
    assert float(rows[0]["adaptive/age_p"]) == 4
    assert float(rows[0]["adaptive/seen"]) < last["seen"] < 1


def test_bf16_logits_are_scored(make_data: MakeData, make_trainer: MakeTrainer):
    strategy = Recording()
    trainer = make_trainer(
        callbacks=[AdaptiveSamplingCallback(strategy)], precision="bf16-mixed", limit_train_batches=3
    )
    trainer.fit(Linear(), datamodule=make_data())
    assert all(bounds.dtype == torch.float64 and bool((bounds > 0).all()) for _, _, bounds in strategy.told)


def raises(message: str, module: LightningModule, data: Any, trainer: Trainer) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            lambda losses, logits: losses.mean(),
            r"Linear gave \['loss'\], and no logits. Either .*logits_from=…\), one of linear; .*recompute=True",
        ),
        (
            lambda losses, logits: {"loss": losses.mean(), "losses": losses.mean(), "logits": logits},
            r"losses must be one for each of the 100 instances drawn, got the shape \(\)",
        ),
        (
            lambda losses, logits: {"loss": losses.mean(), "losses": losses, "logits": logits[:50]},
            r"logits must have one row for each of the 100 instances drawn, got \(50, 10\)",
        ),
    ],
)
def test_outputs_without_what_is_needed(make_data: MakeData, make_trainer: MakeTrainer, outputs: Any, message: str):
    module = Linear()
    module.outputs = outputs
    raises(message, module, make_data(), make_trainer(callbacks=[AdaptiveSamplingCallback()]))


def test_logits_alone_are_enough(make_data: MakeData, make_trainer: MakeTrainer):
    strategy, module = Recording(), Linear()
    module.outputs = lambda losses, logits: {"loss": losses.mean(), "logits": logits}
    make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)], limit_train_batches=3).fit(
        module, datamodule=make_data()
    )
    for (_, losses, _), (expected, _) in zip(strategy.told, module.seen, strict=True):
        torch.testing.assert_close(losses, expected.double())


def test_a_batch_that_the_step_skips_is_no_update(make_data: MakeData, make_trainer: MakeTrainer):
    class Skipping(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx % 2 else None

    strategy, module, data = Recording(), Skipping(), make_data()
    make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)], limit_train_batches=6).fit(module, datamodule=data)
    assert len(strategy.told) == len(module.seen) == 3
    for (_, losses, _), (expected, _) in zip(strategy.told, module.seen, strict=True):
        assert torch.equal(losses, expected.double())


class Own(Dataset[Any]):
    """A data set of a user's own."""

    def __init__(self, labels: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(40, 1, 28, 28, generator=generator)
        self.targets = torch.arange(40) % 4 if labels is None else labels

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return self.images[index], index % 4


class OwnData(LightningDataModule):
    """A DataModule of a user's own."""

    def __init__(self, loader: Callable[[], Any]) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Any:
        return self.loader()


def ours(dataset: Dataset[Any] | None = None) -> AdaptiveDataLoader:
    return AdaptiveDataLoader(Own() if dataset is None else dataset, batch_size=8)


def test_a_users_own_datamodule_works(make_trainer: MakeTrainer):
    strategy = Recording()
    make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)]).fit(Linear(), datamodule=OwnData(ours))
    assert len(strategy.told) == 5


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.rand(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            lambda: DataLoader(Own(), batch_size=8),
            "is a DataLoader that draws from a SequentialSampler, .* return `Ada",
        ),
        (lambda: {"a": ours(), "b": ours()}, "needs one train DataLoader, but .* gave a dict"),
        (lambda: [ours(), ours()], "needs one train DataLoader, but .* gave a list"),
        (lambda: DataLoader(Endless(), batch_size=None), "IterableDataset has no indices"),
    ],
)
def test_another_loader_than_ours(make_trainer: MakeTrainer, loader: Any, message: str):
    raises(message, Linear(), OwnData(loader), make_trainer(callbacks=[AdaptiveSamplingCallback()]))


def untrained(message: str, dataset: Dataset[Any], module: Linear, trainer: Trainer) -> None:
    """It fails before the first step."""
    weights = module.linear.weight.detach().clone()
    raises(message, module, OwnData(lambda: ours(dataset)), trainer)
    assert module.seen == []
    assert torch.equal(module.linear.weight, weights)


def test_labels_that_are_not_those_of_the_bins(make_trainer: MakeTrainer):
    dataset = Own(labels=(torch.arange(40) + 1) % 4)
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback()])
    message = "The target of an instance is ., but it was drawn from the bin of the label ."
    untrained(message, dataset, Linear(), trainer)


def test_batches_of_another_size_than_drawn(make_trainer: MakeTrainer):
    class Halves(Own):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices[:4]]

    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback()])
    untrained("A batch of 8 was drawn, but a list of 2 has 4 targets", Halves(), Linear(), trainer)


class Triples(Own):
    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), 0)


class FirstTwo(Linear):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


def test_batches_that_are_not_pairs(make_trainer: MakeTrainer):
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback()])
    message = r"Which part of the batch, a list of 3, has the targets\?.*target_key=…"
    untrained(message, Triples(), FirstTwo(), trainer)
    strategy = Recording()
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(strategy, target_key=1)])
    trainer.fit(FirstTwo(), ours(Triples()))
    assert len(strategy.told) == 5


def test_overfit_batches(make_data: MakeData, make_trainer: MakeTrainer):
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback()], overfit_batches=2)
    raises("`overfit_batches=2` replaces the sampler", Linear(), make_data(), trainer)
    raises("`overfit_batches=2` replaces the sampler", Linear(), OwnData(ours), trainer)
    raises("`overfit_batches=2` replaces the sampler", Linear(), make_data(), make_trainer(overfit_batches=2))


def test_a_strategy_class_instead_of_an_object():
    with pytest.raises(TypeError, match=r"`strategy` must be an object such as AdaptiveSampling\(\)"):
        AdaptiveSamplingCallback(AdaptiveSampling)  # pyright: ignore[reportArgumentType]
    assert isinstance(AdaptiveSamplingCallback().strategy, Strategy)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"per_sample_loss": "cross_entropy"}, TypeError, "`per_sample_loss` must be a function of logits and targets"),
        ({"gradient_bound": "exact"}, TypeError, "`gradient_bound` must be a function or 'autograd', got 'exact'"),
        ({"gradient_bound": "autograd"}, ValueError, "observes a gradient at a submodule: name it, `logits_from`"),
        (
            {"weights": "biased"},
            ValueError,
            "`weights` must be source or one of none, unbiased, clipped, power; got 'biased'",
        ),
        ({"weight_limit": 0.0}, ValueError, "`weight_limit` must be positive .* got 0.0"),
        ({"weight_power": 1.5}, ValueError, r"`weight_power` in \[0, 1\], got 10.0 and 1.5"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        AdaptiveSamplingCallback(**arguments)


def test_weights_that_cannot_reach_the_loss(make_trainer: MakeTrainer):
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(weights="unbiased")])
    raises(
        "`weights='unbiased'` of AdaptiveSampling cannot reach the loss: name .* one of linear;",
        Linear(),
        OwnData(ours),
        trainer,
    )


def test_a_submodule_that_is_not_there(make_trainer: MakeTrainer):
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(logits_from="head")])
    raises("`logits_from='head'` is no submodule of Linear. It has: linear", Linear(), OwnData(ours), trainer)


class Unlooking(AdaptiveSamplingCallback):
    """Allows no look at a tensor in a step but the first."""

    steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        with no_looking() if batch_idx else nullcontext():
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        with no_looking() if batch_idx else nullcontext():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.steps += bool(batch_idx)


def test_off_the_cpu_no_step_waits_and_the_training_is_the_same(
    make_data: MakeData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
):
    """Of the torch code; and the bounds of `gradient_bound`, which the logits' device decides."""
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)

    def fit(callback: AdaptiveSamplingCallback) -> Tensor:
        seed_everything(0)
        module = Linear()
        trainer = make_trainer(callbacks=[callback], max_epochs=2, log_every_n_steps=1000)
        trainer.fit(module, datamodule=make_data(batch_size=50))
        return module.linear.weight.detach()

    here = fit(AdaptiveSamplingCallback())
    monkeypatch.setattr(Bins, "on_host", False)
    monkeypatch.setattr("lightning_as.core.smoothed_where_drawn._LOOK_EVERY", 1000)
    callback = Unlooking()
    there = fit(callback)
    assert callback.steps == 2 * 39
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-7)
    weighted = Unlooking(AdaptiveSampling(floor=0.1), logits_from="linear", weights="unbiased")
    fit(weighted)
    assert weighted.steps == 2 * 39


class Watch(Callback):
    """Allows no look at a tensor from the start of the second step to that of the 31st, whoever takes it."""

    def __init__(self) -> None:
        self.guard = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.guard.enter_context(no_looking())
        if batch_idx == 30:
            self.guard.close()


@pytest.mark.usefixtures("off_host")
@pytest.mark.parametrize("strategy", [AdaptiveSampling(), Uniform(), None])
def test_off_the_cpu_nothing_at_all_in_a_training_waits(
    make_data: MakeData, make_trainer: MakeTrainer, strategy: Strategy | None
):
    watch = Watch()
    callbacks = [watch] if strategy is None else [AdaptiveSamplingCallback(strategy), watch]
    trainer = make_trainer(callbacks=callbacks, log_every_n_steps=1000)
    with watch.guard:  # in any case it ends here
        trainer.fit(ConvNetClassifier(), datamodule=make_data(batch_size=50))
    assert trainer.global_step == 40


@pytest.mark.usefixtures("off_host")
def test_off_the_cpu_wrong_labels_are_found_at_the_first_batch_and_with_the_log(
    make_data: MakeData, make_trainer: MakeTrainer
):
    class Shifting(Callback):
        def __init__(self, batch: int) -> None:
            self.batch = batch

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx >= self.batch:
                batch[1].copy_((batch[1] + 1) % 10)

    for shifted in (0, 2):
        callbacks = [Shifting(shifted), AdaptiveSamplingCallback()]
        trainer = make_trainer(callbacks=callbacks, log_every_n_steps=5, logger=False)
        with pytest.raises(MisconfigurationException, match="filed under the wrong instances"):
            trainer.fit(Linear(), datamodule=make_data())
        assert trainer.global_step == (0 if shifted == 0 else 5)
