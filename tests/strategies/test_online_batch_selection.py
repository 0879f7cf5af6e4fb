import math
from bisect import bisect_right
from typing import Any

import pytest
import torch

from lightning_as.strategies import OnlineBatchSelection, Scores
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import random_losses, started

N, BATCH = 130, 20
NAMES = ("s_start", "s_end", "sort_period", "recompute_every", "recompute_ratio")


def over_ranks(size: int, pressure: float) -> list[float]:
    """As the script has it: each is the one before over exp(ln s / N), and all over their sum."""
    powers = [math.exp(math.log(pressure) / size) ** -rank for rank in range(size)]
    return [p / math.fsum(powers) for p in powers]


class Script:
    """The authors' loop, in passes of whole batches; equal losses in the order of the instances."""

    def __init__(self, epochs: int, options: dict[str, Any]) -> None:
        self.table = [[math.inf, index] for index in range(N)]
        self.s_start, self.s_end, self.period, every, self.ratio = options.values()
        self.epochs, self.frequency = epochs, every and 1 / every
        self.since_sort = 2 * self.period
        self.trained = self.trained_then = self.at = self.sorts = self.recomputations = 0
        self.epoch = -1

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
    "values", [(1e8, 1e8, 100, 2.0, 1.0), (100.0, 1.01, 200, 0.0, 1.0), (2.0, 50.0, 30, 0.6, 0.4)], ids=str
)
def test_draws_losses_sorts_and_recomputations_are_those_of_the_script(values: tuple[Any, ...], batch: int):
    options, epochs = dict(zip(NAMES, values, strict=True)), 6
    strategy, oracle = (
        started(OnlineBatchSelection(reweight=True, points="independent", **options), N, epochs * 6),
        Script(epochs, options),
    )
    generator, twin, noise = seeded(1), seeded(1), seeded(2)
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
                torch.testing.assert_close(draw.weights, own.mean() / own, rtol=1e-9, atol=0)
            # Of duplicates that disagree the last counts.
            losses, anew = random_losses(batch, noise, step), random_losses(N, noise, step)
            strategy.update(draw, losses, torch.zeros(batch).double())
            oracle.train(losses.tolist())
            wanted = strategy.wanted()
            top = [int(row[1]) for row in oracle.table[: int(N * options["recompute_ratio"])]]
            assert (wanted is not None) == oracle.recompute(anew.tolist())
            if wanted is not None:
                assert wanted.tolist() == top
                strategy.refresh(wanted, Scores(losses=anew[wanted]))
                assert strategy.wanted() is None
                strategy.refresh(wanted, Scores(losses=torch.full_like(anew[wanted], math.nan)))  # leaves all as it is
            due = oracle.since_sort >= oracle.period
            order = sorted(oracle.table, key=lambda row: (-row[0], row[1])) if due else oracle.table
            expected = torch.full((N,), 1 / N, dtype=torch.float64)
            if epoch:
                expected[[int(row[1]) for row in order]] = double(*oracle.probabilities)
            torch.testing.assert_close(strategy.probabilities(), expected)
    assert oracle.sorts >= 3
    assert (oracle.recomputations > 1) == (options["recompute_every"] > 0)


@pytest.mark.parametrize("pressure", [1.0, 1 + 1e-12, 1.01, 1e8, 1e300])
@pytest.mark.parametrize("size", [1, 90])
def test_ranks_follow_the_exponential_distribution(size: int, pressure: float):
    strategy = started(OnlineBatchSelection(pressure, pressure, points="independent"), size)
    for _ in range(2):
        strategy.start_epoch(seeded())
    expected = double(*over_ranks(size, pressure))
    torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-9, atol=0)  # none is seen
    draw = strategy.draw(50_000, seeded(3))
    if size > 1:
        spread = started(OnlineBatchSelection(pressure, pressure), size)
        for _ in range(2):
            spread.start_epoch(seeded())
        counts = torch.bincount(spread.draw(size, seeded(4)).indices, minlength=size)
        assert float((counts - size * expected).abs().max()) < 2
    torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-9, atol=0)
    assert size == 1 or p_value(draw.indices, expected) > 1e-3
    first, last = strategy._ranks(double(0.0)), strategy._ranks(double(1 - 2**-53))
    assert int(first) == 0
    assert int(last) == size - 1 or pressure == 1e300


def test_the_pressure_goes_from_the_start_towards_the_end_and_again_in_a_new_training():
    strategy = started(OnlineBatchSelection(1e8, 1e2), N, 10 * 6)
    for _ in range(2):
        strategy.progress.reset()
        seen = []
        for epoch in range(12):
            strategy.start_epoch(seeded())
            seen.append(strategy.metrics()["selection_pressure"])
            assert (strategy.draw(BATCH, seeded()).indices.tolist() == list(range(BATCH))) == (epoch == 0)
        assert seen == pytest.approx([10 ** (8 - 0.6 * epoch) for epoch in range(10)] + [100.0, 100.0])


def test_a_shuffled_first_pass_sees_all_once_and_is_another_one_each_time():
    strategy, generator, passes = OnlineBatchSelection(first_pass="shuffled"), seeded(6), [torch.arange(N)]
    for _ in range(2):
        started(strategy, N).start_epoch(generator)
        passes.append(torch.cat([strategy.draw(26, generator).indices for _ in range(5)]))
        assert torch.equal(passes[-1].sort().values, passes[0])
    assert len(torch.stack(passes).unique(dim=0)) == 3
