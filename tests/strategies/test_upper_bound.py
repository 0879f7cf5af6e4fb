import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import UpperBoundImportanceSampling
from lightning_as.strategies import Scores, Selection
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import as_drawn, random_losses, started

N, SIZE = 60, 8


def chosen(strategy: UpperBoundImportanceSampling, values: Tensor, size: int = SIZE, seed: int = 0) -> Selection:
    scores = Scores(losses=values) if strategy.score == "loss" else Scores(bounds=values)
    return strategy.select(as_drawn(strategy, torch.arange(len(values)) % N), scores, size, seeded(seed))


class Oracle:
    """The source's loop, instance by instance, with its own expression of τ."""

    def __init__(self, score: str, tau_form: str, momentum: float) -> None:
        self.score, self.tau_form, self.momentum = score, tau_form, momentum
        self.tau = 0.0

    def shares(self, values: list[float]) -> list[float]:
        s = [v if self.score == "loss" else math.sqrt(v) for v in values]
        return [1 / len(s) if sum(s) == 0 else one / sum(s) for one in s]

    def weights(self, values: list[float]) -> list[float]:
        return [math.inf if g == 0 else 1 / (len(values) * g) for g in self.shares(values)]

    def note(self, values: list[float]) -> None:
        g = self.shares(values)
        u = 1 / len(g)
        rest = 1 - sum((one - u) ** 2 for one in g) / sum(one**2 for one in g)
        new = 1 / math.sqrt(rest) if self.tau_form == "sqrt" else 1 / rest
        self.tau = self.momentum * self.tau + (1 - self.momentum) * new


@pytest.mark.parametrize(("score", "tau_form"), [("bound", "sqrt"), ("loss", "ratio")])
def test_weights_probabilities_and_tau_are_those_of_a_naive_loop(score: Any, tau_form: Any):
    strategy = started(UpperBoundImportanceSampling(score=score, tau_form=tau_form, momentum=0.7), N)
    oracle, generator = Oracle(score, tau_form, 0.7), seeded(1)
    values = double(4.0, 0.0, 1.0, 16.0, 0.25, 1.0)
    positions = chosen(started(UpperBoundImportanceSampling(score=score), N), values, 40_000).positions
    assert p_value(positions, double(*oracle.shares(values.tolist()))) > 1e-3
    for step in range(100):
        values = random_losses(3 * SIZE, generator, step)
        if step == 50:
            values.zero_()
        if step % 3:
            selection = chosen(strategy, values, seed=step)
            expected = double(*oracle.weights(values.tolist()))[selection.positions]
            torch.testing.assert_close(selection.weights, expected, rtol=1e-12, atol=0)
            torch.testing.assert_close(selection.probabilities, 1 / (N * expected), rtol=1e-12, atol=0)
            draw = as_drawn(strategy, selection.positions)._replace(weights=selection.weights)
            strategy.update(draw, values[:SIZE], values[:SIZE])  # which counts nothing
        else:
            values = values[:SIZE]
            strategy.update(as_drawn(strategy, [0, 3, 1, 3, 2, 0, 4, 4]), values + (score == "bound"), values)
        oracle.note(values.tolist())
        assert strategy.metrics()["tau"] == pytest.approx(oracle.tau, rel=1e-12)


def test_candidates_are_drawn_once_tau_is_above_the_threshold_and_draws_may_run_ahead():
    strategy, generator = started(UpperBoundImportanceSampling(presample=4), N), seeded()
    assert strategy.threshold == pytest.approx(7 / 3)
    sharp = double(1, *[0] * (SIZE - 1))  # tau_new = sqrt(8) = 2.83: above 7/3 after 17 steps, 1 - 0.9^17 = 0.833
    sizes = []
    ahead = [strategy.draw(SIZE, generator) for _ in range(3)]
    for _ in range(25):
        draw = ahead.pop(0)
        sizes.append(len(draw.indices))
        if len(draw.indices) > SIZE:
            selection = strategy.select(draw, Scores(bounds=torch.cat([sharp] * 4)), SIZE, generator)
            draw = draw.select(selection.positions)._replace(weights=selection.weights)
        strategy.update(draw, sharp, sharp)
        ahead.append(strategy.draw(SIZE, generator))
    assert sizes == [SIZE] * (17 + 2) + [4 * SIZE] * 6  # two had been drawn before the 17th step, besides its own
    assert strategy.metrics()["active"] == 1
    for _ in range(60):  # equal scores are back to uniform batches
        torch.testing.assert_close(chosen(strategy, double(0.3).expand(24)).weights, torch.ones(SIZE).double())
    assert strategy.metrics()["tau"] == pytest.approx(1.0, abs=0.01)
    assert len(strategy.draw(SIZE, generator).indices) == SIZE


def test_negative_losses_are_refused_as_scores():
    strategy = started(UpperBoundImportanceSampling(score="loss"), N)
    with pytest.raises(ValueError, match=r"`losses` must not be negative .* got -1.0: .* `score='bound'`"):
        chosen(strategy, double(1.0, -1.0))
