from __future__ import annotations

import io
import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import LossProportional
from lightning_as.strategies.loss_proportional import biased_weights
from tests.helpers.statistics import p_value

TAGS = torch.arange(61) % 3
NAN, INF = math.nan, math.inf
both = pytest.mark.parametrize("predictor", ["history", "lstm"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64)


def started(tags: Tensor = TAGS, **options: Any) -> LossProportional:
    strategy = LossProportional(**options)
    strategy.start(Bins(tags))
    return strategy


def random_losses(size: int, generator: torch.Generator) -> Tensor:
    """Over many orders, a fifth of them 0."""
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(6) * 4
    losses[torch.rand(size, generator=generator) < 0.2] = 0.0
    return losses


def trained(steps: int, generator: torch.Generator, size: int = 16, **options: Any) -> LossProportional:
    strategy = started(**options)
    for _ in range(steps):
        strategy.update(strategy.draw(size, generator), random_losses(size, generator), zeros(size))
    return strategy


def as_drawn(strategy: LossProportional, indices: list[int]) -> Draw:
    chosen = torch.tensor(indices, dtype=torch.int64)
    assert strategy.bins is not None
    return Draw(chosen, strategy.bins.of(chosen), strategy.probabilities()[chosen])


# --- The weights ---


def naive_weights(scores: list[float], batch: list[int], k: float) -> list[float]:
    """As the authors' reweighting policy computes them."""
    s = [scores[i] for i in batch]
    w = [sum(scores) / len(scores) / score for score in s]
    powers = [weight**k for weight in w]
    factor = sum(x * y for x, y in zip(w, s, strict=True)) / sum(x * y for x, y in zip(powers, s, strict=True))
    return [power * factor for power in powers]


@pytest.mark.parametrize("k", [1.0, 0.5, 0.0, -1.0, -3.5])
def test_the_weights_by_the_formula(k: float):
    generator = seeded()
    for _ in range(20):
        scores = torch.rand(50, dtype=torch.float64, generator=generator) + 1e-3
        batch = torch.randint(50, (12,), generator=generator)
        weights = biased_weights(scores[batch] / scores.mean(), k)
        torch.testing.assert_close(
            weights, double(*naive_weights(scores.tolist(), batch.tolist(), k)), rtol=1e-11, atol=0
        )


def test_the_weights_by_hand():
    """Scores 1, 1, 4, 2 of mean 2: w = 2 for the first and 1/2 for the third."""
    relative = double(1, 4) / 2
    torch.testing.assert_close(biased_weights(relative, 1), double(2, 0.5))
    torch.testing.assert_close(biased_weights(relative, 0), double(0.8, 0.8))  # (2 + 2) / (1 + 4)
    root = math.sqrt(2)
    torch.testing.assert_close(biased_weights(relative, 0.5), double(root, 1 / root) * 4 / (root + 4 / root))


def test_the_weights_of_extreme_scores_and_exponents_are_finite():
    relative = double(1e-300, 1.0, 1e5)
    for k in (1.0, 0.5, 0.0, -1.0, -1000.0):
        weights = biased_weights(relative, k)
        assert torch.isfinite(weights).all()
        assert float((weights * relative).sum()) == pytest.approx(3)
    torch.testing.assert_close(biased_weights(relative, -1000.0), double(0, 0, 3e-5))  # only the largest loss


def test_unbiased_weights_make_the_expected_batch_the_plain_mean():
    """By enumeration: Σ p_i w_i f_i = Σ f_i / N."""
    strategy = trained(30, seeded(), bias_exponent=1.0, smoothing=0.1)
    values, law = torch.rand(len(TAGS), dtype=torch.float64, generator=seeded(1)), strategy.probabilities()
    weights = torch.cat([biased_weights(law[[i]] * len(TAGS), 1.0) for i in range(len(TAGS))])
    assert float((law * weights * values).sum()) == pytest.approx(float(values.mean()), rel=1e-12)
    draw = strategy.draw(100, seeded(2))
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, weights[draw.indices], rtol=1e-12, atol=0)


# --- By the last losses ---


@pytest.mark.parametrize(("smoothing", "exponent"), [(0.0, 1.0), (0.3, 1.0), (0.0, 0.5), (0.2, 2.0), (0.1, 0.0)])
@pytest.mark.parametrize("k", [1.0, 0.5, -1.0])
def test_agrees_with_loops_over_the_formula(smoothing: float, exponent: float, k: float):
    strategy, generator = started(smoothing=smoothing, exponent=exponent, bias_exponent=k), seeded()
    known: dict[int, float] = {}
    duplicates = 0
    for _ in range(100):
        mean = fmean(known.values()) if known else 1.0
        scores = [known.get(i, mean) for i in range(len(TAGS))]
        total = math.fsum(scores)
        law = double(*(score / total if total else 1 / 61 for score in scores))
        torch.testing.assert_close(strategy.probabilities(), law, rtol=1e-10, atol=0)
        draw = strategy.draw(16, generator)
        duplicates += 16 - len(draw.indices.unique())
        torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-10, atol=0)
        assert torch.equal(draw.bins, TAGS[draw.indices])
        assert draw.weights is not None
        if total:
            expected = naive_weights(scores, draw.indices.tolist(), k)
            torch.testing.assert_close(draw.weights, double(*expected), rtol=1e-9, atol=0)
        losses = random_losses(16, generator)
        strategy.update(draw, losses, zeros(16))
        for index, loss in zip(draw.indices.tolist(), losses.tolist(), strict=True):
            known[index] = (loss + smoothing) ** exponent
        assert strategy.metrics() == {"seen": len(known) / 61}
    assert duplicates > 50


def test_an_update_by_hand():
    strategy = started(torch.tensor([0, 0, 1, 1]), smoothing=1.0)
    strategy.update(as_drawn(strategy, [0, 2, 0]), double(9, 3, 1), zeros(3))
    # Scores 2 and 4, and their mean 3 for the others.
    torch.testing.assert_close(strategy.probabilities(), double(2, 3, 4, 3) / 12)


@pytest.mark.parametrize("steps", [0, 1, 50])
def test_draws_follow_the_law(steps: int):
    strategy = trained(steps, seeded(), smoothing=0.01)
    assert p_value(strategy.draw(100_000, seeded(1)).indices, strategy.probabilities()) > 1e-3


# --- By predictions ---


def test_draws_from_a_presample_follow_the_predictions():
    """With a presample of 1,000 of 61 instances, the law of the draws is next to that of the whole."""
    tags = TAGS
    strategy, generator = started(tags, predictor="lstm", presample=1000), seeded()
    losses = 0.2 + 2.0 * tags.double()
    for _ in range(80):
        indices = torch.randint(61, (30,), generator=generator)
        strategy.update(as_drawn(strategy, indices.tolist()), losses[indices], zeros(30))
    law = strategy.probabilities()
    predicted = strategy._small.predict(torch.arange(61))  # pyright: ignore[reportOptionalMemberAccess]
    predicted = predicted.clamp(min=1e-6)
    torch.testing.assert_close(law, predicted / predicted.sum())
    per_bin = torch.zeros(3, dtype=torch.float64).index_add_(0, tags, law)
    assert per_bin[2] > 1.3 * per_bin[1] > 2 * per_bin[0]
    drawn = torch.cat([strategy.draw(64, generator).indices for _ in range(120)])
    assert p_value(drawn, law) > 1e-3
    draw = strategy.draw(64, generator)
    ratio = draw.probabilities / law[draw.indices]  # one number: the whole's mean score over the presample's
    torch.testing.assert_close(ratio, ratio[:1].expand(64))
    assert float(ratio[0]) == pytest.approx(1, abs=0.1)
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, biased_weights(draw.probabilities * 61, 0.5))


def test_a_presample_is_uniform_and_its_weights_are_unbiased():
    strategy = trained(40, seeded(), predictor="lstm", presample=7, bias_exponent=1.0, smoothing=0.2)
    values = torch.rand(len(TAGS), dtype=torch.float64, generator=seeded(1))
    generator, estimates = seeded(2), []
    for _ in range(1000):
        draw = strategy.draw(4, generator)
        assert len(draw.indices.unique()) <= 7
        assert draw.weights is not None
        estimates.append(float((draw.weights * values[draw.indices]).mean()))
    mean, spread = torch.tensor(estimates).mean(), torch.tensor(estimates).std() / math.sqrt(1000)
    assert abs(float(mean - values.mean())) < 4 * float(spread)


@pytest.mark.parametrize(("smoothing", "exponent"), [(0.0, 1.0), (0.5, 2.0)])
def test_predictions_are_clipped_smoothed_and_raised(smoothing: float, exponent: float):
    strategy = started(predictor="lstm", smoothing=smoothing, exponent=exponent)
    small = strategy._small
    assert small is not None
    predicted = double(*[-1.0, 0.0, 0.5] * 20, 2.0)
    small.predict = lambda indices: predicted[indices].clone()
    scores = [(max(value, 1e-6) + smoothing) ** exponent for value in predicted.tolist()]
    torch.testing.assert_close(strategy.probabilities(), double(*scores) / math.fsum(scores))


def test_learning_is_the_predictor_s():
    strategy = trained(9, seeded(), predictor="lstm")
    small = strategy._small
    assert small is not None
    assert strategy.metrics() == {"seen": small.seen / 61, "prediction_error": small.error}
    assert 0 < strategy.metrics()["seen"] <= 1
    assert strategy.metrics()["prediction_error"] > 0


# --- Both ---


@both
def test_draws_ahead_of_updates_carry_what_they_were_drawn_with(predictor: str):
    strategy = trained(10, seeded(), predictor=predictor, smoothing=0.1)
    generator = seeded(1)
    draws = [strategy.draw(8, generator) for _ in range(3)]
    kept = [tuple(None if part is None else part.clone() for part in draw) for draw in draws]
    for draw in draws:
        strategy.update(draw, random_losses(8, generator), zeros(8))
    for draw, parts in zip(draws, kept, strict=True):
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(draw, parts, strict=True))  # pyright: ignore[reportArgumentType]


@both
@pytest.mark.parametrize("steps", [0, 7])
def test_a_restored_state_goes_on_with_equal_draws(predictor: str, steps: int):
    generator = seeded()
    strategy = trained(steps, generator, predictor=predictor)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(predictor=predictor, seed=3), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert restored.metrics() == strategy.metrics()
    for _ in range(12):
        draw, expected = restored.draw(16, other), strategy.draw(16, generator)
        for name in ("indices", "bins", "probabilities", "weights"):
            assert torch.equal(getattr(draw, name), getattr(expected, name))
        losses = random_losses(16, generator)
        random_losses(16, other)
        restored.update(draw, losses.clone(), zeros(16))
        strategy.update(expected, losses, zeros(16))
        assert torch.equal(restored.probabilities(), strategy.probabilities())


@both
@pytest.mark.parametrize(
    "losses", [[0.0] * 4, [INF, NAN, INF, NAN], [1e99, 0.0, 1e-300, 5e-324], [1e300, 1, 2, 3]], ids=str
)
@pytest.mark.parametrize("tags", [torch.zeros(5, dtype=torch.int64), torch.arange(5)], ids=["one bin", "five"])
def test_degenerate_losses_leave_a_law(predictor: str, losses: list[float], tags: Tensor):
    strategy = started(tags, predictor=predictor, exponent=3.0)
    for _ in range(3):
        strategy.update(as_drawn(strategy, [0, 1, 2, 3]), double(*losses), zeros(4))
        strategy.learn(as_drawn(strategy, []), double(), double())
        law = strategy.probabilities()
        assert (law >= 0).all()
        assert float(law.sum()) == pytest.approx(1)
        draw = strategy.draw(8, seeded())
        assert (draw.probabilities > 0).all()
        assert draw.weights is not None
        assert torch.isfinite(draw.weights).all()


@both
def test_a_negative_loss_is_refused(predictor: str):
    strategy = started(predictor=predictor)
    with pytest.raises(ValueError, match=r"`losses` must not be negative to sample by them, got -1\.0"):
        strategy.update(as_drawn(strategy, [0, 1]), double(1, -1), zeros(2))


def test_a_state_of_another_predictor_is_refused():
    with pytest.raises(ValueError, match="is of `predictor='lstm'`, but here it is 'history': use the one"):
        started().load_state_dict(started(predictor="lstm").state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"smoothing": -0.1}, ValueError, "`smoothing` must be finite and not negative, got -0.1"),
        ({"exponent": INF}, ValueError, "`exponent` must be finite and not negative, got inf"),
        (
            {"bias_exponent": 1.5},
            ValueError,
            "`bias_exponent` must be finite and at most 1, which is unbiased; got 1.5",
        ),
        ({"bias_exponent": -INF}, ValueError, "`bias_exponent` must be finite"),
        ({"predictor": "gru"}, ValueError, "`predictor` must be one of history, lstm; got 'gru'"),
        ({"presample": 0}, ValueError, "`presample` must be at least 1 instance, got 0"),
        ({"presample": 2.0}, TypeError, "`presample` must be an integer, got 2.0"),
        ({"seed": True}, TypeError, "`seed` must be an integer, got True"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        LossProportional(**options)
