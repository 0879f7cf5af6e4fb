import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import LearnedProposal
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import as_drawn, random_losses
from tests.helpers.strategies import started as at_work

SIZES = [31, 1, 12, 56]
TAGS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(100, generator=seeded())]


def started(**options: Any) -> LearnedProposal:
    return at_work(LearnedProposal(**options), Bins(TAGS))


class Oracle:
    """The step from the formulas, in plain numbers."""

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


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("stale", [False, True])
def test_the_expected_step_descends_the_second_moment(floor: float, stale: bool):
    """Over all draws of one instance, the step is −η times the gradient of E ‖d‖²; stale draws included."""
    rate, strategy, generator, states = 1e-6, started(learning_rate=1.0, floor=floor), seeded(2), []
    for step in range(60):
        draw = strategy.draw(16, generator)
        strategy.update(draw, draw.probabilities, random_losses(16, generator))
        states += [(strategy.state_dict()["logits"], strategy.bin_probabilities)] if step in (29, 59) else []
    tau, (_, then) = states[1][0], states[0 if stale else 1]
    squared = torch.rand(4, dtype=torch.float64, generator=seeded(4))  # the mean of ‖∇f‖² in each bin
    shares, logits = double(*SIZES) / 100, tau.clone().requires_grad_()
    second_moment = (shares.square() * squared / ((1 - floor) * logits.softmax(0) + floor * shares)).sum()
    (gradient,) = torch.autograd.grad(second_moment, logits)
    expectation = torch.zeros(4).double()
    for k in range(4):
        strategy = started(learning_rate=rate, floor=floor)
        strategy.load_state_dict({"logits": tau})
        draw = as_drawn(strategy, (k == TAGS).nonzero()[0])._replace(probabilities=then[[k]] / SIZES[k])
        strategy.update(draw, draw.probabilities, squared[[k]])
        moved = strategy.state_dict()["logits"] - tau
        expectation += then[k] * (moved - moved.mean()) / rate
    torch.testing.assert_close(expectation, -gradient, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("bound", [1e3, 1e30, 1e99])
def test_no_batch_moves_a_logit_by_more_than_one(bound: float):
    strategy, generator = started(learning_rate=10.0, floor=0.0), seeded(9)
    for _ in range(300):
        before = strategy.bin_probabilities.log()
        draw = strategy.draw(8, generator)
        strategy.update(draw, draw.probabilities, bound * (1 + draw.bins).double())
        change = strategy.bin_probabilities.log() - before
        assert change.max() - change.min() <= 2 + 1e-9  # as one logit rises by 1, another may fall by 1
        assert strategy.bin_probabilities.isfinite().all()
        assert strategy.bin_probabilities.min() > 0
