import math
from typing import Any

import pytest
import torch

from lightning_as.strategies import PrioritizedSampling
from tests.helpers.statistics import p_value, seeded
from tests.helpers.strategies import follow, learn, random_losses, started

N, TOTAL = 90, 100
variants = pytest.mark.parametrize("variant", ["proportional", "rank"])


class Memory:
    """The paper's replay memory, with loops and sorts; all transitions are new at first."""

    def __init__(self, variant: str, alpha: float, beta_start: float, epsilon: float) -> None:
        self.variant, self.alpha, self.beta_start, self.epsilon = variant, alpha, beta_start, epsilon
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

    def weights(self, indices: list[int], step: int) -> list[float]:
        beta, probabilities = self.beta_start + (1 - self.beta_start) * step / (TOTAL - 1), self.probabilities()
        raw = [(N * probabilities[index]) ** -beta for index in indices]
        return [weight / max(raw) for weight in raw]

    def learn(self, indices: list[int], errors: list[float]) -> None:
        for index, error in zip(indices, errors, strict=True):
            self.error[index] = error
            self.largest = max(self.largest, error + self.epsilon)


@pytest.mark.parametrize(("alpha", "epsilon"), [(None, 1e-6), (0.0, 1e-6), (1.0, 0.1)])
@variants
def test_the_probabilities_and_the_weights_are_those_of_the_paper(variant: Any, epsilon: float, alpha: float | None):
    strategy = started(PrioritizedSampling(variant, alpha, epsilon=epsilon), N, TOTAL, 20)
    own_alpha, beta_start = {"proportional": (0.6, 0.4), "rank": (0.7, 0.5)}[variant]
    follow(strategy, Memory(variant, own_alpha if alpha is None else alpha, beta_start, epsilon), TOTAL)


@pytest.mark.parametrize("size", [1, 7])
@variants
def test_a_batch_has_one_draw_from_each_equal_share_and_all_follow_the_distribution(variant: Any, size: int):
    strategy, generator = started(PrioritizedSampling(variant), N), seeded(3)
    for step in range(15):
        learn(strategy, strategy.draw(12, generator).indices, random_losses(12, generator, step))
    probabilities = strategy.probabilities()
    batches = torch.stack([strategy.draw(size, generator).indices for _ in range(3000 // size)])
    assert p_value(batches.flatten(), probabilities) > 1e-3
    order = torch.arange(N) if variant == "proportional" else probabilities.argsort(descending=True)
    above = probabilities[order].cumsum(0)[order.argsort()]
    shares = torch.arange(size) / size
    assert (above[batches] > shares - 1e-12).all()
    assert ((above - probabilities)[batches] < shares + 1 / size + 1e-12).all()


def test_beta_stays_at_1_after_the_end_and_a_training_of_one_batch_has_the_first():
    strategy = started(PrioritizedSampling(), N, 12, 4)
    for _ in range(20):
        strategy.progress.step()
    assert strategy.metrics() == {"beta": 1}
    assert started(PrioritizedSampling(), N, 1, 1).beta == 0.4
