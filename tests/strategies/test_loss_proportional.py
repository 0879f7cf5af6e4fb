import math
from statistics import fmean
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import LossProportional
from lightning_as.strategies.loss_proportional import biased_weights
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import follow, learn, started

N = 61
TAGS = torch.arange(N) % 3


class Oracle:
    """By loops over the formula; the weights as the authors' reweighting policy computes them."""

    def __init__(self, smoothing: float, exponent: float, k: float) -> None:
        self.smoothing, self.exponent, self.k = smoothing, exponent, k
        self.known: dict[int, float] = {}

    def probabilities(self) -> list[float]:
        mean = fmean(self.known.values()) if self.known else 1.0
        scores = [self.known.get(i, mean) for i in range(N)]
        return [score / math.fsum(scores) if sum(scores) else 1 / N for score in scores]

    def weights(self, indices: list[int], step: int) -> list[float]:
        probabilities = self.probabilities()
        s = [probabilities[i] for i in indices]
        w = [1 / N / score for score in s]
        powers = [weight**self.k for weight in w]
        factor = sum(x * y for x, y in zip(w, s, strict=True)) / sum(x * y for x, y in zip(powers, s, strict=True))
        return [power * factor for power in powers]

    def learn(self, indices: list[int], losses: list[float]) -> None:
        for index, loss in zip(indices, losses, strict=True):
            self.known[index] = (loss + self.smoothing) ** self.exponent


@pytest.mark.parametrize(
    ("smoothing", "exponent", "k"),
    [(0.0, 1.0, 0.5), (0.3, 1.0, 1.0), (0.0, 0.5, -1.0), (0.2, 2.0, 0.0), (0.1, 0.0, 0.5), (0.1, 1.0, -3.5)],
)
def test_agrees_with_loops_over_the_formula(smoothing: float, exponent: float, k: float):
    strategy, oracle = started(LossProportional(smoothing, exponent, k), N), Oracle(smoothing, exponent, k)
    follow(strategy, oracle, 80)
    assert strategy.metrics() == {"seen": len(oracle.known) / N}


def test_the_weights_of_extreme_scores_and_exponents_are_finite():
    relative = double(1e-300, 1.0, 1e5)
    for k in (1.0, 0.5, 0.0, -1.0, -1000.0):
        assert float((biased_weights(relative, k) * relative).sum()) == pytest.approx(3)
    torch.testing.assert_close(biased_weights(relative, -1000.0), double(0, 0, 3e-5))  # only the largest loss


def test_draws_from_a_presample_follow_the_predictions():
    """With a presample of 500 of 61 instances, the distribution of the draws is next to that of the whole."""
    strategy, generator = started(LossProportional(predictor="lstm", presample=500), N), seeded()
    for _ in range(80):
        indices = torch.randint(N, (30,), generator=generator)
        learn(strategy, indices, 0.2 + 2.0 * TAGS[indices].double())
    expected = strategy.probabilities()
    per_bin = torch.zeros(3, dtype=torch.float64).index_add_(0, TAGS, expected)
    assert per_bin[2] > 1.3 * per_bin[1] > 2 * per_bin[0]
    draws = [strategy.draw(64, generator) for _ in range(80)]
    assert p_value(torch.cat([draw.indices for draw in draws]), expected) > 1e-3
    ratio = draws[0].probabilities / expected[draws[0].indices]  # the whole's mean score over the presample's
    torch.testing.assert_close(ratio, ratio[:1].expand(64))
    assert float(ratio[0]) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(draws[0].weights, biased_weights(draws[0].probabilities * N, 0.5))
    assert strategy.metrics()["seen"] == 1
    assert strategy.metrics()["prediction_error"] > 0


@pytest.mark.parametrize(("smoothing", "exponent"), [(0.0, 1.0), (0.5, 2.0)])
def test_predictions_are_clipped_smoothed_and_raised(smoothing: float, exponent: float):
    strategy = started(LossProportional(smoothing, exponent, predictor="lstm", presample=7), N)
    assert strategy._small is not None
    predicted = double(*[-1.0, 0.0, 0.5] * 20, 2.0)
    strategy._small.predict = lambda indices: predicted[indices].clone()
    scores = [(max(value, 1e-6) + smoothing) ** exponent for value in predicted.tolist()]
    torch.testing.assert_close(strategy.probabilities(), double(*scores) / math.fsum(scores))
    assert len(strategy.draw(200, seeded()).indices.unique()) <= 7  # the presample


@pytest.mark.parametrize("predictor", ["history", "lstm"])
@pytest.mark.parametrize("losses", [[0.0] * 4, [1e99, 0.0, 1e-300, 5e-324], [1e300, 1, 2, 3]], ids=str)
def test_large_powers_of_any_losses_leave_a_distribution(predictor: Any, losses: list[float]):
    strategy = started(LossProportional(exponent=60.0, predictor=predictor), Bins(torch.arange(5)))
    for _ in range(3):
        learn(strategy, [0, 1, 2, 3], double(*losses))
        assert float(strategy.probabilities().sum()) == pytest.approx(1)
        draw = strategy.draw(5, seeded())
        assert draw.weights is not None
        assert (draw.probabilities > 0).all()
        assert draw.weights.isfinite().all()
