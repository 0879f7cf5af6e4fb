import math

import pytest
import torch
from torch import Tensor

from lightning_as.strategies import Scores, StaticImportanceSampling
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import random_losses, started

N = 83


def naive(values: list[float], share: float) -> Tensor:
    total = math.fsum(values)
    return double(*(share / len(values) + (1 - share) * value / total for value in values))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_probabilities_and_the_weights_by_the_formula(share: float):
    values = random_losses(N, seeded())
    expected = naive(values.tolist(), share)
    strategy = started(StaticImportanceSampling(share, values, "independent"), N)  # pyright: ignore[reportArgumentType]
    values.fill_(1)
    strategy.probabilities().fill_(1)  # which are copies
    started(strategy, N)
    assert strategy.reads == frozenset()
    assert strategy.wanted() is None
    torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-12, atol=0)
    draw = strategy.draw(500, seeded(1))
    torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-12, atol=0)
    torch.testing.assert_close(draw.weights, 1 / (N * expected[draw.indices]), rtol=1e-12, atol=0)
    assert strategy.metrics() == {"largest_weight": pytest.approx(1 / (N * float(expected[expected > 0].min())))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_inputs_are_wanted_once_and_their_squared_norms_are_the_constants(dtype: torch.dtype):
    strategy, inputs = started(StaticImportanceSampling(), N), torch.rand(N, 7, generator=seeded(3)).mul(250).to(dtype)
    assert strategy.reads == {"inputs"}
    assert strategy.probabilities().tolist() == [1 / N] * N
    assert torch.equal(strategy.wanted(), torch.arange(N))  # pyright: ignore[reportArgumentType]
    shuffled = torch.randperm(N, generator=seeded(4))
    strategy.refresh(shuffled, Scores(inputs=inputs[shuffled]))
    assert strategy.wanted() is None
    norms = [math.fsum(x * x for x in row) for row in inputs.tolist()]
    torch.testing.assert_close(strategy.probabilities(), naive(norms, 0.5), rtol=1e-12, atol=0)


ENDS = [([0.0] * 3, [1, 1, 1]), ([1e308, 1e308, 0.0], [1, 1, 0]), ([5e-324, 0.0, 0.0], [1, 0, 0])]


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(("values", "expected"), [*ENDS, ([1e-310, 1e308, 1e308], [0, 1, 1])])
def test_constants_at_the_ends_of_float64(share: float, values: list[float], expected: list[float]):
    strategy = started(StaticImportanceSampling(share, values), 3)
    torch.testing.assert_close(strategy.probabilities(), naive(expected, share))
    assert math.isfinite(strategy.metrics()["largest_weight"])  # of those that are drawn


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_does_not_go_with_the_data_or_the_state_is_refused(value: float):
    inputs = torch.ones(N, 2)
    inputs[5, 1] = value
    with pytest.raises(ValueError, match=f"The squared norm of the input 5 is {value}: correct the data, or give"):
        started(StaticImportanceSampling(), N).refresh(torch.arange(N), Scores(inputs=inputs))
    with pytest.raises(ValueError, match="`constants` must be one for each of the 83 instances, got 2"):
        started(StaticImportanceSampling(constants=[1.0, 2.0]), N)
