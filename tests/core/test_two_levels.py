from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.core.points import Points
from lightning_as.core.two_levels import InsideBins, TwoLevels
from lightning_as.core.uniform_in_bins import UniformInBins
from tests.helpers.statistics import double, p_value, seeded
from thesis.everywhere import EverywhereDistribution

pytestmark = pytest.mark.usefixtures("execution")

# The trees are of three levels, and some of their rows are full in part.
TAGS = torch.arange(5).repeat_interleave(torch.tensor([400, 1, 17, 3, 730]))[torch.randperm(1151, generator=seeded())]
N = len(TAGS)
P = double(0.3, 0.2, 0.0, 0.1, 0.4)
ENDS = double(0, 2.0**-53, 0.3, 0.5, 1 - 2**-53)
FLOORS = pytest.mark.parametrize("floor", [0.0, 1e-9, 0.2, 0.999])
LOWER = pytest.mark.parametrize("lower", [UniformInBins, InstanceDistribution, EverywhereDistribution])


def uniforms(size: int, seed: int = 1) -> Tensor:
    return torch.rand(size, dtype=torch.float64, generator=seeded(seed))


def levels_of(lower: type[InsideBins], floor: float) -> tuple[TwoLevels, Tensor]:
    """Two levels, and what r is by its formula."""
    inside, generator = lower(Bins(TAGS)), seeded(1)  # pyright: ignore[reportCallIssue]
    for _ in range(30 if isinstance(inside, InstanceDistribution) else 0):
        indices = torch.randint(N, (100,), generator=generator)
        scores = torch.rand(100, dtype=torch.float64, generator=generator).pow(4)
        inside.update(indices, TAGS[indices], scores.masked_fill(scores < 0.05, 0))
    q = inside.probability(torch.arange(N), TAGS)
    return TwoLevels(Bins(TAGS), BinDistribution(P), inside, floor), (1 - floor) * P[TAGS] * q + floor / N


def check_inversion(levels: TwoLevels, r: Tensor, points: Tensor) -> None:
    """Against sums over all instances, bin after bin; where rounding decides, either neighbour will do."""
    order, draw = Bins(TAGS).order(), levels.draw(points)
    sums = double(*map(float, accumulate(map(Fraction, r[order].tolist()))))
    ends, starts = torch.empty_like(r), torch.empty_like(r)
    ends[order], starts[order] = sums, sums - r[order]
    assert (r[draw.indices] > 0).all()
    assert (points <= ends[draw.indices] + 1e-14).all()
    assert (points >= starts[draw.indices] - 1e-14).all()
    torch.testing.assert_close(draw.probabilities, r[draw.indices], rtol=1e-12, atol=0)


@FLOORS
@LOWER
def test_draws_invert_r_and_carry_it(lower: type[InsideBins], floor: float):
    levels, r = levels_of(lower, floor)
    mass = torch.zeros(5, dtype=torch.float64).index_add_(0, TAGS, r)
    assert float(r.sum()) == pytest.approx(1, rel=1e-12)
    torch.testing.assert_close(levels.probabilities(), r, rtol=1e-12, atol=0)
    torch.testing.assert_close(levels.probability(torch.tensor([7, 7, 150])), r[[7, 7, 150]], rtol=1e-12, atol=0)
    torch.testing.assert_close(levels.bin_probabilities(), mass, rtol=1e-12, atol=0)
    check_inversion(levels, r, torch.cat([uniforms(20_000), ENDS]))
    draw = levels.draw(uniforms(20_000, seed=2))
    assert p_value(draw.indices, r) > 1e-3
    assert torch.equal(draw.bins, TAGS[draw.indices])
    torch.testing.assert_close(draw.within, (r / mass[TAGS])[draw.indices], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@FLOORS
def test_the_scale_of_the_weights_of_a_bin_makes_no_difference(scale: float, floor: float):
    inside, weights = InstanceDistribution(Bins(TAGS)), uniforms(N).pow(8)
    weights *= torch.where(torch.arange(N) % 5 == 0, 0, scale ** (TAGS - 1).double().clamp(max=1))
    weights = weights.index_fill_(0, (TAGS == 1).nonzero()[:, 0], 1).float().double()  # as they are kept
    inside.load(weights)
    q = weights / torch.zeros(5, dtype=torch.float64).index_add_(0, TAGS, weights)[TAGS]
    levels = TwoLevels(Bins(TAGS), BinDistribution(P), inside, floor)
    check_inversion(levels, (1 - floor) * P[TAGS] * q + floor / N, torch.cat([uniforms(20_000), ENDS]))


@pytest.mark.parametrize("floor", [0.0, 0.2])
@LOWER
def test_a_pass_draws_each_instance_as_often_as_expected_within_two(lower: type[InsideBins], floor: float):
    levels, r = levels_of(lower, floor)
    points, generator = Points(N), seeded(4)
    passes = []
    for _ in range(300):
        draws = [levels.draw(points.take(size, generator)).indices for size in (500, 500, 151)]
        passes.append(torch.bincount(torch.cat(draws), minlength=N).double())
    counts = torch.stack(passes)
    assert float((counts - N * r).abs().max()) < 2
    assert float(counts.var(0).max()) < 0.5 + 5 * 0.5 * (2 / 300) ** 0.5  # five standard errors
    errors = (counts.mean(0) - N * r) / (counts.var(0) / 300).sqrt().clamp(min=0.01)
    assert float(errors.abs().max()) < 5


def test_of_equal_instances_a_pass_is_a_permutation():
    bins = Bins(TAGS)
    shares = double(*bins.sizes) / N
    for inside, floor in (
        (UniformInBins(bins), 0.0),
        (InstanceDistribution(bins), 0.0),
        (InstanceDistribution(bins), 0.3),
    ):
        levels, points = TwoLevels(bins, BinDistribution(shares), inside, floor), Points(N)
        for _ in range(20):
            drawn = levels.draw(points.take(N, seeded())).indices
            assert torch.equal(drawn.sort().values, torch.arange(N))


def test_a_distribution_that_moves_within_a_pass_is_followed():
    """Batches by two distributions in turn: over the passes, each draws by its own."""
    levels, r = levels_of(InstanceDistribution, 0.1)
    other_p, points, generator = P.flip(0), Points(N), seeded(5)
    other_r = r + 0.9 * (other_p - P)[TAGS] * levels.inside.probability(torch.arange(N), TAGS)
    drawn = {0: [], 1: []}
    for step in range(600):
        levels.over_bins.set((P, other_p)[step % 2])
        draw = levels.draw(points.take(100, generator))
        torch.testing.assert_close(draw.probabilities, (r, other_r)[step % 2][draw.indices], rtol=1e-11, atol=0)
        drawn[step % 2].append(draw.indices)
    for parity, its in drawn.items():
        assert p_value(torch.cat(its), (r, other_r)[parity]) > 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 6131, 2**16 + 1])
def test_the_ends_of_the_uniforms_stay_in_the_bin(size: int):
    inside, mass = UniformInBins(Bins([1] + [0] * size + [2])), torch.ones(3, dtype=torch.float64)
    drawn, _ = inside.draw(torch.zeros(2, dtype=torch.int64), double(0, 1 - 2**-53), mass, 0.0)
    assert drawn.tolist() == [1, size]
