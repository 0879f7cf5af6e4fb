import math

import pytest
import torch
from torch import Tensor

from lightning_as.core.levels import LEVELS, doubts_of_levels, levels_at, numbers_of_levels, weights_of_levels
from tests.helpers.statistics import double, seeded

CPU = torch.device("cpu")


def test_doubts_and_numbers_are_kept_to_a_seventh_of_a_percent():
    places = torch.linspace(-24, 24, 100_003, dtype=torch.float64)
    levels = levels_at(places).long()
    assert int(levels.min()) == 1
    assert int(levels.max()) == LEVELS - 1
    for kept, exact in (
        (doubts_of_levels(CPU)[0], places.sigmoid()),
        (doubts_of_levels(CPU)[1], places.neg().sigmoid()),
        (numbers_of_levels(CPU), places.exp()),
    ):
        torch.testing.assert_close(kept[levels], exact, rtol=0.0015, atol=0)


def test_a_level_is_its_own_nearest_and_beyond_the_ends_there_are_none():
    doubts, rest = doubts_of_levels(CPU)[:, 1:]
    every = torch.arange(1, LEVELS, dtype=torch.int16)
    assert torch.equal(levels_at(doubts.log() - rest.log()), every)
    assert torch.equal(levels_at(numbers_of_levels(CPU)[1:].log()), every)
    ends = levels_at(double(-math.inf, -25, 25, math.inf))
    assert ends.tolist() == [1, 1, LEVELS - 1, LEVELS - 1]


def test_what_rounding_adds_at_each_visit_stays_small_and_has_no_direction():
    generator, exact = seeded(), torch.full((1000,), 0.5, dtype=torch.float64)
    level, (doubts, rest) = levels_at(torch.zeros(1000, dtype=torch.float64)), doubts_of_levels(CPU)
    for visit in range(60):
        found = torch.rand(1000, dtype=torch.float64, generator=generator) * 10.0 ** -(visit // 10)
        exact = 0.7 * exact + 0.3 * found
        d, r = 0.7 * doubts[level.long()] + 0.3 * found, 0.7 * rest[level.long()] + 0.3 * (1 - found)
        level = levels_at(d.log() - r.log())
        error = doubts[level.long()] / exact - 1
        assert float(error.abs().max()) < 0.0015 * (visit + 1)
    assert float(error.abs().max()) < 0.01
    assert abs(float(error.mean())) < 3 * float(error.std()) / 1000**0.5


def ranked(levels: list[int], scores: dict[int, float], pressure: float) -> dict[int, float]:
    """Instance after instance: the mean weight over the ranks of all that are equal; unknown ones have all ranks."""
    falling = [pressure ** (-rank / len(levels)) for rank in range(len(levels))]
    order = sorted((level for level in levels if level), key=lambda level: -scores[level])
    weights = {0: sum(falling) / len(levels)}
    for level in set(levels) - {0}:
        ranks = [rank for rank, other in enumerate(order) if scores[other] == scores[level]]
        weights[level] = sum(falling[rank] for rank in ranks) / len(ranks)
    return weights


@pytest.mark.parametrize("pressure", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("levels", [[3, 3, 7, 9, 0, 9, 1, 8], [0, 0, 0], [5] * 4, [2, 0, 6]])
def test_weights_fall_with_the_rank_and_equal_ones_share(levels: list[int], pressure: float):
    scores = double(*(float(level % 7) for level in range(10)))  # 1 and 8 are equal, 2 and 9, 0 and 7
    counts = torch.bincount(torch.tensor(levels), minlength=10)
    found: Tensor = weights_of_levels(counts, scores, pressure)
    for level, weight in ranked(levels, dict(enumerate(scores.tolist())), pressure).items():
        assert float(found[level]) == pytest.approx(weight, rel=1e-8 if pressure == 1 else 1e-12)
