import numpy as np
import pytest

from lightning_as.core.doubt_levels import DOUBTS, LEVELS, levels_of, weights_of_levels


def test_a_doubt_moves_by_little_and_a_level_to_itself():
    doubts = np.concatenate([np.logspace(-6.9, -0.01, 5000), 1 - np.logspace(-6.9, -0.01, 5000)])
    moved = DOUBTS[levels_of(doubts)]
    assert (np.abs(moved - doubts) <= 0.002 * doubts * (1 - doubts)).all()
    assert levels_of(DOUBTS[1:]).tolist() == list(range(1, LEVELS + 1))
    assert levels_of(np.array([0.0, 1e-300, 1.0])).tolist() == [1, 1, LEVELS]
    assert (np.diff(DOUBTS) > 0).all()


@pytest.mark.parametrize(("gamma", "pressure", "floor"), [(0, 10, 0.0), (0.5, 100, 0.03), (2, 1, 0.0), (0.3, 10, 1.0)])
def test_weights_are_those_of_the_ranks_of_all_instances(gamma: float, pressure: float, floor: float):
    levels = levels_of(np.random.default_rng(0).beta(0.3, 0.5, 2000))
    weights = weights_of_levels(np.bincount(levels, minlength=LEVELS + 1).astype(np.float64), gamma, pressure, floor)
    closeness = [DOUBTS[level] * (1 - DOUBTS[level]) ** gamma for level in levels]
    order = sorted(range(2000), key=lambda i: -closeness[i])
    by_level: dict[int, list[float]] = {}
    for rank, i in enumerate(order):
        by_level.setdefault(int(levels[i]), []).append(pressure ** (-rank / 2000))
    expected = np.array([max(np.mean(by_level[int(level)]), floor) for level in levels])
    assert max(map(len, by_level.values())) > 1
    np.testing.assert_allclose(weights[levels], expected, rtol=1e-9)
    assert weights[0] == 1
    assert weights.min() >= max(floor, 1 / pressure) * (1 - 1e-12)
    assert weights.max() <= 1 + 1e-12


def test_where_nothing_is_known_all_are_kept():
    weights = weights_of_levels(np.zeros(LEVELS + 1), 0.5, 10, 0)
    assert (weights == 1).all()
