import pytest
import torch
from torch import Tensor

from lightning_as import BinaryCrossEntropy, MeanSquaredError
from tests.helpers.samples import B, classes, normal
from tests.helpers.statistics import double


def naive_binary_cross_entropy(logits: Tensor, targets: Tensor, weights: list[float]) -> Tensor:
    """−w_l y log σ(z) − (1 − y) log(1 − σ(z)), the mean over a sample's entries; (B, L, entries) both."""
    sigmoid, targets = 1 / (1 + (-logits).exp()), targets.double()
    positive = double(*weights).view(-1, 1) * targets * sigmoid.log()
    return (-positive - (1 - targets) * (1 - sigmoid).log()).mean((1, 2))


@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [
        *[(shape, shape) for shape in ((B, 3), (B, 3, 2, 5), (B,), (B, 1, 3, 2))],
        *[((B, 1), (B,)), ((B,), (B, 1)), ((B, 1, 3, 2), (B, 3, 2))],  # a single label needs no dimension
    ],
    ids=str,
)
def test_binary_cross_entropy_and_squares_are_their_formulas(shape: tuple[int, ...], target_shape: tuple[int, ...]):
    labels = 3 if shape[1:2] == (3,) else 1
    integers, factors = classes(*target_shape, count=2), [0.5, 3.0, 0.0][:labels]
    logits = normal(*shape)
    for targets in (integers, integers.bool(), normal(*target_shape, seed=3).sigmoid()):
        rows = logits.reshape(B, labels, -1), targets.reshape(B, labels, -1)
        for weight, each in ((None, [1.0] * labels), (2.5, [2.5] * labels), (factors, factors)):
            losses = BinaryCrossEntropy(weight)(logits, targets)
            torch.testing.assert_close(losses, naive_binary_cross_entropy(*rows, each), rtol=1e-12, atol=1e-14)
    if shape != (B, 1, 3, 2) or target_shape == shape:
        targets = normal(*target_shape, seed=1)
        expected = (logits.reshape(B, -1) - targets.reshape(B, -1)).square().mean(1)
        torch.testing.assert_close(MeanSquaredError()(logits, targets), expected, rtol=1e-12, atol=1e-14)
