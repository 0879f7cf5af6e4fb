import math
from statistics import fmean

import pytest

from lightning_as.strategies import GradientNormSampling
from tests.helpers.statistics import double
from tests.helpers.strategies import follow, learn, started

N = 61


class Oracle:
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
    figures = {"usable": len(oracle.good()) / N, "gradient_norm": fmean(oracle.good().values()) - constant}
    assert strategy.metrics() == pytest.approx(figures, abs=1e-9)


def test_norms_count_once_more_than_the_share_is_known_and_a_batch_without_a_finite_one_ages_them_too():
    strategy = started(GradientNormSampling(warm_up=0.2), 10)
    for index, uniform in enumerate([True, True, False]):
        learn(strategy, [index], double(1 + 99 * index))
        assert (strategy.probabilities().tolist() == [0.1] * 10) == uniform
    strategy = started(GradientNormSampling(0.0, staleness=2, warm_up=0.0), 4)
    for indices, bounds in (([3, 3], [1, 1]), ([0, 1], [math.nan, math.inf]), ([2, 3], [math.nan, math.inf])):
        learn(strategy, indices, double(*bounds))
    assert strategy.metrics() == {"usable": 0, "gradient_norm": 0}
