import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.progress import Progress
from lightning_as.strategies import AdaptiveSampling
from lightning_as.strategies._score_schedule import ScoreSchedule, closeness
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import random_losses, started

SHARES: Any = {0.7: "closeness", 0: "loss", 0.3: "gradient"}


class Training:
    """A schedule in a training of epochs of ten batches, with one loss for all of an epoch."""

    def __init__(self, score: Any, total: int | None = 40) -> None:
        self.schedule, self.progress = ScoreSchedule(score, 0.5, Bins.single(20)), Progress()
        self.progress.plan(total, 10)

    def epoch(self, loss: float = 1.0, batches: int = 10) -> list[str]:
        """The score of each batch; the draws are not uniform, and their estimate of the mean loss is `loss`."""
        self.progress.start_epoch()
        self.schedule.begin_epoch(self.progress)
        found = []
        for _ in range(batches):
            found.append(self.schedule.present)
            r = double(0.25, 0.01)
            losses = loss * 20 * r * double(0.5, 1.5)
            draw = Draw(torch.tensor([0, 19]), torch.tensor([0, 0]), r)
            self.schedule.learn(draw, losses, losses, self.progress)
        return found


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_closeness_is_the_gradient_of_the_generalised_cross_entropy(gamma: float):
    margins = torch.linspace(-12, 12, 49, dtype=torch.float64, requires_grad=True)
    v = margins.sigmoid()
    ((1 - v.pow(gamma)) / gamma).sum().backward()
    assert margins.grad is not None
    found = closeness(-torch.nn.functional.logsigmoid(margins.detach()), gamma)
    torch.testing.assert_close(found, -margins.grad, rtol=1e-9, atol=0)
    assert found.argmax() == (v - gamma / (1 + gamma)).abs().argmin()


def test_closeness_of_extreme_losses_and_without_gamma():
    losses = double(0, 1e-20, 1, 800, 1e100)
    assert closeness(losses, 0.0).tolist() == pytest.approx([0, 1e-20, 1 - math.exp(-1), 1, 1], rel=1e-12)
    assert closeness(losses, 1.0).tolist() == pytest.approx([0, 1e-20, math.exp(-1) - math.exp(-2), 0, 0], rel=1e-12)


@pytest.mark.parametrize("score", [SHARES, {"0.3": "gradient", "0": "loss", "0.7": "closeness"}])
def test_shares_of_the_training_count_batches_of_whole_epochs(score: Any):
    training = Training(score)
    assert training.epoch(batches=7) == ["loss"] * 7  # is cut short, and counts as a whole one
    assert training.epoch() == ["loss"] * 2 + ["gradient"] * 8
    assert training.epoch() == ["gradient"] * 8 + ["closeness"] * 2
    assert training.epoch() == ["closeness"] * 10
    training.progress.reset()
    assert training.epoch() == ["loss"] * 10  # a second training begins again


def test_the_next_of_a_list_comes_when_an_epoch_is_not_a_tenth_better_than_the_one_before():
    training = Training(["loss", "gradient", "closeness"], total=None)
    found = [set(training.epoch(loss)) for loss in (2.0, 1.79, 1.61, 1.45, 1.6, 1.5, 1.3, 1.3, 1.0, 9.0)]
    # 1.61 is ten per cent below 1.79, and 1.45 not of 1.61; a score is judged by epochs of its own: 1.5 by 1.6.
    assert found == [{"loss"}] * 4 + [{"gradient"}] * 2 + [{"closeness"}] * 4
    training.progress.reset()
    assert training.epoch(1.0) == ["loss"] * 10
    assert training.epoch(1.0) == ["loss"] * 10
    assert training.epoch(1.0) == ["gradient"] * 10


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("delta_q", [1e-3, 0.3])
def test_after_a_change_q_agrees_with_algorithm_1_over_the_last_losses_and_bounds_scored_anew(delta_q: float):
    tags = torch.arange(5).repeat_interleave(torch.tensor([40, 1, 17, 3, 90]))
    strategy = started(AdaptiveSampling(4, delta_q=delta_q, score=SHARES, floor=0.0, gamma=0.25), Bins(tags), 60, 60)
    of: Any = {
        "loss": lambda loss, bound: loss,
        "gradient": lambda loss, bound: math.sqrt(bound),
        "closeness": lambda loss, bound: (1 - math.exp(-loss)) * math.exp(-loss) ** 0.25,
    }
    oracle, last, generator = AlgorithmOne(tags, 4, 0.9, delta_q), dict[int, Any](), seeded(1)
    strategy.start_epoch(generator)
    for step in range(60):
        score = "loss" if step < 18 else "gradient" if step < 42 else "closeness"
        for i, pair in last.items():
            oracle.loss[i] = of[score](*pair)
        draw = strategy.draw(24, generator)
        losses, bounds = random_losses(24, generator, step), random_losses(24, generator)
        last |= dict(zip(draw.indices.tolist(), zip(losses.tolist(), bounds.tolist(), strict=True), strict=True))
        scores = [of[score](*pair) for pair in zip(losses.tolist(), bounds.tolist(), strict=True)]
        q = strategy.instance_probabilities()
        strategy.update(draw, losses, bounds)
        assert step not in (17, 41) or (q != strategy.instance_probabilities()).sum() < 151  # where it was drawn
        oracle.batch(draw.indices.tolist(), scores, bounds.tolist())
        torch.testing.assert_close(strategy.instance_probabilities(), double(*oracle.q), rtol=3e-6, atol=1e-24)
        torch.testing.assert_close(strategy.bin_probabilities, double(*oracle.p), rtol=1e-9, atol=0)
    assert strategy.metrics()["score"] == 2
