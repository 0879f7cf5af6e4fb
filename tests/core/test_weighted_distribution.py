from __future__ import annotations

import math
from statistics import fmean

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.weighted_distribution import WeightedDistribution
from tests.helpers.statistics import double, p_value, saved, seeded

SIZES = [1, 2, 97, 1000]


def bins_of(size: int) -> Bins:
    return Bins(torch.arange(size) % min(size, 3))


def naive(weights: list[float | None]) -> list[float]:
    """The distribution, by its definition."""
    known = [weight for weight in weights if weight is not None]
    mean = fmean(known) if known else 1.0
    filled = [mean if weight is None else weight for weight in weights]
    total = math.fsum(filled)
    return [weight / total if total else 1 / len(filled) for weight in filled]


def random_weights(size: int, generator: torch.Generator) -> Tensor:
    """Over many orders, and a fifth of them 0."""
    weights = torch.rand(size, dtype=torch.float64, generator=generator).pow(8)
    weights[torch.rand(size, generator=generator) < 0.2] = 0.0
    return weights


def changed(size: int, steps: int, seed: int = 0) -> tuple[WeightedDistribution, list[float | None]]:
    """A distribution after random changes, and what they make of a list."""
    distribution, oracle, generator = WeightedDistribution(bins_of(size)), [None] * size, seeded(seed)
    expected: list[float | None] = list(oracle)
    for step in range(steps):
        indices = torch.randint(size, (5,), generator=generator)
        if step % 4 == 3:
            distribution.forget(indices)
            for index in indices.tolist():
                expected[index] = None
        else:
            weights = random_weights(5, generator)
            distribution.set(indices, weights)
            for index, weight in zip(indices.tolist(), weights.tolist(), strict=True):
                expected[index] = weight
    return distribution, expected


@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_its_definition_after_every_change(size: int):
    for steps in (0, 1, 4, 300):
        distribution, expected = changed(size, steps)
        probabilities = distribution.probabilities()
        torch.testing.assert_close(probabilities, double(*naive(expected)), rtol=1e-12, atol=0)
        known = [weight for weight in expected if weight is not None]
        assert distribution.known == len(known)
        assert distribution.mean == pytest.approx(fmean(known) if known else 1.0, rel=1e-12, abs=0)
        filled = double(*(distribution.mean if weight is None else weight for weight in expected))
        torch.testing.assert_close(distribution.weights(), filled, rtol=1e-12, atol=0)
        some = torch.randint(size, (9,), generator=seeded(1))
        assert torch.equal(distribution.weights(some), distribution.weights()[some])


def test_by_hand():
    distribution = WeightedDistribution(bins_of(5))
    assert distribution.probabilities().tolist() == [0.2] * 5
    assert (distribution.known, distribution.mean) == (0, 1.0)
    distribution.set(torch.tensor([1, 3]), double(2, 6))
    assert (distribution.known, distribution.mean) == (2, 4.0)
    torch.testing.assert_close(distribution.probabilities(), double(4, 2, 4, 6, 4) / 20)
    distribution.forget(torch.tensor([3, 3]))
    assert (distribution.known, distribution.mean) == (1, 2.0)
    torch.testing.assert_close(distribution.probabilities(), double(2, 2, 2, 2, 2) / 10)


def test_of_duplicates_the_last_counts():
    distribution = WeightedDistribution(bins_of(4))
    distribution.set(torch.tensor([2, 0, 2, 2, 0]), double(5, 1, 7, 3, 4))
    assert distribution.weights().tolist() == [4, 3.5, 3, 3.5]
    assert distribution.known == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 60])
def test_draws_follow_the_law_and_carry_its_probabilities(size: int, steps: int):
    distribution, _ = changed(size, steps)
    draw = distribution.draw(100_000, seeded(2))
    probabilities = distribution.probabilities()
    if size > 1:
        assert p_value(draw.indices, probabilities) > 1e-3
    torch.testing.assert_close(draw.probabilities, probabilities[draw.indices], rtol=1e-12, atol=0)
    assert torch.equal(draw.bins, bins_of(size).tags.long()[draw.indices])
    assert draw.within is None
    assert draw.weights is None


@pytest.mark.parametrize("weight", [0.0, 1e-300, 5e-324])
@pytest.mark.parametrize("known", [1, 3, 8])
def test_weights_that_are_all_zero_or_next_to_it_are_the_uniform_law(weight: float, known: int):
    distribution = WeightedDistribution(bins_of(8))
    distribution.set(torch.arange(known), torch.full((known,), weight, dtype=torch.float64))
    assert distribution.probabilities().tolist() == [1 / 8] * 8
    draw = distribution.draw(20_000, seeded())
    assert draw.probabilities.unique().tolist() == [1 / 8]
    assert p_value(draw.indices, distribution.probabilities()) > 1e-3
    distribution.set(torch.tensor([5]), double(1))  # and it comes back
    assert (
        float(distribution.probabilities()[5]) > 0.5 if known == 8 else float(distribution.probabilities()[5]) > 1 / 8
    )


@pytest.mark.parametrize("scale", [1e-120, 1e-30, 1e100])
def test_only_ratios_count(scale: float):
    distribution, other = WeightedDistribution(bins_of(200)), WeightedDistribution(bins_of(200))
    indices, weights = torch.randperm(200, generator=seeded())[:150], random_weights(150, seeded(1))
    distribution.set(indices, weights)
    other.set(indices, weights * scale)
    torch.testing.assert_close(other.probabilities(), distribution.probabilities(), rtol=1e-12, atol=0)
    draw = other.draw(1000, seeded(2))
    torch.testing.assert_close(draw.probabilities, distribution.probabilities()[draw.indices], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 61])
def test_a_restored_state_goes_on_with_equal_draws(size: int, steps: int):
    distribution, expected = changed(size, steps)
    state = saved(distribution.state())
    assert (state == -1).tolist() == [weight is None for weight in expected]
    restored = WeightedDistribution(bins_of(size))
    restored.set(torch.tensor([0]), double(9))  # which the state must replace
    restored.load_state(state)
    assert (restored.known, restored.mean) == (distribution.known, distribution.mean)
    generators = seeded(3), seeded(3)
    for step in range(30):
        draw, other = distribution.draw(20, generators[0]), restored.draw(20, generators[1])
        assert torch.equal(draw.indices, other.indices)
        assert torch.equal(draw.probabilities, other.probabilities)
        weights = random_weights(20, seeded(step))
        for one in (distribution, restored):
            one.set(draw.indices, weights)
            one.forget(draw.indices[:3])
        assert torch.equal(distribution.probabilities(), restored.probabilities())


def test_an_unknown_weight_may_count_as_another_than_the_mean():
    distribution = WeightedDistribution(bins_of(4), unknown=3.0)
    assert distribution.probabilities().tolist() == [0.25] * 4
    distribution.set(torch.tensor([1, 2]), double(1, 1))
    torch.testing.assert_close(distribution.probabilities(), double(3, 1, 1, 3) / 8)
    distribution.unknown = 0.5
    torch.testing.assert_close(distribution.probabilities(), double(0.5, 1, 1, 0.5) / 3)
    draw = distribution.draw(30_000, seeded())
    assert p_value(draw.indices, distribution.probabilities()) > 1e-3
    torch.testing.assert_close(draw.probabilities, distribution.probabilities()[draw.indices])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [None, 0.0])
def test_stratified_draws_are_one_of_each_equal_share_of_the_law(size: int, weight: float | None):
    distribution, _ = changed(size, 60)
    if weight is not None:
        distribution.set(torch.arange(size), torch.full((size,), weight, dtype=torch.float64))
    probabilities, generator = distribution.probabilities(), seeded(4)
    cumulative = probabilities.cumsum(0)
    all_of_them = []
    for _ in range(300):
        draw = distribution.draw(100, generator, stratified=True)
        share = torch.arange(100) / 100
        assert (cumulative[draw.indices] > share - 1e-12).all()
        assert ((cumulative - probabilities)[draw.indices] < share + 1 / 100 + 1e-12).all()
        torch.testing.assert_close(draw.probabilities, probabilities[draw.indices], rtol=1e-12, atol=0)
        all_of_them.append(draw.indices)
    if size > 1:
        assert p_value(torch.cat(all_of_them), probabilities) > 1e-3
