import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import stratified_uniforms
from lightning_as.core.weighted_distribution import WeightedDistribution
from tests.helpers.statistics import double, p_value, seeded

each_size = pytest.mark.parametrize("size", [1, 2, 97, 1000])


def bins_of(size: int) -> Bins:
    return Bins(torch.arange(size) % min(size, 3))


def mean_of(weights: list[float | None]) -> float:
    known = [weight for weight in weights if weight is not None]
    return fmean(known) if known else 1.0


def naive(weights: list[float | None], unknown: float | None) -> tuple[Tensor, Tensor]:
    unknown = mean_of(weights) if unknown is None else unknown
    filled = [unknown if weight is None else weight for weight in weights]
    total = math.fsum(filled)
    return double(*filled), double(*(weight / total if total else 1 / len(filled) for weight in filled))


def random_weights(size: int, generator: torch.Generator) -> Tensor:
    weights = torch.rand(size, dtype=torch.float64, generator=generator).pow(8)
    return torch.where(torch.rand(size, generator=generator) < 0.2, 0.0, weights)


def changed(size: int, steps: int, unknown: Any = None) -> tuple[WeightedDistribution, list[float | None]]:
    """A distribution after random changes, of duplicates as well, and what they make of a list."""
    distribution, generator = WeightedDistribution(bins_of(size), unknown=unknown), seeded()
    expected: list[float | None] = [None] * size
    for step in range(steps):
        indices, weights = torch.randint(size, (5,), generator=generator), random_weights(5, generator)
        if step % 4 == 3:
            distribution.forget(indices)
        else:
            distribution.set(indices, weights)
        for index, weight in zip(indices.tolist(), weights.tolist(), strict=True):
            expected[index] = None if step % 4 == 3 else weight
    return distribution, expected


@each_size
@pytest.mark.parametrize("unknown", [None, 0.5, 3.0])
def test_agrees_with_its_definition_after_every_change(size: int, unknown: float | None):
    for steps in (0, 1, 4, 300):
        distribution, expected = changed(size, steps, unknown)
        filled, probabilities = naive(expected, unknown)
        torch.testing.assert_close(distribution.probabilities(), probabilities, rtol=1e-12, atol=0)
        assert distribution.known == size - expected.count(None)
        assert distribution.mean == pytest.approx(mean_of(expected), rel=1e-12, abs=0)
        torch.testing.assert_close(distribution.weights(), filled, rtol=1e-12, atol=0)
        some = torch.randint(size, (9,), generator=seeded(1))
        assert torch.equal(distribution.weights(some), distribution.weights()[some])


@each_size
@pytest.mark.parametrize("unknown", [None, 3])
@pytest.mark.parametrize(("steps", "scale"), [(0, 1), *((60, scale) for scale in (1, 0, 1e-300, 1e-120, 1e-30, 1e100))])
def test_draws_follow_the_ratios_and_points_invert_them(size, steps, scale, unknown):
    distribution, expected = changed(size, steps)
    state = distribution.state()  # where it is -1, the weight is unknown
    distribution.load_state(torch.where(state < 0, state, state * scale))
    distribution.unknown = None if unknown is None else unknown * scale
    probabilities, generator = distribution.probabilities(), seeded(2)
    # Weights that are all 0, or next to it, are the uniform distribution.
    ratios = naive(expected, unknown)[1] if scale > 1e-200 else double(1 / size).expand(size)
    torch.testing.assert_close(probabilities, ratios, rtol=1e-12, atol=0)
    cumulative, share = probabilities.cumsum(0), torch.arange(100) / 100
    draw = distribution.draw(torch.rand(100_000, dtype=torch.float64, generator=generator))
    assert torch.equal(draw.bins, bins_of(size).tags.long()[draw.indices])
    assert draw.within is draw.weights is None
    shares = [distribution.draw(stratified_uniforms(100, generator)) for _ in range(300)]
    for one in (draw, *shares):
        torch.testing.assert_close(one.probabilities, probabilities[one.indices], rtol=1e-12, atol=0)
    for one in shares:
        assert (cumulative[one.indices] > share - 1e-12).all()
        assert ((cumulative - probabilities)[one.indices] < share + 1 / 100 + 1e-12).all()
    if size > 1:
        assert p_value(draw.indices, probabilities) > 1e-3
        assert p_value(torch.cat([one.indices for one in shares]), probabilities) > 1e-3
