from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional

from lightning_as import CrossEntropy
from lightning_as.losses import per_sample, squared_gradient_norms, takes_batch
from tests.helpers.samples import B, C, classes, normal, soft, some_ignored

compiled = partial(torch.compile, backend="eager")
Z, Y = normal(B, C), classes(B)
COLUMN, NUMBERS, YES = normal(B, 1), normal(B, seed=3), classes(B, count=2)
PIXELS, SOME = normal(B, C, 3), some_ignored(B, 3, ignored=255)
WEIGHT = torch.rand(C, dtype=torch.float64) + 0.5


def huber(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    return functional.huber_loss(x, target, reduction=reduction)


class Smoothed(nn.Module):
    """As of timm: it knows no reduction and gives a mean."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(x, target, label_smoothing=0.1)


class Branching(Smoothed):
    """What no batched form exists of."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return super().forward(x, target) if float(x.sum()) < 1e9 else x.sum()


def mixed(z: Tensor, y: Any) -> Tensor:
    (one, other), share = y
    return share * functional.cross_entropy(z, one) + (1 - share) * functional.cross_entropy(z, other)


# A criterion, logits, targets, and what it is of a sample alone where that is not the criterion itself.
CASES: dict[str, tuple[Any, Tensor, Any, Any]] = {
    "cross-entropy": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1, reduction="none"), Z, Y, None),
    "its function": (partial(functional.cross_entropy, label_smoothing=0.1), Z, Y, None),
    "pixels": (nn.CrossEntropyLoss(ignore_index=255), PIXELS[2:], SOME[2:], None),
    "their sum": (nn.CrossEntropyLoss(ignore_index=255, reduction="sum"), PIXELS, SOME, None),
    "log-likelihood": (nn.NLLLoss(ignore_index=255), PIXELS[2:].log_softmax(1), SOME[2:], None),
    "binary": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]).double()), COLUMN, YES[:, None].double(), None),
    "squares": (nn.MSELoss(), COLUMN, NUMBERS, lambda z, y: (z - y).square().mean()),
    "a function": (functional.mse_loss, COLUMN, NUMBERS, lambda z, y: (z - y).square().mean()),
    "huber": (nn.HuberLoss(delta=0.3), NUMBERS, COLUMN, lambda z, y: nn.HuberLoss(delta=0.3)(z, y[0])),
    "smooth, integers": (nn.SmoothL1Loss(), COLUMN, YES, lambda z, y: nn.SmoothL1Loss()(z[0], y)),
    "absolute, of pixels": (nn.L1Loss(), PIXELS, PIXELS.exp(), None),
    "margins": (nn.MultiMarginLoss(), Z, Y, None),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), Z.log_softmax(1), soft(B, C), None),
    "a mean": (Smoothed(), Z, Y, None),
    "a mean, one by one": (Branching(), Z, Y, None),
    "mixed targets": (mixed, Z, ([Y, Y.flip(0)], 0.3), lambda z, y: None),
    "compiled": (compiled(nn.SmoothL1Loss()), COLUMN, COLUMN.exp(), nn.SmoothL1Loss()),
    "a compiled function": (compiled(huber), Z, Z.exp(), functional.huber_loss),
    "a metric": (torchmetrics.MeanSquaredError().set_dtype(torch.float64), COLUMN, NUMBERS[:, None], nn.MSELoss()),
    "losses already": (lambda z, y: (z - y[:, None]).square(), COLUMN, NUMBERS, None),
}


@pytest.mark.parametrize(("criterion", "logits", "targets", "alone"), CASES.values(), ids=CASES)
def test_criteria_are_as_of_one_sample_at_a_time_and_stay_as_they_are(
    criterion: Any, logits: Any, targets: Any, alone: Any
):
    before = getattr(criterion, "reduction", None)
    loss = per_sample(criterion)
    assert not takes_batch(criterion)
    losses = loss(logits, targets)
    if criterion is mixed:
        expected = 0.3 * CrossEntropy()(logits, Y) + 0.7 * CrossEntropy()(logits, Y.flip(0))
    else:
        rows = [(logits[at : at + 1], targets[at : at + 1]) for at in range(len(logits))]
        expected = torch.stack([(alone or criterion)(*row).reshape(()) for row in rows])
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(loss(logits, targets), losses, rtol=0, atol=0)  # having learnt how to call it
    assert loss(logits.bfloat16(), targets).dtype in (torch.float32, torch.float64)
    if not isinstance(criterion, torchmetrics.Metric):
        assert squared_gradient_norms(loss, logits, targets).shape == losses.shape
    assert getattr(criterion, "reduction", None) == before


class Counting(nn.Module):
    """Keeps a mean of its calls, in place or not, and counts them; its loss is of chance."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.in_place, self.calls = in_place, 0

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        loss = functional.cross_entropy(functional.dropout(x), target)
        self.mean = self.mean.add_(loss) if self.in_place else self.mean + loss
        self.calls += 1
        return loss


@pytest.mark.parametrize("in_place", [False, True])
def test_what_a_criterion_keeps_of_its_calls_is_left_alone(in_place: bool):
    criterion, state = Counting(in_place), torch.get_rng_state()
    loss = per_sample(criterion)
    for _ in range(2):
        assert loss(Z, Y).shape == (B,)
    assert float(criterion.mean) == criterion.calls == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_cross_entropy_of_torch_is_ours_and_ours_stay_what_they_are():
    loss = per_sample(nn.CrossEntropyLoss(torch.ones(3), ignore_index=255, label_smoothing=0.1))
    assert repr(loss) == "CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 1.0, 1.0], ignore_index=255)"
    assert per_sample(loss) is loss


def test_a_weight_that_changes_counts():
    weight = torch.ones(C, dtype=torch.float64)
    loss = per_sample(nn.BCEWithLogitsLoss(pos_weight=weight))
    before = loss(Z, soft(B, C))
    weight.mul_(3)
    assert bool((loss(Z, soft(B, C)) > before).all())


@pytest.mark.parametrize(
    ("criterion", "logits", "targets", "error", "message"),
    [
        (nn.MSELoss(), Z, NUMBERS, ValueError, r"`targets` must have the shape of the `logits`, \(6, 4\), got \(6,\)"),
        (lambda z, y: (z - y).square(), COLUMN, NUMBERS, ValueError, r"must give one loss per sample, .* \(6, 6\)"),
        (lambda z, y: 1.0, Z, Y, TypeError, "must give a tensor, but gave a float"),
        (nn.HuberLoss(), Z, None, TypeError, "`targets` must be a tensor, got a NoneType"),
    ],
)
def test_what_is_no_loss_of_samples(criterion: Any, logits: Any, targets: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        per_sample(criterion)(logits, targets)


def test_functions_of_a_batch_need_one_argument():
    assert takes_batch(lambda batch: batch)
    assert takes_batch(lambda batch, scale=1.0: batch)
    for function in (
        lambda z, y: z,
        lambda *given: given,
        nn.MSELoss(),
        functional.mse_loss,
        torch.add,
        CrossEntropy(),
    ):
        assert not takes_batch(function)
