from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies import LossProportional
from lightning_as.strategies.loss_proportional import biased_weights
from tests.helpers.numbers import as_drawn, double, random_losses, seeded
from tests.helpers.statistics import p_value

N = 61
TAGS = torch.arange(N) % 3


def started(tags: Tensor = TAGS, **options: Any) -> LossProportional:
    strategy = LossProportional(**options)
    strategy.start(Bins(tags))
    return strategy


def naive_weights(scores: list[float], batch: list[int], k: float) -> Tensor:
    """As the authors' reweighting policy computes them."""
    s = [scores[i] for i in batch]
    w = [sum(scores) / len(scores) / score for score in s]
    powers = [weight**k for weight in w]
    factor = sum(x * y for x, y in zip(w, s, strict=True)) / sum(x * y for x, y in zip(powers, s, strict=True))
    return double(*(power * factor for power in powers))


def test_the_weights_of_extreme_scores_and_exponents_are_finite():
    relative = double(1e-300, 1.0, 1e5)
    for k in (1.0, 0.5, 0.0, -1.0, -1000.0):
        weights = biased_weights(relative, k)
        assert torch.isfinite(weights).all()
        assert float((weights * relative).sum()) == pytest.approx(3)
    torch.testing.assert_close(biased_weights(relative, -1000.0), double(0, 0, 3e-5))  # only the largest loss


@pytest.mark.parametrize(
    ("smoothing", "exponent", "k"),
    [(0.0, 1.0, 0.5), (0.3, 1.0, 1.0), (0.0, 0.5, -1.0), (0.2, 2.0, 0.0), (0.1, 0.0, 0.5), (0.1, 1.0, -3.5)],
)
def test_agrees_with_loops_over_the_formula(smoothing: float, exponent: float, k: float):
    strategy, generator = started(smoothing=smoothing, exponent=exponent, bias_exponent=k), seeded()
    known: dict[int, float] = {}
    duplicates = 0
    for step in range(80):
        mean = fmean(known.values()) if known else 1.0
        scores = [known.get(i, mean) for i in range(N)]
        total = math.fsum(scores)
        expected = double(*(score / total if total else 1 / N for score in scores))
        torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-10, atol=0)
        draw = strategy.draw(16, generator)
        duplicates += 16 - len(draw.indices.unique())
        torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-10, atol=0)
        if total:
            weights = naive_weights(scores, draw.indices.tolist(), k)
            torch.testing.assert_close(draw.weights, weights, rtol=1e-9, atol=0)
        losses = random_losses(16, generator, step)
        strategy.update(draw, losses, torch.zeros(16).double())
        for index, loss in zip(draw.indices.tolist(), losses.tolist(), strict=True):
            known[index] = (loss + smoothing) ** exponent
        assert strategy.metrics() == {"seen": len(known) / N}
    assert duplicates > 50


def test_draws_from_a_presample_follow_the_predictions():
    """With a presample of 1,000 of 61 instances, the distribution of the draws is next to that of the whole."""
    strategy, generator = started(predictor="lstm", presample=1000), seeded()
    losses = 0.2 + 2.0 * TAGS.double()
    for _ in range(80):
        indices = torch.randint(N, (30,), generator=generator)
        strategy.update(as_drawn(strategy.bins, indices), losses[indices], torch.zeros(30).double())
    expected = strategy.probabilities()
    per_bin = torch.zeros(3, dtype=torch.float64).index_add_(0, TAGS, expected)
    assert per_bin[2] > 1.3 * per_bin[1] > 2 * per_bin[0]
    draws = [strategy.draw(64, generator) for _ in range(120)]
    assert p_value(torch.cat([draw.indices for draw in draws]), expected) > 1e-3
    ratio = draws[0].probabilities / expected[draws[0].indices]  # the whole's mean score over the presample's
    torch.testing.assert_close(ratio, ratio[:1].expand(64))
    assert float(ratio[0]) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(draws[0].weights, biased_weights(draws[0].probabilities * N, 0.5))
    figures = strategy.metrics()
    assert figures["seen"] == 1
    assert figures["prediction_error"] > 0


def test_a_presample_is_uniform_and_its_weights_are_unbiased():
    """The mean over many draws, within 4 standard errors."""
    strategy = started(predictor="lstm", presample=7, bias_exponent=1.0, smoothing=0.2)
    generator, values = seeded(), torch.rand(N, dtype=torch.float64, generator=seeded(1))
    for step in range(40):
        losses = random_losses(16, generator, step)
        strategy.update(strategy.draw(16, generator), losses, torch.zeros(16).double())
    estimates = []
    for _ in range(1000):
        draw = strategy.draw(4, generator)
        assert draw.weights is not None
        estimates.append(float((draw.weights * values[draw.indices]).mean()))
    assert len(strategy.draw(200, generator).indices.unique()) <= 7
    spread = float(double(*estimates).std()) / math.sqrt(1000)
    assert abs(fmean(estimates) - float(values.mean())) < 4 * spread


@pytest.mark.parametrize(("smoothing", "exponent"), [(0.0, 1.0), (0.5, 2.0)])
def test_predictions_are_clipped_smoothed_and_raised(smoothing: float, exponent: float):
    strategy = started(predictor="lstm", smoothing=smoothing, exponent=exponent)
    assert strategy._small is not None
    predicted = double(*[-1.0, 0.0, 0.5] * 20, 2.0)
    strategy._small.predict = lambda indices: predicted[indices].clone()
    scores = [(max(value, 1e-6) + smoothing) ** exponent for value in predicted.tolist()]
    torch.testing.assert_close(strategy.probabilities(), double(*scores) / math.fsum(scores))


@pytest.mark.parametrize("predictor", ["history", "lstm"])
@pytest.mark.parametrize("losses", [[0.0] * 4, [1e99, 0.0, 1e-300, 5e-324], [1e300, 1, 2, 3]], ids=str)
def test_large_powers_of_any_losses_leave_a_distribution(predictor: Any, losses: list[float]):
    strategy = started(torch.arange(5), predictor=predictor, exponent=60.0)
    for _ in range(3):
        strategy.update(as_drawn(strategy.bins, [0, 1, 2, 3]), double(*losses), torch.zeros(4).double())
        assert float(strategy.probabilities().sum()) == pytest.approx(1)
        draw = strategy.draw(8, seeded())
        assert draw.weights is not None
        assert (draw.probabilities > 0).all()
        assert torch.isfinite(draw.weights).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"smoothing": -0.1}, ValueError, "`smoothing` must be finite and not negative, got -0.1"),
        ({"exponent": math.inf}, ValueError, "`exponent` must be finite and not negative, got inf"),
        ({"bias_exponent": 1.5}, ValueError, "`bias_exponent` must be .* at most 1, which is unbiased; got 1.5"),
        ({"bias_exponent": -math.inf}, ValueError, "`bias_exponent` must be finite"),
        ({"predictor": "gru"}, ValueError, "`predictor` must be one of history, lstm; got 'gru'"),
        ({"presample": 0}, ValueError, "`presample` must be at least 1 instances, got 0"),
        ({"presample": 2.0}, TypeError, "`presample` must be an integer number of instances, got 2.0"),
        ({"seed": True}, TypeError, "`seed` must be an integer, got True"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        LossProportional(**options)


def test_a_state_of_another_predictor_is_refused():
    with pytest.raises(ValueError, match="is of `predictor='lstm'`, but here it is 'history': use the one"):
        started().load_state_dict(started(predictor="lstm").state_dict())
