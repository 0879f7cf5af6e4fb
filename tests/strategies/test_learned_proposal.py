import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import LearnedProposal
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import random_losses
from tests.helpers.strategies import started as at_work

SIZES = [31, 1, 12, 56]
TAGS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(100, generator=seeded())]


def started(**options: Any) -> LearnedProposal:
    return at_work(LearnedProposal(**options), Bins(TAGS))


class Oracle:
    def __init__(self, rate: float, floor: float) -> None:
        self.n, self.rate, self.floor = sum(SIZES), rate, floor
        self.tau = [math.log(size / self.n) for size in SIZES]

    def proposal(self) -> list[float]:
        total = math.fsum(math.exp(tau) for tau in self.tau)
        return [math.exp(tau) / total for tau in self.tau]

    def over_bins(self) -> list[float]:
        return [(1 - self.floor) * q + self.floor * n / self.n for q, n in zip(self.proposal(), SIZES, strict=True)]

    def batch(self, bins: list[int], r_then: list[float], bounds: list[float]) -> None:
        q, r = self.proposal(), self.over_bins()
        step = [0.0] * len(q)
        for k, then, bound in zip(bins, r_then, bounds, strict=True):
            share = SIZES[k] / self.n
            squared_norm = share / then * share / r[k] * bound
            for j in range(len(q)):
                gradient_of_log = (1 - self.floor) * q[k] * ((j == k) - q[j]) / r[k]
                step[j] += self.rate * squared_norm * gradient_of_log / len(bins)
        largest = max(abs(part) for part in step)
        self.tau = [tau + part / max(1.0, largest) for tau, part in zip(self.tau, step, strict=True)]


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("rate", [0.0, 0.1, 20.0])
def test_agrees_with_the_formulas(rate: float, floor: float, ahead: int):
    strategy, oracle, generator = started(learning_rate=rate, floor=floor), Oracle(rate, floor), seeded(1)
    torch.testing.assert_close(strategy.probabilities(), double(0.01).expand(100), rtol=1e-12, atol=0)
    pending = []
    for _ in range(150):
        pending.append(strategy.draw(16, generator))
        torch.testing.assert_close(pending[-1].weights, 0.01 / pending[-1].probabilities)
        if len(pending) < ahead:
            continue
        draw, bounds = pending.pop(0), random_losses(16, generator)
        then = (draw.probabilities / draw.within).tolist()
        oracle.batch(draw.bins.tolist(), then, bounds.tolist())
        strategy.update(draw, bounds, bounds)
        torch.testing.assert_close(strategy.bin_probabilities, double(*oracle.over_bins()), rtol=1e-9, atol=1e-40)


def test_the_largest_bounds_leave_every_bin_a_chance_without_a_floor():
    strategy, generator = started(learning_rate=10.0, floor=0.0), seeded(9)
    for _ in range(300):
        draw = strategy.draw(8, generator)
        strategy.update(draw, draw.probabilities, 1e99 * (1 + draw.bins).double())
        assert strategy.bin_probabilities.isfinite().all()
        assert strategy.bin_probabilities.min() > 0
