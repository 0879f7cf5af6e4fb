import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution, GradientBinDistribution, invert
from tests.helpers.statistics import double

SIZES, START = [2, 3, 5], double(0.3, 0.5, 0.2)
SUMS, MEANS = ["sum", "sum_over_q"], ["mean", "second_moment"]
ROOTS = double(2 * math.sqrt(2), 3)  # of means 2 and 1, times sizes 2 and 3


def window(distribution: GradientBinDistribution) -> None:
    """Two batches: bin 0 has Ĝ = 2 twice, with q = 1/2 and 1/4; bin 1 has Ĝ = 1 with q = 1/2; bin 2 is not drawn."""
    distribution.update(torch.tensor([0, 1]), double(2, 1), double(0.5, 0.5))
    distribution.update(torch.tensor([0]), double(2), double(0.25))


def check(distribution: GradientBinDistribution, expected: Tensor) -> None:
    torch.testing.assert_close(distribution.probabilities, expected, rtol=1e-14, atol=0)


def with_a_fifth(roots: Tensor) -> Tensor:
    """Bins 0 and 1 in proportion to their roots; bin 2, which is not drawn, keeps its fifth."""
    return torch.cat([roots / roots.sum() * 0.8, START[2:]])


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(
    ("statistic", "estimate"),
    [
        ("sum", double(2, 1, 0) / 3),  # roots of 2 + 2, 1, nothing
        ("sum_over_q", double(math.sqrt(12), math.sqrt(2), 0) / (math.sqrt(12) + math.sqrt(2))),  # 4 + 8, 2
        ("mean", with_a_fifth(ROOTS)),
        ("second_moment", with_a_fifth(double(math.sqrt(20), 2))),  # (8 + 32) / 2 and 4
    ],
)
@pytest.mark.parametrize(("smoothing", "base"), [("previous", START), ("original", double(2, 3, 5) / 10)])
def test_one_window_gives_what_is_computed_by_hand(statistic, estimate, smoothing, base):
    distribution = GradientBinDistribution(SIZES, beta=2, delta_p=0.75, statistic=statistic, smoothing=smoothing)
    distribution.set(START)
    window(distribution)
    check(distribution, 0.75 * base + 0.25 * estimate)


@pytest.mark.usefixtures("execution")
def test_a_smoothed_statistic_is_what_is_computed_by_hand_and_none_of_a_sum():
    """Second moments: window 1 has 20 and 4, window 2 has 8 in bin 1, window 3 ∞ and 0/0 in bin 0, 0 in bin 2."""
    distribution = GradientBinDistribution(SIZES, 2, 0.75, "second_moment", smoothing="statistic")
    distribution.set(START)
    nothing = (torch.tensor([], dtype=torch.int64), double(), double())
    window(distribution)
    check(distribution, with_a_fifth(double(math.sqrt(20), 2)))  # the first ones are taken as they are
    distribution.update(torch.tensor([1]), double(2), double(0.5))
    distribution.update(*nothing)
    second = double(math.sqrt(20), math.sqrt(0.75 * 4 + 0.25 * 8))
    check(distribution, with_a_fifth(second))
    distribution.update(torch.tensor([0, 0, 2]), double(1, 0, 0), double(1e-200, 1e-200, 0.5))
    distribution.update(*nothing)
    check(distribution, torch.cat([second / second.sum(), double(0)]))
    for statistic in SUMS:
        with pytest.raises(ValueError, match=f"'{statistic}' grows with the number of draws: use 'mean' or"):
            GradientBinDistribution(SIZES, statistic=statistic, smoothing="statistic")


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_second_moment_is_unbiased_for_the_sum_of_g_over_q(draws):
    """All ways to draw from a bin of three; bin 1 has a second moment of 1, so that P tells that of bin 0."""
    q, bounds = double(0.5, 0.3, 0.2), double(0.4, 1.7, 0.01)
    expectation = 0.0
    for drawn in itertools.product(range(3), repeat=draws):
        distribution = GradientBinDistribution([3, 1], beta=1, delta_p=0.0, statistic="second_moment")
        bins, one = torch.tensor([0] * draws + [1]), double(1)
        distribution.update(bins, torch.cat([bounds[list(drawn)], one]), torch.cat([q[list(drawn)], one]))
        p = distribution.probabilities
        expectation += float(q[list(drawn)].prod() * (p[0] / p[1]).square())
    assert expectation == pytest.approx(float((bounds / q).sum()), rel=1e-12)


@pytest.mark.parametrize("zero", [0.0, 1e-290])
def test_draws_invert_the_cumulative_sum_and_hand_on_what_is_left_of_the_uniform(zero: float):
    p = torch.full((7,), zero, dtype=torch.float64)
    p[[2, 4, 5]] = double(0.25, 0.5, 0.25)
    uniforms = torch.cat([(torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, double(0.0, 2**-53, 1 - 2**-53)])
    bins, left = invert(BinDistribution(p).cumulative, uniforms)
    starts = double(0, 0, 0, 0.25, 0.25, 0.75, 0)
    assert torch.bincount(bins, minlength=7).tolist() == [0, 0, 252, 0, 500, 251, 0]
    torch.testing.assert_close(starts[bins] + left * p[bins], uniforms, rtol=1e-14, atol=0)
    assert ((left >= 0) & (left < 1)).all()
