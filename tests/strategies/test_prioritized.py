from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import PrioritizedSampling
from tests.helpers.numbers import double, random_losses, seeded
from tests.helpers.statistics import p_value

N, BATCH = 90, 12
variants = pytest.mark.parametrize("variant", ["proportional", "rank"])


def started(epochs: int | None = 4, batches: int = 5, **options: Any) -> PrioritizedSampling:
    strategy = PrioritizedSampling(**options)
    strategy.start(Bins(torch.arange(N) % 3))
    strategy.plan(None if epochs is None else epochs * batches, batches)
    return strategy


class Memory:
    """The paper's replay memory, with loops and sorts; all transitions are new at first."""

    def __init__(self, variant: str, alpha: float, epsilon: float) -> None:
        self.variant, self.alpha, self.epsilon = variant, alpha, epsilon
        self.error: list[float | None] = [None] * N
        self.largest = 1.0

    def above(self, index: int) -> float:
        error = self.error[index]
        return math.inf if error is None else error

    def probabilities(self) -> list[float]:
        if self.variant == "rank":
            priorities = [0.0] * N
            for rank, index in enumerate(sorted(range(N), key=lambda i: (-self.above(i), i)), start=1):
                priorities[index] = 1 / rank
        else:
            priorities = [self.largest if error is None else error + self.epsilon for error in self.error]
        powers = [priority**self.alpha for priority in priorities]
        return [power / math.fsum(powers) for power in powers]

    def update(self, indices: list[int], errors: list[float]) -> None:
        for index, error in zip(indices, errors, strict=True):
            self.error[index] = error
            self.largest = max(self.largest, error + self.epsilon)


@pytest.mark.parametrize(("alpha", "epsilon"), [(None, 1e-6), (0.0, 1e-6), (1.0, 0.1)])
@variants
def test_the_probabilities_and_the_weights_are_those_of_the_paper(variant: Any, epsilon: float, alpha: float | None):
    epochs, batches = 5, 20
    strategy = started(epochs, batches, variant=variant, alpha=alpha, epsilon=epsilon)
    own_alpha, beta_start = {"proportional": (0.6, 0.4), "rank": (0.7, 0.5)}[variant]
    memory = Memory(variant, own_alpha if alpha is None else alpha, epsilon)
    generator, duplicates = seeded(1), 0
    for step in range(epochs * batches):
        if step % batches == 0:
            strategy.start_epoch(generator)
        expected = memory.probabilities()
        torch.testing.assert_close(strategy.probabilities(), double(*expected), rtol=1e-9, atol=0)
        draw = strategy.draw(BATCH, generator)
        strategy.progress.step()
        torch.testing.assert_close(draw.probabilities, double(*expected)[draw.indices], rtol=1e-9, atol=0)
        beta = beta_start + (1 - beta_start) * step / (epochs * batches - 1)
        raw = [(N * expected[index]) ** -beta for index in draw.indices.tolist()]
        torch.testing.assert_close(draw.weights, double(*raw) / max(raw), rtol=1e-9, atol=0)
        # Stratified draws rarely repeat: repeat some. They disagree, and the last counts.
        batch = draw.select(torch.randint(BATCH, (BATCH,), generator=generator))
        duplicates += BATCH - len(batch.indices.unique())
        losses = random_losses(BATCH, generator, step)
        strategy.update(batch, losses, torch.zeros(BATCH).double())
        memory.update(batch.indices.tolist(), losses.tolist())
    assert duplicates > 100


@pytest.mark.parametrize("size", [1, 7])
@variants
def test_a_batch_has_one_draw_from_each_equal_share_and_all_follow_the_distribution(variant: Any, size: int):
    strategy, generator = started(variant=variant), seeded(3)
    for step in range(15):
        draw = strategy.draw(BATCH, generator)
        strategy.update(draw, random_losses(BATCH, generator, step), torch.zeros(BATCH).double())
    probabilities = strategy.probabilities()
    batches = torch.stack([strategy.draw(size, generator).indices for _ in range(10_000 // size)])
    assert p_value(batches.flatten(), probabilities) > 1e-3
    order = torch.arange(N) if variant == "proportional" else probabilities.argsort(descending=True)
    above = torch.empty(N, dtype=torch.float64)
    above[order] = probabilities[order].cumsum(0)
    shares = torch.arange(size) / size
    assert (above[batches] > shares - 1e-12).all()
    assert ((above - probabilities)[batches] < shares + 1 / size + 1e-12).all()


def test_beta_goes_from_the_start_to_1_and_begins_again_with_a_new_training():
    strategy, generator = started(epochs=3, batches=4), seeded(6)
    for _ in range(2):
        seen = []
        strategy.progress.reset()
        for _ in range(4):
            strategy.start_epoch(generator)
            for step in range(6):  # two more than are trained on
                seen += [strategy.beta] if step < 4 else []
                strategy.draw(BATCH, generator)
                strategy.progress.step()
        assert seen == pytest.approx([0.4 + 0.6 * step / 11 for step in range(12)] + [1.0] * 4)
        assert strategy.metrics() == {"beta": 1.0}
    assert started(epochs=1, batches=1).beta == 0.4


def test_the_smallest_priorities_and_a_large_loss_leave_finite_weights():
    strategy = started(alpha=1.0, epsilon=1e-300)
    draw = strategy.draw(BATCH, seeded())
    losses = torch.zeros(BATCH).double()
    losses[0] = 1e300
    strategy.update(draw, losses, losses)
    for seed in range(20):
        weights = strategy.draw(BATCH, seeded(seed)).weights
        assert weights is not None
        assert weights.isfinite().all()
        assert float(weights.max()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "greedy"}, "`variant` must be one of proportional, rank; got 'greedy'"),
        ({"alpha": -0.1}, r"`alpha` must be in \[0, 1\], got -0.1"),
        ({"alpha": math.nan}, r"`alpha` must be in \[0, 1\], got nan"),
        ({"beta_start": 1.5}, r"`beta_start` must be in \[0, 1\], got 1.5"),
        ({"epsilon": 0.0}, "`epsilon` must be a positive number, such as 1e-6, got 0.0"),
        ({"epsilon": math.inf}, "`epsilon` must be a positive number"),
        ({"epochs": None}, r"`beta_start` = 0.4 to 1 .* `max_epochs` or `max_steps`, or set `beta_start=1`"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        started(**options)


def test_without_annealing_no_end_is_needed_and_a_state_of_the_other_variant_is_refused():
    assert started(epochs=None, beta_start=1.0).beta == 1.0
    with pytest.raises(ValueError, match="is of `variant='rank'`, but here it is 'proportional'"):
        started().load_state_dict(started(variant="rank").state_dict())
