from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import LearnedProposal
from tests.helpers.statistics import seeded

SIZES = [31, 1, 12, 56]
TAGS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(100, generator=seeded())]


def started(tags: Tensor = TAGS, **options: Any) -> LearnedProposal:
    strategy = LearnedProposal(**options)
    strategy.start(Bins(tags))
    return strategy


def random_bounds(size: int, generator: torch.Generator) -> Tensor:
    bounds = torch.rand(size, dtype=torch.float64, generator=generator).pow(3)
    bounds[torch.rand(size, generator=generator) < 0.2] = 0.0
    return bounds


def trained(steps: int, generator: torch.Generator, **options: Any) -> LearnedProposal:
    strategy = started(**options)
    for _ in range(steps):
        draw = strategy.draw(16, generator)
        strategy.update(draw, draw.probabilities, random_bounds(16, generator))
    return strategy


class Oracle:
    """The step from the formulas, in plain numbers."""

    def __init__(self, sizes: list[int], rate: float, floor: float) -> None:
        self.sizes, self.n, self.rate, self.floor = sizes, sum(sizes), rate, floor
        self.tau = [math.log(size / self.n) for size in sizes]

    def proposal(self) -> list[float]:
        total = math.fsum(math.exp(tau) for tau in self.tau)
        return [math.exp(tau) / total for tau in self.tau]

    def over_bins(self) -> list[float]:
        return [
            (1 - self.floor) * q + self.floor * size / self.n
            for q, size in zip(self.proposal(), self.sizes, strict=True)
        ]

    def batch(self, bins: list[int], r_then: list[float], bounds: list[float]) -> None:
        q, r = self.proposal(), self.over_bins()
        step = [0.0] * len(q)
        for k, then, bound in zip(bins, r_then, bounds, strict=True):
            share = self.sizes[k] / self.n
            squared_norm = share / then * share / r[k] * bound
            for j in range(len(q)):
                gradient_of_log = (1 - self.floor) * q[k] * ((j == k) - q[j]) / r[k]
                step[j] += self.rate * squared_norm * gradient_of_log / len(bins)
        largest = max(abs(part) for part in step)
        self.tau = [tau + part / max(1.0, largest) for tau, part in zip(self.tau, step, strict=True)]


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("rate", [0.0, 0.1, 20.0])
def test_agrees_with_the_formulas(rate, floor, ahead):
    strategy, oracle, generator = started(learning_rate=rate, floor=floor), Oracle(SIZES, rate, floor), seeded(1)
    pending = []
    for _ in range(150):
        pending.append(strategy.draw(16, generator))
        if len(pending) < ahead:
            continue
        draw = pending.pop(0)
        bounds = random_bounds(16, generator)
        then = (draw.probabilities / draw.within).tolist()
        oracle.batch(draw.bins.tolist(), then, bounds.tolist())
        strategy.update(draw, bounds, bounds)
        expected = torch.tensor(oracle.over_bins(), dtype=torch.float64)
        torch.testing.assert_close(strategy.bin_probabilities, expected, rtol=1e-9, atol=1e-40)


def test_one_step_is_what_is_computed_by_hand():
    """Two equal bins, so that w = 1: a bound of 0.8 in bin 0 and 0.2 in bin 1 give ± 0.3 · 0.5 before η."""
    strategy = started(torch.tensor([0, 1]), learning_rate=0.5, floor=0.0)
    draw = Draw(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0.5, 0.5]).double())
    strategy.update(draw, draw.probabilities, torch.tensor([0.8, 0.2], dtype=torch.float64))
    difference = 2 * 0.5 * 0.3 * 0.5
    first = 1 / (1 + math.exp(-difference))
    assert strategy.bin_probabilities.tolist() == pytest.approx([first, 1 - first], rel=1e-14)


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("stale", [False, True])
def test_the_expected_step_descends_the_second_moment(floor, stale):
    """Over all draws of one instance, the step is −η times the finite differences of E ‖d‖²; stale draws included."""
    rate = 1e-6
    now = trained(60, seeded(2), learning_rate=1.0, floor=floor)
    then = trained(30, seeded(3), learning_rate=1.0, floor=floor) if stale else now
    squared = torch.rand(4, dtype=torch.float64, generator=seeded(4))  # the mean of ‖∇f‖² in each bin
    shares = torch.tensor(SIZES).double() / 100
    tau = now.state_dict()["logits"]

    def second_moment(logits: Tensor) -> Tensor:
        return (shares.square() * squared / ((1 - floor) * logits.softmax(0) + floor * shares)).sum()

    logits = tau.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(second_moment(logits), logits)
    for k in range(4):  # autograd is held to differences too
        shift = torch.zeros(4).double()
        shift[k] = 1e-5
        slope = (second_moment(tau + shift) - second_moment(tau - shift)) / 2e-5
        torch.testing.assert_close(slope, gradient[k], rtol=1e-4, atol=1e-9)
    expectation = torch.zeros(4).double()
    for k in range(4):
        strategy = started(learning_rate=rate, floor=floor)
        strategy.load_state_dict({"logits": tau})
        bins = torch.tensor([k])
        draw = Draw((k == TAGS).nonzero()[0], bins, then.bin_probabilities[bins] / SIZES[k])
        strategy.update(draw, draw.probabilities, squared[bins])
        moved = strategy.state_dict()["logits"] - tau
        expectation += then.bin_probabilities[k] * (moved - moved.mean()) / rate
    torch.testing.assert_close(expectation, -gradient, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("steps", [0, 40])
def test_weights_make_the_mean_that_of_the_data(floor, steps):
    strategy = trained(steps, seeded(6), learning_rate=1.0, floor=floor)
    r, values = strategy.probabilities(), torch.randn(100, dtype=torch.float64, generator=seeded(7))
    draw, weights = strategy.draw(100_000, seeded(8)), torch.zeros(100).double()
    assert draw.weights is not None
    weights[draw.indices] = draw.weights
    assert (r * weights * values).sum().item() == pytest.approx(values.mean().item(), rel=1e-10)
    assert floor == 0 or draw.weights.max() <= 1 / floor + 1e-12
    assert (steps == 0) == bool((r - 0.01).abs().max() < 1e-12)  # at first all instances are equal


@pytest.mark.parametrize("bound", [1e3, 1e30, 1e99])
def test_no_batch_moves_a_logit_by_more_than_one(bound):
    strategy, generator = started(learning_rate=10.0, floor=0.0), seeded(9)
    for _ in range(300):
        before = strategy.bin_probabilities.log()
        draw = strategy.draw(8, generator)
        strategy.update(draw, draw.probabilities, bound * (1 + draw.bins).double())
        change = strategy.bin_probabilities.log() - before
        assert change.max() - change.min() <= 2 + 1e-9  # as one logit rises by 1, another may fall by 1
        assert strategy.bin_probabilities.isfinite().all()
        assert strategy.bin_probabilities.min() > 0


def test_a_bin_that_was_given_up_comes_back():
    strategy, generator = started(learning_rate=1.0), seeded(10)
    for _ in range(2000):
        draw = strategy.draw(32, generator)
        strategy.update(draw, draw.probabilities, (draw.bins != 2).double())
    low = float(strategy.bin_probabilities[2])
    assert 0.012 <= low < 0.02
    for _ in range(2000):
        draw = strategy.draw(32, generator)
        strategy.update(draw, draw.probabilities, (draw.bins == 2).double())
    assert strategy.bin_probabilities[2] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "`learning_rate` must be finite and not negative, got -1.0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be finite"),
        ({"floor": 1.0}, r"`floor` must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LearnedProposal(**options)
