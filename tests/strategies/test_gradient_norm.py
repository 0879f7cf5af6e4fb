from __future__ import annotations

import math
from statistics import fmean

import pytest

from lightning_as.strategies import GradientNormSampling
from tests.helpers.statistics import double
from tests.helpers.strategies import follow, learn, started

N = 61


class Oracle:
    """By loops, with the batch in which each norm was found."""

    def __init__(self, constant: float, staleness: int | None, warm_up: float) -> None:
        self.constant, self.staleness, self.warm_up = constant, staleness, warm_up
        self.found: dict[int, tuple[int, float]] = {}
        self.now = self.warm = 0

    def learn(self, indices: list[int], bounds: list[float]) -> None:
        self.now += 1
        for index, bound in zip(indices, bounds, strict=True):
            self.found[index] = (self.now, math.sqrt(bound) + self.constant)

    def good(self) -> dict[int, float]:
        """That of the last batch is 1 old."""
        oldest = -math.inf if self.staleness is None else self.now + 1 - self.staleness
        return {index: omega for index, (batch, omega) in self.found.items() if batch >= oldest}

    def probabilities(self) -> list[float]:
        good = self.good()
        if not len(good) / N > self.warm_up:
            return [1 / N] * N
        self.warm += 1
        mean = fmean(good.values())
        omegas = [good.get(index, mean) for index in range(N)]
        total = math.fsum(omegas)
        return [omega / total if total else 1 / N for omega in omegas]

    def weights(self, indices: list[int], step: int) -> list[float]:
        probabilities = self.probabilities()
        return [1 / (N * probabilities[index]) for index in indices]


@pytest.mark.parametrize("constant", [0.0, 0.1, 10.0])
@pytest.mark.parametrize(("staleness", "warm_up"), [(None, 0.1), (1, 0.0), (3, 0.1), (10, 0.5)])
def test_agrees_with_loops(constant: float, staleness: int | None, warm_up: float):
    strategy = started(GradientNormSampling(constant, staleness, warm_up), N)
    oracle = Oracle(constant, staleness, warm_up)
    follow(strategy, oracle, 80)
    assert oracle.warm > 60
    good = oracle.good()
    assert strategy.metrics()["usable"] == pytest.approx(len(good) / N)
    assert strategy.metrics()["gradient_norm"] == pytest.approx(fmean(good.values()) - constant, abs=1e-9)


def test_a_norm_is_good_for_so_many_batches_and_renewed_by_another_visit():
    strategy = started(GradientNormSampling(0.0, staleness=2, warm_up=0.0), 4)
    usable = []
    for indices in ([0, 1], [1], [2], [2], [3, 3]):
        learn(strategy, indices, double(*[1.0] * len(indices)))
        usable.append(4 * strategy.metrics()["usable"])
    assert usable == [2, 2, 2, 1, 2]
    for indices in ([0, 1], [2, 3]):  # a batch without a finite bound ages them, too
        learn(strategy, indices, double(math.nan, math.inf))
    assert strategy.metrics() == {"usable": 0, "gradient_norm": 0}


def test_sampling_is_uniform_until_more_than_the_share_is_known():
    strategy = started(GradientNormSampling(warm_up=0.2), 10)
    learn(strategy, [0, 1], double(1, 100))
    assert strategy.probabilities().tolist() == [0.1] * 10
    learn(strategy, [2], double(1))
    assert float(strategy.probabilities()[1]) > 0.2


@pytest.mark.parametrize(("saved", "loaded"), [(None, 4), (4, None), (8, 4)])
def test_a_state_of_another_staleness_is_refused(saved: int | None, loaded: int | None):
    one, other = (started(GradientNormSampling(staleness=value), 9) for value in (saved, loaded))
    for index in range(9):
        learn(one, [index], double(1))
    with pytest.raises(ValueError, match=f"is of another `staleness` than {loaded}: use the one it was saved with"):
        other.load_state_dict(one.state_dict())
