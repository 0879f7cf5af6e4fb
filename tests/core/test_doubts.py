import math

import pytest
import torch

from lightning_as.core.doubts import Doubts
from lightning_as.core.levels import LEVELS, doubts_of_levels
from lightning_as.core.persistence import Persistence
from tests.helpers.statistics import double

CPU = torch.device("cpu")


def taught(
    *batches: tuple[list[int], list[float]], size: int = 4, smoothing: float = 0.7
) -> tuple[Doubts, Persistence]:
    doubts, persistence = Doubts(size, smoothing, CPU), Persistence(size, CPU)
    for indices, losses in batches:
        r = torch.full((len(losses),), 1 / size, dtype=torch.float64)
        doubts.learn(torch.tensor(indices), double(*losses), r, persistence)
    return doubts, persistence


def found(doubts: Doubts) -> list[float]:
    return doubts_of_levels(CPU)[0][doubts.levels.long() % LEVELS].tolist()


@pytest.mark.usefixtures("execution")
def test_a_first_visit_counts_whole_and_later_ones_in_part():
    doubts, persistence = taught(([0, 2], [1.0, 0.0]), ([0], [3.0]))
    first, second = 1 - math.exp(-1), 1 - math.exp(-3)
    assert found(doubts)[0] == pytest.approx(0.7 * first + 0.3 * second, rel=0.003)
    assert found(doubts)[2] < 1e-10
    assert doubts.levels.tolist()[1::2] == [0, 0]
    assert persistence.window.tolist() == [1, 3, 0, 0]  # only 1 − exp(−3) is above 0.9


@pytest.mark.usefixtures("execution")
def test_what_seems_hopeless_is_marked_until_it_does_not():
    doubts, persistence = taught(([0, 1], [5.0, 9.0]), ([0, 1], [1.0, 9.0]))
    assert (doubts.levels >= LEVELS).tolist() == [False, True, False, False]
    assert persistence.window.tolist() == [3, 4, 2, 1]


@pytest.mark.usefixtures("execution")
def test_what_is_not_finite_is_left_out_and_of_duplicates_the_last_counts():
    doubts, persistence = taught(([1, 1, 1, 0], [0.2, 9.0, math.nan, math.inf]), ([1, 1], [9.0, 0.1]), smoothing=0.0)
    assert found(doubts)[1] == pytest.approx(1 - math.exp(-0.1), rel=0.003)
    assert doubts.levels.tolist()[0] == 0
    assert persistence.window.tolist() == [2, 4, 2, 1]


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(("loss", "level"), [(0.0, 1), (1e99, 2 * LEVELS - 1)])
def test_the_ends_are_kept(loss: float, level: int):
    assert taught(([0], [loss]))[0].levels.tolist() == [level, 0, 0, 0]


@pytest.mark.parametrize(("index", "losses", "error"), [(0, 2, ValueError), (4, 1, IndexError), (-1, 1, IndexError)])
def test_visits_of_what_is_not_there_are_refused(index: int, losses: int, error: type[Exception]):
    doubts, persistence = taught()
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(error, match=r"for each instance|An instance is not there"):
        doubts.learn(torch.tensor([index]), torch.ones(losses, dtype=torch.float64), one, persistence)
    persistence.window = persistence.window[:2]
    with pytest.raises(ValueError, match="four sums"):
        doubts.learn(torch.tensor([0]), one, one, persistence)
    assert not doubts.levels.any()


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("smoothing", [0.9, 0.999])
def test_small_steps_are_not_lost_in_rounding(smoothing: float):
    doubts, persistence = Doubts(1, smoothing, CPU), Persistence(1, CPU)
    zero, r = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    for loss in [0.7, *[0.2] * 3000]:
        doubts.learn(zero, double(loss), r, persistence)
    assert found(doubts)[0] == pytest.approx(1 - math.exp(-0.2), rel=0.002)
