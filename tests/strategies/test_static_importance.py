from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies import Scores, StaticImportanceSampling
from tests.helpers.numbers import double, random_losses, seeded

N = 83


def started(size: int = N, **options: Any) -> StaticImportanceSampling:
    strategy = StaticImportanceSampling(**options)
    strategy.start(Bins.single(size))
    return strategy


def naive(values: list[float], share: float) -> Tensor:
    total = math.fsum(values)
    return double(*(share / len(values) + (1 - share) * value / total for value in values))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_probabilities_and_the_weights_by_the_formula(share: float):
    values = random_losses(N, seeded())
    strategy = started(uniform_share=share, constants=values.tolist())
    assert strategy.reads == frozenset()
    assert strategy.wanted() is None
    expected = naive(values.tolist(), share)
    torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-12, atol=0)
    draw = strategy.draw(500, seeded(1))
    torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-12, atol=0)
    torch.testing.assert_close(draw.weights, 1 / (N * expected[draw.indices]), rtol=1e-12, atol=0)
    largest = max(1 / (N * p) for p in expected.tolist() if p)
    assert strategy.metrics() == {"largest_weight": pytest.approx(largest)}


def test_the_inputs_are_wanted_once_and_their_squared_norms_are_the_constants():
    strategy, inputs = started(), torch.randn(N, 7, generator=seeded(3)) * 3
    assert strategy.reads == {"inputs"}
    assert strategy.probabilities().tolist() == [1 / N] * N
    assert torch.equal(strategy.wanted(), torch.arange(N))  # pyright: ignore[reportArgumentType]
    shuffled = torch.randperm(N, generator=seeded(4))
    strategy.refresh(shuffled, Scores(inputs=inputs[shuffled]))
    assert strategy.wanted() is None
    norms = [math.fsum(x * x for x in row) for row in inputs.tolist()]
    torch.testing.assert_close(strategy.probabilities(), naive(norms, 0.5), rtol=1e-12, atol=0)
    restored = started()
    restored.load_state_dict(strategy.state_dict())
    assert restored.wanted() is None
    assert torch.equal(restored.probabilities(), strategy.probabilities())


def test_inputs_that_are_bytes_do_not_overflow():
    strategy = started(2, uniform_share=0.0)
    strategy.refresh(torch.arange(2), Scores(inputs=torch.tensor([[200, 0], [100, 100]], dtype=torch.uint8)))
    torch.testing.assert_close(strategy.probabilities(), double(2, 1) / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_refused(value: float):
    inputs = torch.ones(N, 2)
    inputs[5, 1] = value
    with pytest.raises(ValueError, match=f"The squared norm of the input 5 is {value}: correct the data, or give"):
        started().refresh(torch.arange(N), Scores(inputs=inputs))


def test_what_is_given_and_what_is_told_are_copies():
    values = random_losses(N, seeded())
    strategy = started(constants=values)
    expected = strategy.probabilities()
    values.fill_(1)
    strategy.state_dict()["constants"].fill_(1)
    strategy.probabilities().fill_(1)
    strategy.start(Bins.single(N))
    assert torch.equal(strategy.probabilities(), expected)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, 0.0], [1, 1, 1]),
        ([1e308, 1e308, 0.0], [1, 1, 0]),
        ([5e-324, 0.0, 0.0], [1, 0, 0]),
        ([1e-310, 1e308, 1e308], [0, 1, 1]),
    ],
)
def test_constants_at_the_ends_of_float64(share: float, values: list[float], expected: list[float]):
    strategy = started(3, uniform_share=share, constants=values)
    torch.testing.assert_close(strategy.probabilities(), naive(expected, share))
    draw = strategy.draw(1000, seeded())
    assert draw.weights is not None
    assert torch.isfinite(draw.weights).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uniform_share": -0.1}, r"`uniform_share` must be in \[0, 1\], got -0.1"),
        ({"uniform_share": 1.1}, r"`uniform_share` must be in \[0, 1\], got 1.1"),
        ({"constants": []}, r"`constants` must be one number per instance, got the shape \(0,\)"),
        ({"constants": [[1.0]]}, r"`constants` must be one number per instance, got the shape \(1, 1\)"),
        ({"constants": [1.0, -2.0]}, "`constants` must be finite and not negative, got -2.0 at position 1"),
        ({"constants": [math.nan]}, "`constants` must be finite and not negative, got nan at position 0"),
        ({"constants": [1.0, 2.0]}, "`constants` must be one for each of the 83 instances, got 2"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        started(**options)


def test_a_state_of_other_constants_is_refused():
    one, other = (started(3, constants=constants) for constants in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="of other `constants` than those given"):
        other.load_state_dict(one.state_dict())
    assert other.probabilities()[0] > other.probabilities()[2]
