import math
import random
from statistics import fmean
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import Scores, StratifiedSampling
from lightning_as.strategies.stratified import allocate
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import as_drawn, learn, random_losses, started

TAGS = torch.arange(60) % 3
# Two-dimensional, and bin j spreads j + 1 times as far as the first.
INPUTS = torch.randn(60, 2, generator=seeded()) * (1 + TAGS).unsqueeze(1)


def stratified(**options: Any) -> StratifiedSampling:
    strategy, shuffled = started(StratifiedSampling(**options), 60), torch.randperm(60, generator=seeded(1))
    assert torch.equal(strategy.wanted(), torch.arange(60))  # pyright: ignore[reportArgumentType]
    strategy.refresh(shuffled, Scores(inputs=INPUTS[shuffled]))
    assert strategy.wanted() is None
    return strategy


def naive_allocation(size: int, shares: list[float]) -> list[int]:
    """max(1, c · share) with the c that makes the sum right, found by bisection, and then largest remainders."""
    low, high = 0.0, 2 * size / min(share for share in shares if share > 0)
    for _ in range(400):
        middle = (low + high) / 2
        above = math.fsum(max(1.0, middle * share) for share in shares) > size
        low, high = (low, middle) if above else (middle, high)
    ideal = [max(1.0, low * share) for share in shares]
    counts = [math.floor(value + 1e-9) for value in ideal]
    order = sorted(range(len(shares)), key=lambda j: (-(round(ideal[j] - counts[j], 9)), j))
    for j in order[: size - sum(counts)]:
        counts[j] += 1
    return counts


@pytest.mark.parametrize("seed", range(30))
def test_the_allocation_is_neymans_with_at_least_one_each(seed: int):
    numbers = random.Random(seed)
    strata = numbers.randrange(1, 30)
    size, shares = strata + numbers.randrange(200), random_losses(strata, seeded(seed))
    shares[0] += 0.01
    counts = allocate(size, shares, torch.ones_like(shares))
    assert counts.sum() == size
    assert counts.tolist() == naive_allocation(size, shares.tolist())


def test_strata_lie_inside_bins_and_vary_less():
    strategy, data = stratified(clusters_per_bin=4), INPUTS.double()
    assert strategy.strata.unique().tolist() == list(range(12))
    for tag in range(3):
        own = strategy.strata[tag == TAGS].unique().tolist()
        assert len(own) == 4
        inside = sum((data[strategy.strata == j] - data[strategy.strata == j].mean(0)).square().sum() for j in own)
        assert float(inside) < 0.6 * float((data[tag == TAGS] - data[tag == TAGS].mean(0)).square().sum())
    assert torch.equal(strategy.strata, stratified(clusters_per_bin=4).strata)
    assert not torch.equal(strategy.strata, stratified(clusters_per_bin=4, seed=1).strata)


@pytest.mark.parametrize("clusters", [1, 3])
def test_deviations_and_allocation_by_loops_and_draws_of_that_many_uniformly(clusters: int):
    strategy, deviations, sizes = stratified(clusters_per_bin=clusters), [], []
    for stratum in range(3 * clusters):
        rows = INPUTS.double()[strategy.strata == stratum].tolist()
        mean = [fmean(row[k] for row in rows) for k in range(2)]
        deviations.append(math.sqrt(fmean(math.dist(row, mean) ** 2 for row in rows)))
        sizes.append(len(rows))
    torch.testing.assert_close(strategy.deviations, double(*deviations), rtol=1e-5, atol=1e-7)  # the inputs are float32
    counts = naive_allocation(40, [n * d for n, d in zip(sizes, deviations, strict=True)])
    assert strategy.allocation(40).tolist() == counts
    assert len(set(counts)) > 1
    generator = seeded()
    for _ in range(20):
        draw = strategy.draw(40, generator)
        assert torch.bincount(strategy.strata[draw.indices]).tolist() == counts
        each = double(*(count / 40 / size for count, size in zip(counts, sizes, strict=True)))
        torch.testing.assert_close(draw.probabilities, each[strategy.strata[draw.indices]])
        torch.testing.assert_close(draw.weights, 1 / (60 * draw.probabilities))
    learn(strategy, torch.arange(60), torch.rand(60, dtype=torch.float64, generator=generator))
    assert strategy.allocation(40).tolist() == counts  # from the inputs alone


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_running_deviations_agree_with_loops(momentum: float):
    strategy, generator = stratified(clusters_per_bin=3, deviation="gradients", momentum=momentum), seeded()
    strata, sizes = strategy.strata.tolist(), torch.bincount(strategy.strata).tolist()
    squares: dict[int, float] = {}
    for step in range(100):
        draw = strategy.draw(20, generator)
        if step % 3 == 0:  # any indices, as of a batch that was drawn before: some strata have none
            draw = as_drawn(strategy, torch.randint(60, (5,), generator=generator))
        bounds = random_losses(len(draw.indices), generator)
        strategy.update(draw, torch.ones_like(bounds), bounds)
        for j in range(9):
            own = [bound for i, bound in zip(draw.indices.tolist(), bounds.tolist(), strict=True) if strata[i] == j]
            if own:
                squares[j] = momentum * squares.get(j, fmean(own)) + (1 - momentum) * fmean(own)
        deviations = [math.sqrt(squares.get(j, fmean(squares.values()))) for j in range(9)]
        torch.testing.assert_close(strategy.deviations, double(*deviations), rtol=1e-12, atol=0)
        shares = [n * d for n, d in zip(sizes, deviations, strict=True)]
        assert strategy.allocation(33).tolist() == naive_allocation(33, shares)


def test_the_bins_themselves_need_no_inputs_if_gradients_tell_their_deviation():
    strategy = started(StratifiedSampling(1, "gradients"), 60)
    assert strategy.wanted() is None
    assert torch.equal(strategy.strata, TAGS)
    assert strategy.allocation(10).tolist() == [4, 3, 3]
    assert StratifiedSampling().reads == {"inputs"}
    assert strategy.reads == {"bounds"}


@pytest.mark.parametrize("deviation", ["inputs", "gradients"])
def test_equal_inputs_a_bin_of_one_and_gradients_of_zero(deviation: Any):
    tags = torch.tensor([0] * 9 + [1])
    strategy = started(StratifiedSampling(3, deviation), Bins(tags))
    strategy.refresh(torch.arange(10), Scores(inputs=torch.ones(10, 4)))
    assert strategy.strata.tolist() == tags.tolist()
    strategy.update(strategy.draw(6, seeded()), torch.zeros(6).double(), torch.zeros(6).double())
    assert strategy.allocation(6).tolist() == [5, 1]


def test_what_cannot_be_stratified_is_refused():
    strategy = started(StratifiedSampling(4), 60)
    with pytest.raises(ValueError, match=r"A batch of 11 .* each of 12 strata: .*fewer `clusters_per_bin` \(here 4\)"):
        strategy.draw(11, seeded())
    assert len(strategy.draw(12, seeded()).indices) == 12
    with pytest.raises(ValueError, match=r"An input is not finite, .*: correct the data, or use the bins as strata"):
        strategy.refresh(torch.arange(60), Scores(inputs=INPUTS.log()))
