from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import OnlineBatchSelection, Scores
from tests.helpers.numbers import as_drawn, double, random_losses, seeded
from tests.helpers.statistics import p_value

N, BATCH = 130, 20
BEFORE = {"s_start": 1e8, "s_end": 1e8, "sort_period": 100, "recompute_every": 2.0, "recompute_ratio": 1.0}


def started(size: int = N, epochs: int | None = 6, **options: Any) -> OnlineBatchSelection:
    strategy = OnlineBatchSelection(**options)
    strategy.start(Bins.single(size))
    strategy.plan(None if epochs is None else epochs * 6, 6)
    return strategy


def over_ranks(size: int, pressure: float) -> list[float]:
    """As the script has it: each is the one before over exp(ln s / N), and all over their sum."""
    powers = [1.0]
    for _ in range(size - 1):
        powers.append(powers[-1] / math.exp(math.log(pressure) / size))
    total = math.fsum(powers)
    return [p / total for p in powers]


class Script:
    """The authors' loop, in passes of whole batches; equal losses in the order of the instances."""

    def __init__(self, epochs: int, options: dict[str, Any]) -> None:
        self.table = [[math.inf, index] for index in range(N)]
        self.epochs = epochs
        self.s_start, self.s_end = options["s_start"], options["s_end"]
        self.period = options["sort_period"]
        self.frequency = options["recompute_every"] and 1 / options["recompute_every"]
        self.ratio = options["recompute_ratio"]
        self.since_sort = 2 * self.period
        self.trained = self.trained_then = 0
        self.epoch, self.at = -1, 0
        self.sorts = self.recomputations = 0

    def begin(self) -> None:
        self.epoch += 1
        factor = math.exp(math.log(self.s_end / self.s_start) / self.epochs)
        self.probabilities = over_ranks(N, self.s_start * factor**self.epoch)
        self.cumulative = [math.fsum(self.probabilities[: rank + 1]) for rank in range(N)]

    def draw(self, uniforms: list[float]) -> list[int]:
        if self.epoch > 0 and self.since_sort >= self.period:
            self.table.sort(key=lambda row: (-row[0], row[1]))
            self.since_sort = 0
            self.sorts += 1
        if self.epoch == 0:
            self.positions = [(self.at + k) % N for k in range(len(uniforms))]
            self.at += len(uniforms)
        else:
            self.positions = [bisect_right(self.cumulative, min(u, self.cumulative[-1])) for u in uniforms]
        self.since_sort += len(uniforms)
        return [int(self.table[position][1]) for position in self.positions]

    def train(self, losses: list[float]) -> None:
        for position, loss in zip(self.positions, losses, strict=True):
            self.table[position][0] = loss
        self.trained += len(losses)

    def recompute(self, losses: list[float]) -> bool:
        """With the losses of all instances, by instance."""
        if not self.frequency or self.trained - self.trained_then <= N / self.frequency:
            return False
        self.trained_then = self.trained
        for row in self.table[: int(N * self.ratio)]:
            row[0] = losses[int(row[1])]
        self.recomputations += 1
        return True


@pytest.mark.parametrize("batch", [20, 50])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"s_start": 100.0, "s_end": 1.01, "recompute_every": 0.0},
        {"s_start": 2.0, "s_end": 50.0, "sort_period": 30, "recompute_every": 0.6, "recompute_ratio": 0.4},
    ],
    ids=str,
)
def test_draws_losses_sorts_and_recomputations_are_those_of_the_script(changes: dict[str, float], batch: int):
    options, epochs = BEFORE | changes, 6
    strategy, oracle = started(epochs=epochs, **options), Script(epochs, options)
    generator, twin, noise = seeded(1), seeded(1), seeded(2)
    duplicates = 0
    for epoch in range(epochs):
        strategy.start_epoch(generator)
        oracle.begin()
        for step in range(N // batch):
            draw = strategy.draw(batch, generator)
            uniforms = torch.rand(batch, dtype=torch.float64, generator=twin) if epoch else torch.zeros(batch)
            assert draw.indices.tolist() == oracle.draw(uniforms.tolist())
            if epoch:
                own = double(*(oracle.probabilities[rank] for rank in oracle.positions))
                torch.testing.assert_close(draw.probabilities, own, rtol=1e-9, atol=0)
            # Of duplicates that disagree the last counts.
            losses, anew = random_losses(batch, noise, step), random_losses(N, noise, step)
            duplicates += batch - len(draw.indices.unique())
            strategy.update(draw, losses, torch.zeros(batch).double())
            oracle.train(losses.tolist())
            wanted = strategy.wanted()
            top = [int(row[1]) for row in oracle.table[: int(N * options["recompute_ratio"])]]
            assert (wanted is not None) == oracle.recompute(anew.tolist())
            if wanted is not None:
                assert wanted.tolist() == top
                strategy.refresh(wanted, Scores(losses=anew[wanted]))
                assert strategy.wanted() is None
            due = oracle.since_sort >= oracle.period
            order = sorted(oracle.table, key=lambda row: (-row[0], row[1])) if due else oracle.table
            expected = torch.full((N,), 1 / N, dtype=torch.float64)
            if epoch:
                expected[[int(row[1]) for row in order]] = double(*oracle.probabilities)
            torch.testing.assert_close(strategy.probabilities(), expected)
    assert duplicates > 10
    assert oracle.sorts >= epochs - 1
    assert (oracle.recomputations > 1) == (options["recompute_every"] > 0)


def test_by_hand_with_the_weights_of_the_script():
    """Four instances, s = 16: ρ = 1/2, and the ranks have 8, 4, 2, 1 fifteenths."""
    strategy = started(4, s_start=16.0, s_end=16.0, sort_period=1, reweight=True)
    assert strategy.weighted
    strategy.start_epoch(seeded())
    draw = strategy.draw(4, seeded())
    assert draw.indices.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(draw.weights, torch.ones(4).double())
    strategy.update(draw, double(0.5, 3.0, 0.5, 7.0), torch.zeros(4))
    strategy.start_epoch(seeded())
    torch.testing.assert_close(strategy.probabilities(), double(2, 4, 1, 8) / 15)
    draw = strategy.draw(6, seeded())
    torch.testing.assert_close(draw.weights, draw.probabilities.mean() / draw.probabilities)
    strategy.update(as_drawn(strategy.bins, [3, 0, 3]), double(9.0, 1.0, 0.75), torch.zeros(3))
    torch.testing.assert_close(strategy.probabilities(), double(4, 8, 1, 2) / 15)


@pytest.mark.parametrize("pressure", [1.0, 1 + 1e-12, 1.01, 1e8, 1e300])
@pytest.mark.parametrize("size", [1, 90])
def test_ranks_follow_the_exponential_distribution(size: int, pressure: float):
    strategy = started(size, s_start=pressure, s_end=pressure)
    for _ in range(2):
        strategy.start_epoch(seeded())
    expected = double(*over_ranks(size, pressure))
    torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-9, atol=0)  # none is seen
    draw = strategy.draw(50_000, seeded(3))
    torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-9, atol=0)
    assert size == 1 or p_value(draw.indices, expected) > 1e-3
    first, last = strategy._ranks(double(0.0)), strategy._ranks(double(1 - 2**-53))
    assert int(first) == 0
    assert int(last) == size - 1 or pressure == 1e300


def test_the_pressure_goes_from_the_start_towards_the_end_and_again_in_a_new_training():
    strategy, seen = started(epochs=10, s_start=1e8, s_end=1e2), []
    for _ in range(2):
        strategy.progress.reset()
        seen = []
        for epoch in range(12):
            strategy.start_epoch(seeded())
            seen.append(strategy.metrics()["selection_pressure"])
            assert (strategy.draw(BATCH, seeded()).indices.tolist() == list(range(BATCH))) == (epoch == 0)
        assert seen == pytest.approx([10 ** (8 - 0.6 * epoch) for epoch in range(10)] + [100.0, 100.0])
    strategy.plan(5 * 6 + 1, 6)  # a last epoch that is cut short counts as one
    strategy.progress.reset()
    for _ in range(4):
        strategy.start_epoch(seeded())
    assert strategy.selection_pressure == pytest.approx(1e5)


def test_a_shuffled_first_pass_sees_all_once_and_is_another_one_each_time():
    strategy, generator = started(first_pass="shuffled"), seeded(6)
    strategy.start_epoch(generator)
    first = torch.cat([strategy.draw(26, generator).indices for _ in range(5)])
    assert first.sort().values.tolist() == list(range(N))
    assert first.tolist() != list(range(N))
    strategy.start(Bins.single(N))
    strategy.start_epoch(generator)
    assert strategy.draw(26, generator).indices.tolist() != first[:26].tolist()


def test_batches_that_were_drawn_ahead_come_from_the_order_of_their_draw():
    strategy, generator = trained(9, sort_period=10), seeded(8)
    ahead = [strategy.draw(BATCH, generator) for _ in range(3)]
    expected = strategy.probabilities()
    for draw in ahead:
        torch.testing.assert_close(draw.probabilities, expected[draw.indices])
        strategy.update(draw, random_losses(BATCH, generator), torch.zeros(BATCH))
    assert strategy.state_dict()["since_sort"] == 3 * BATCH


def test_the_first_epoch_with_ranks_begins_with_a_sort_and_nothing_waits_after_it():
    strategy, generator = started(40, sort_period=10_000), seeded(13)
    for epoch in range(2):
        strategy.start_epoch(generator)
        draw = strategy.draw(40, generator)
        assert len(strategy.state_dict()["updated"]) == 0
        if epoch == 0:
            strategy.update(draw, torch.arange(40, dtype=torch.float64), torch.zeros(40).double())
            assert len(strategy.state_dict()["updated"]) == 40
    assert int(strategy.probabilities().argmax()) == 39


def trained(steps: int, **options: Any) -> OnlineBatchSelection:
    strategy, generator = started(**options), seeded(7)
    for step in range(steps):
        if step % 6 == 0:
            strategy.start_epoch(generator)
        draw: Draw = strategy.draw(BATCH, generator)
        strategy.update(draw, random_losses(BATCH, generator, step), torch.zeros(BATCH).double())
    return strategy


def test_losses_that_are_not_finite_leave_the_ranks_as_they_are():
    strategy = trained(12, sort_period=1, recompute_every=0.1)
    before = strategy.probabilities()
    strategy.update(as_drawn(strategy.bins, [1, 2]), double(math.nan, math.inf), torch.zeros(2).double())
    strategy.refresh(torch.arange(N), Scores(losses=torch.full((N,), math.nan, dtype=torch.float64)))
    assert torch.equal(strategy.probabilities(), before)
    assert strategy.skipped == 2 + N


def test_to_look_at_the_probabilities_changes_nothing():
    one, other = trained(15), trained(15)
    one.probabilities()
    its = other.state_dict()
    assert all(
        torch.equal(torch.as_tensor(mine), torch.as_tensor(its[name])) for name, mine in one.state_dict().items()
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"s_start": 0.5}, ValueError, "`s_start` must be a finite selection pressure of at least 1, got 0.5"),
        ({"s_end": math.inf}, ValueError, "`s_end` must be a finite selection pressure of at least 1, got inf"),
        ({"s_end": math.nan}, ValueError, "`s_end` must be a finite"),
        ({"sort_period": 0}, ValueError, "`sort_period` must be at least 1 instances, got 0"),
        ({"sort_period": True}, TypeError, "`sort_period` must be an integer number of instances, got True"),
        ({"recompute_every": -1.0}, ValueError, "`recompute_every` must be a number of epochs, or 0 for never, got -1"),
        ({"recompute_ratio": 0.0}, ValueError, r"`recompute_ratio` must be in \(0, 1\], got 0.0: .*recompute_every=0"),
        ({"recompute_ratio": 1.5}, ValueError, r"`recompute_ratio` must be in \(0, 1\], got 1.5"),
        ({"first_pass": "random"}, ValueError, "`first_pass` must be one of sequential, shuffled; got 'random'"),
        (
            {"epochs": None, "s_start": 100.0, "s_end": 2.0},
            ValueError,
            r"`s_start` = 100.0 to `s_end` = 2.0 .* `max_epochs` or `max_steps`, or set both equal",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        started(**options)
    assert started(epochs=None).selection_pressure == 1e8
