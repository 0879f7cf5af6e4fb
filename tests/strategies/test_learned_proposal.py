from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import LearnedProposal
from tests.helpers.statistics import p_value

TAGS = torch.repeat_interleave(torch.arange(4), torch.tensor([31, 1, 12, 56]))[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]
SIZES = [31, 1, 12, 56]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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

    def law(self) -> list[float]:
        return [
            (1 - self.floor) * q + self.floor * size / self.n
            for q, size in zip(self.proposal(), self.sizes, strict=True)
        ]

    def batch(self, bins: list[int], laws_then: list[float], bounds: list[float]) -> None:
        q, r = self.proposal(), self.law()
        step = [0.0] * len(q)
        for k, then, bound in zip(bins, laws_then, bounds, strict=True):
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
        expected = torch.tensor(oracle.law(), dtype=torch.float64)
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


def test_it_finds_the_law_of_least_variance():
    """Bins of root mean squares 3, 1, 2, 1: the optimum is in proportion to size times that."""
    squared = torch.tensor([9.0, 1.0, 4.0, 1.0]).double() / 9
    strategy, generator = started(learning_rate=0.05, floor=0.0), seeded(5)
    mean = torch.zeros(4).double()
    for step in range(6000):
        draw = strategy.draw(32, generator)
        strategy.update(draw, draw.probabilities, squared[draw.bins])
        mean += strategy.bin_probabilities * (step >= 3000) / 3000
    optimum = torch.tensor(SIZES).double() * squared.sqrt()
    torch.testing.assert_close(mean, optimum / optimum.sum(), rtol=0.1, atol=0.005)


def test_at_first_all_instances_are_equal():
    strategy = started()
    torch.testing.assert_close(
        strategy.probabilities(), torch.full((100,), 0.01, dtype=torch.float64), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(strategy.draw(50, seeded()).weights, torch.ones(50).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("steps", [0, 40])
def test_draws_follow_the_law_and_weights_make_the_mean_that_of_the_data(floor, steps):
    strategy = trained(steps, seeded(6), learning_rate=1.0, floor=floor)
    law, values = strategy.probabilities(), torch.randn(100, dtype=torch.float64, generator=seeded(7))
    assert law.sum().item() == pytest.approx(1, rel=1e-12)
    draw = strategy.draw(100_000, seeded(8))
    assert p_value(draw.indices, law) > 1e-3
    assert draw.weights is not None
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)
    weights = torch.zeros(100).double()
    weights[draw.indices] = draw.weights
    assert (law * weights * values).sum().item() == pytest.approx(values.mean().item(), rel=1e-10)
    assert floor == 0 or draw.weights.max() <= 1 / floor + 1e-12
    assert (steps == 0) == bool((law - 0.01).abs().max() < 1e-12)


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


def test_a_restored_state_goes_on_equally_and_is_a_copy():
    generator = seeded(11)
    strategy = trained(9, generator)
    kept = strategy.state_dict()
    file = io.BytesIO()
    torch.save({"strategy": kept, "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    for _ in range(20):
        for one, source in ((strategy, generator), (restored, other)):
            draw = one.draw(16, source)
            one.update(draw, draw.probabilities, random_bounds(16, source))
        assert torch.equal(strategy.probabilities(), restored.probabilities())
    assert torch.equal(kept["logits"], state["strategy"]["logits"])


@pytest.mark.parametrize("bound", [0.0, math.inf, math.nan, 1e300, 5e-324])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("tags", [TAGS, torch.tensor([0]), torch.tensor([0, 1, 1])])
def test_odd_bounds_leave_a_law(tags, floor, bound):
    strategy, generator = started(tags, floor=floor, learning_rate=3.0), seeded(12)
    for step, _ in itertools.product(range(3), range(5)):
        draw, odd = strategy.draw(8, generator), torch.rand(8, dtype=torch.float64, generator=generator)
        odd[:: step + 1] = bound
        strategy.update(draw, odd, odd)
        law = strategy.probabilities()
        assert (law > 0).all()
        assert law.sum().item() == pytest.approx(1, rel=1e-12)
        assert strategy.state_dict()["logits"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "`learning_rate` must be finite and not negative, got -1.0"),
        ({"learning_rate": math.inf}, "`learning_rate` must be finite"),
        ({"learning_rate": math.nan}, "`learning_rate` must be finite"),
        ({"floor": 1.0}, r"`floor` must be in \[0, 1\), got 1.0"),
        ({"floor": -0.1}, "`floor` must be in"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LearnedProposal(**options)
