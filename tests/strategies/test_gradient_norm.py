from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies import GradientNormSampling
from tests.helpers.numbers import as_drawn, double, random_losses, seeded

N = 61


def started(bins: Bins | None = None, **options: Any) -> GradientNormSampling:
    strategy = GradientNormSampling(**options)
    strategy.start(Bins(torch.arange(N) % 3) if bins is None else bins)
    return strategy


def learn(strategy: GradientNormSampling, indices: Tensor | list[int], bounds: Tensor) -> None:
    strategy.update(as_drawn(strategy.bins, indices), torch.ones_like(bounds), bounds)


class Oracle:
    """By loops, with the batch in which each norm was found."""

    def __init__(self, constant: float, staleness: int | None, warm_up: float) -> None:
        self.constant, self.staleness, self.warm_up = constant, staleness, warm_up
        self.found: dict[int, tuple[int, float]] = {}
        self.now = 0

    def learn(self, indices: list[int], bounds: list[float]) -> None:
        self.now += 1
        for index, bound in zip(indices, bounds, strict=True):
            self.found[index] = (self.now, math.sqrt(bound) + self.constant)

    def good(self) -> dict[int, float]:
        """That of the last batch is 1 old."""
        oldest = -math.inf if self.staleness is None else self.now + 1 - self.staleness
        return {index: omega for index, (batch, omega) in self.found.items() if batch >= oldest}

    def probabilities(self) -> Tensor:
        good = self.good()
        if not len(good) / N > self.warm_up:
            return double(*[1 / N] * N)
        mean = fmean(good.values())
        omegas = [good.get(index, mean) for index in range(N)]
        total = math.fsum(omegas)
        return double(*(omega / total if total else 1 / N for omega in omegas))


@pytest.mark.parametrize("constant", [0.0, 0.1, 10.0])
@pytest.mark.parametrize(("staleness", "warm_up"), [(None, 0.1), (1, 0.0), (3, 0.1), (10, 0.5)])
def test_agrees_with_loops(constant: float, staleness: int | None, warm_up: float):
    strategy = started(constant=constant, staleness=staleness, warm_up=warm_up)
    oracle, generator = Oracle(constant, staleness, warm_up), seeded()
    duplicates = warm = 0
    for step in range(80):
        expected = oracle.probabilities()
        torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-11, atol=0)
        draw = strategy.draw(8, generator)
        duplicates += 8 - len(draw.indices.unique())
        warm += float(expected.std()) > 0
        torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-11, atol=0)
        torch.testing.assert_close(draw.weights, 1 / (N * expected[draw.indices]), rtol=1e-11, atol=0)
        bounds = random_losses(8, generator, step).square()
        learn(strategy, draw.indices, bounds)
        oracle.learn(draw.indices.tolist(), bounds.tolist())
        good = oracle.good()
        assert strategy.metrics()["usable"] == pytest.approx(len(good) / N)
        assert strategy.metrics()["gradient_norm"] == pytest.approx(fmean(good.values()) - constant, abs=1e-9)
    assert duplicates > 10
    assert warm > 30


def test_the_weight_is_the_mean_over_the_own_by_hand():
    strategy = started(Bins([0] * 4), constant=1.0, warm_up=0.0)
    learn(strategy, [2, 0, 2], double(100, 9, 4))
    # ω = 4, ?, 3, ?; the unknown count as the mean, 3.5.
    torch.testing.assert_close(strategy.probabilities(), double(4, 3.5, 3, 3.5) / 14)
    draw = strategy.draw(30, seeded())
    torch.testing.assert_close(draw.weights, (3.5 / double(4, 3.5, 3, 3.5))[draw.indices])
    assert strategy.metrics() == {"usable": 0.5, "gradient_norm": 2.5}


def test_a_norm_is_good_for_so_many_batches_and_renewed_by_another_visit():
    strategy = started(Bins([0] * 4), constant=0.0, staleness=2, warm_up=0.0)
    usable = []
    for indices in ([0, 1], [1], [2], [2], [3, 3]):
        learn(strategy, indices, torch.ones(len(indices), dtype=torch.float64))
        usable.append(4 * strategy.metrics()["usable"])
    assert usable == [2, 2, 2, 1, 2]
    for indices in ([0, 1], [2, 3]):  # a batch without a finite bound ages them, too
        learn(strategy, indices, double(math.nan, math.inf))
    assert strategy.metrics() == {"usable": 0, "gradient_norm": 0}
    assert strategy.skipped == 4


def test_sampling_is_uniform_until_more_than_the_share_is_known():
    strategy = started(Bins([0] * 10), warm_up=0.2)
    learn(strategy, [0, 1], double(1, 100))
    assert strategy.probabilities().tolist() == [0.1] * 10
    learn(strategy, [2], double(1))
    assert float(strategy.probabilities()[1]) > 0.2


@pytest.mark.parametrize(("saved", "loaded"), [(None, 4), (4, None), (8, 4)])
def test_a_state_of_another_staleness_is_refused(saved: int | None, loaded: int | None):
    strategy = started(staleness=saved)
    for index in range(9):
        learn(strategy, [index], double(1))
    with pytest.raises(ValueError, match=f"is of another `staleness` than {loaded}: use the one it was saved with"):
        started(staleness=loaded).load_state_dict(strategy.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"constant": -1}, ValueError, "`constant` must be finite and not negative, got -1"),
        ({"constant": math.nan}, ValueError, "`constant` must be finite and not negative, got nan"),
        ({"staleness": 0}, ValueError, "`staleness` must be at least 1 batches, or None for .*, got 0"),
        ({"staleness": 1.5}, TypeError, r"`staleness` must be an integer number of batches, or None .*, got 1\.5"),
        ({"warm_up": 1.0}, ValueError, r"`warm_up` must be in \[0, 1\), got 1\.0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        GradientNormSampling(**options)
