from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, MeanSquaredError, PrioritizedSampling
from lightning_as.plugin.criterion import SampleLosses
from tests.helpers.tiny import Noisy, Tiny, normal, refused, tiny_dataset, tiny_fit

B, C = 6, 4
LOGITS, TARGETS = normal(B, C), torch.arange(B) % C


class WithCriterion(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.parts = SimpleNamespace(loss=MeanSquaredError())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.criterion(self.net(batch[0]), batch[1])

    def loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(logits, targets)


def test_a_module_s_own_criterion_is_named(tmp_path: Path):
    expected = cross_entropy(LOGITS, TARGETS, reduction="none", label_smoothing=0.1)
    for name in ("criterion", "loss_of"):
        torch.testing.assert_close(SampleLosses(WithCriterion(), name).of_logits(LOGITS, TARGETS), expected)
    assert isinstance(SampleLosses(WithCriterion(), "parts.loss").loss, MeanSquaredError)
    for name in ("critic", "parts.other", "lr"):
        with refused(f"`per_sample_loss='{name}'` is nothing .* in WithCriterion. It has: .*criterion, loss_of, net"):
            SampleLosses(WithCriterion(), name)
    fitted = tiny_fit(tmp_path, make=WithCriterion, ours={"per_sample_loss": "criterion"})
    assert not any("returned a loss" in message for message in fitted.messages)
    smoothed = cross_entropy(
        fitted.watch.logits[-1], fitted.watch.batches[-1][1], reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(fitted.strategy.told[-1][1].float(), smoothed)


def test_a_criterion_that_is_changed_counts():
    module, weight = WithCriterion(), torch.ones(C)
    losses = SampleLosses(module, "criterion")
    for change in (
        lambda: None,
        lambda: setattr(module, "criterion", nn.CrossEntropyLoss(weight)),
        lambda: weight.mul_(3),
        lambda: setattr(module.criterion, "weight", torch.arange(C) + 0.5),
        lambda: setattr(module.criterion, "label_smoothing", 0.2),
    ):
        change()
        expected = torch.stack([module.criterion(*row) for row in zip(LOGITS, TARGETS, strict=True)])
        own = module.criterion.weight
        expected = expected if own is None else expected * own[TARGETS]  # which torch's mean divides by
        torch.testing.assert_close(losses.of_logits(LOGITS, TARGETS), expected)
        assert losses.loss is losses.loss


def test_a_function_of_the_batch_needs_no_logits_and_disturbs_nothing(tmp_path: Path):
    modules, calls = list[Any](), list[bool]()

    def losses(batch: Any) -> Tensor:
        calls.append(modules[0].training)
        return (modules[0].net(batch[0]).sum(1, keepdim=True) - batch[1][:, None]).square() + 0 * torch.rand(1).item()

    states = []
    for module, function in ((Noisy(), losses), (Noisy(), lambda batch: torch.ones(len(batch[0])))):
        modules[:] = [module]
        ours = {"logits_from": None, "per_sample_loss": function, "weights": "none"}
        fitted = tiny_fit(tmp_path, PrioritizedSampling(), lambda: modules[0], ours=ours, seed=1)
        states.append(fitted.module.net[1].num_batches_tracked.item())
    assert states[0] == states[1] == len(fitted.watch.batches)
    assert calls == [False] * states[0]
    for where in ("net", None):
        ours = {"logits_from": where, "per_sample_loss": lambda batch: torch.ones(len(batch[0]))}
        with refused(
            "`per_sample_loss=.*lambda.*` is a function of the batch, .* `gradient_bound=…`.*such as ClosenessS"
        ):
            tiny_fit(tmp_path, ours=ours)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (
            None,
            TARGETS + 251,
            "target.* is not the index of .*`per_sample_loss=`.*ignore_index=.*`target_key=`",
        ),
        (None, TARGETS.float(), "must be integers, got torch.float32: .*`per_sample_loss=`"),
        (None, (TARGETS, TARGETS, 0.3), r"targets that are a tuple of 3\. `targets` must be a tensor .*MixUp"),
        (lambda z, y: y.missing, TARGETS, "'Tensor' object has no attribute 'missing'"),
        (lambda z, y: 1.0, TARGETS, "must give a tensor, but gave a float"),
    ],
)
def test_what_a_loss_cannot_take(loss: Any, targets: Any, message: str):
    for function in (lambda losses: losses.of_logits, lambda losses: losses.bounds):
        with refused(message):
            function(SampleLosses(Tiny(), loss))(LOGITS, targets)


def test_memory_that_is_short_is_not_explained():
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        SampleLosses(Tiny(), loss).of_logits(LOGITS, TARGETS)


def test_functions_of_a_batch_give_one_loss_per_sample():
    for function, message in ((lambda batch: batch.mean(), r"got the shape \(\)"), (lambda batch: 0, "gave a int")):
        with refused(message):
            SampleLosses(Tiny(), function).of_batch(tiny_dataset().tensors[0])


class AnyLoss(Tiny):
    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.criterion = criterion

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.criterion(self.net(batch[0]), batch[1])


FEATURES = tiny_dataset().tensors[0]
SUMS = FEATURES.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("criterion", "targets"),
    [
        (nn.MSELoss(), FEATURES[:, :4] + SUMS),
        (nn.BCEWithLogitsLoss(), (FEATURES[:, :4] > 0).float()),
        (lambda logits, targets: (logits.logsumexp(1) - targets).abs().mean(), SUMS[:, 0]),
        (nn.CrossEntropyLoss(), torch.zeros(len(SUMS), dtype=torch.int64)),  # one class
    ],
    ids=["regression", "several labels", "a loss of one's own", "one class"],
)
def test_the_default_draws_by_any_loss_that_is_not_negative(criterion: Any, targets: Tensor, tmp_path: Path):
    """Some more than others for most of the training, as one bin shows; no loss is another than the module's."""
    strategy, spread = AdaptiveSamplingCallback().strategy, list[float]()
    look = LambdaCallback(on_train_batch_end=lambda *_: spread.append(float(strategy.probabilities().std())))
    data = AdaptiveDataModule(TensorDataset(FEATURES, targets), batch_size=16, bins=None)
    ours = {"per_sample_loss": "criterion"}
    fitted = tiny_fit(tmp_path, strategy, lambda: AnyLoss(criterion), data, ours, (look,), max_epochs=6)
    assert strategy.bins.sizes == [96]
    assert sum(one > 1e-6 for one in spread) > len(spread) / 2
    assert not any("returned a loss" in message for message in fitted.messages)


def test_a_loss_that_may_be_negative_is_refused_by_the_default_at_the_first_batch(tmp_path: Path):
    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits[:, 0] * targets).mean()

    strategy, steps = AdaptiveSamplingCallback().strategy, list[int]()
    look = LambdaCallback(on_train_batch_end=lambda trainer, *_: steps.append(trainer.global_step))
    data = AdaptiveDataModule(TensorDataset(FEATURES, SUMS[:, 0]), batch_size=16, bins=None)
    with pytest.raises(
        ValueError, match=r"must not be negative .*: add a constant, .*OnlineBatchSelection\(\) or Adapt"
    ):
        tiny_fit(tmp_path, strategy, lambda: AnyLoss(criterion), data, {"per_sample_loss": "criterion"}, (look,))
    assert steps == []
