from __future__ import annotations

import io
import math
from bisect import bisect_right
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import OnlineBatchSelection, Scores
from tests.helpers.statistics import p_value

N, BATCH = 130, 20
NAN, INF = float("nan"), float("inf")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(size: int = N, epochs: int | None = 6, **options: Any) -> OnlineBatchSelection:
    strategy = OnlineBatchSelection(**options)
    strategy.start(Bins(torch.arange(size) % 3 if size > 2 else torch.zeros(size, dtype=torch.int64)))
    per_epoch = max(size // BATCH, 1)
    strategy.plan(None if epochs is None else epochs * per_epoch, per_epoch)
    return strategy


def law_over_ranks(size: int, pressure: float) -> list[float]:
    """As the script has it: each is the one before over exp(ln s / N), and all over their sum."""
    law = [1.0]
    for _ in range(size - 1):
        law.append(law[-1] / math.exp(math.log(pressure) / size))
    total = math.fsum(law)
    return [p / total for p in law]


class Script:
    """The authors' loop, in passes of whole batches; equal losses in the order of the instances."""

    def __init__(self, size: int, epochs: int, options: dict[str, Any]) -> None:
        self.table = [[INF, index] for index in range(size)]
        self.size, self.epochs = size, epochs
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
        self.law = law_over_ranks(self.size, self.s_start * factor**self.epoch)
        self.cumulative = [math.fsum(self.law[: rank + 1]) for rank in range(self.size)]

    def draw(self, uniforms: list[float]) -> list[int]:
        if self.epoch > 0 and self.since_sort >= self.period:
            self.table.sort(key=lambda row: (-row[0], row[1]))
            self.since_sort = 0
            self.sorts += 1
        if self.epoch == 0:
            self.positions = [(self.at + k) % self.size for k in range(len(uniforms))]
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
        if not self.frequency or self.trained - self.trained_then <= self.size / self.frequency:
            return False
        self.trained_then = self.trained
        for row in self.table[: int(self.size * self.ratio)]:
            row[0] = losses[int(row[1])]
        self.recomputations += 1
        return True


def random_losses(size: int, step: int, generator: torch.Generator) -> torch.Tensor:
    """Over many orders, with exact zeros and equal ones."""
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(4) * 10.0 ** (-(step % 5))
    return torch.where(torch.rand(size, generator=generator) < 0.3, losses.round(decimals=1), losses)


@pytest.mark.parametrize("batch", [4, 20, 50])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"s_start": 100.0, "s_end": 1.01, "recompute_every": 0.0},
        {"s_start": 2.0, "s_end": 50.0, "sort_period": 30, "recompute_every": 0.6, "recompute_ratio": 0.4},
    ],
    ids=str,
)
def test_draws_losses_sorts_and_recomputations_are_those_of_the_script(options, batch):
    options = {
        "s_start": 1e8, "s_end": 1e8, "sort_period": 100, "recompute_every": 2.0, "recompute_ratio": 1.0, **options,
    }  # fmt: skip
    epochs = 6
    strategy, oracle = started(epochs=epochs, **options), Script(N, epochs, options)
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
                assert draw.probabilities.tolist() == pytest.approx([oracle.law[k] for k in oracle.positions], rel=1e-9)
            # Of duplicates that disagree the last counts.
            losses, anew = random_losses(batch, step, noise), random_losses(N, step, noise)
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
            law = torch.empty(N, dtype=torch.float64)
            law[[int(row[1]) for row in order]] = double(*oracle.law)
            torch.testing.assert_close(strategy.probabilities(), law if epoch else torch.full_like(law, 1 / N))
    assert duplicates > 10
    assert oracle.sorts >= epochs - 1
    assert (oracle.recomputations > 1) == (options["recompute_every"] > 0)


def test_by_hand():
    """Four instances, s = 16: ρ = 1/2, and the ranks have 8, 4, 2, 1 fifteenths."""
    strategy = started(4, s_start=16.0, s_end=16.0, sort_period=1, reweight=True)
    strategy.start_epoch(seeded())
    draw = strategy.draw(4, seeded())
    assert draw.indices.tolist() == [0, 1, 2, 3]
    assert draw.probabilities.tolist() == [0.25] * 4
    assert draw.weights is not None
    assert draw.weights.tolist() == [1.0] * 4
    strategy.update(draw, double(0.5, 3.0, 0.5, 7.0), torch.zeros(4))
    strategy.start_epoch(seeded())
    assert strategy.probabilities().tolist() == pytest.approx([2 / 15, 4 / 15, 1 / 15, 8 / 15])
    draw = strategy.draw(6, seeded())
    p = draw.probabilities
    assert p.tolist() == pytest.approx(strategy.probabilities()[draw.indices].tolist())
    assert draw.weights is not None
    assert draw.weights.tolist() == pytest.approx([float(p.mean() / own) for own in p])
    strategy.update(as_drawn([3, 0, 3]), double(9.0, 1.0, 0.75), torch.zeros(3))
    assert strategy.probabilities().tolist() == pytest.approx([4 / 15, 8 / 15, 1 / 15, 2 / 15])


def as_drawn(indices: list[int]) -> Draw:
    chosen = torch.tensor(indices, dtype=torch.int64)
    return Draw(chosen, chosen % 3, torch.ones(len(indices), dtype=torch.float64))


@pytest.mark.parametrize("pressure", [1.0, 1 + 1e-12, 1.01, 100.0, 1e8, 1e300])
@pytest.mark.parametrize("size", [1, 2, 90])
def test_ranks_follow_the_exponential_law(size, pressure):
    strategy = started(size, s_start=pressure, s_end=pressure)
    for _ in range(2):
        strategy.start_epoch(seeded())
    law = double(*law_over_ranks(size, pressure))
    torch.testing.assert_close(strategy.probabilities(), law, rtol=1e-9, atol=0)  # unseen all: ranks are instances
    draw = strategy.draw(100_000, seeded(3))
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-9, atol=0)
    assert size == 1 or p_value(draw.indices, law) > 1e-3
    first, last = (torch.tensor([end], dtype=torch.float64) for end in (0.0, 1 - 2**-53))
    assert int(strategy._ranks(first)) == 0
    assert int(strategy._ranks(last)) == size - 1 or pressure == 1e300


def test_the_script_s_weights_keep_the_sum_that_the_uniform_mean_has():
    """Each of them is unbiased but for the factor mean p, so that p-weighted averages of w/mean p are uniform sums."""
    strategy = started(30, s_start=50.0, s_end=50.0, reweight=True)
    for _ in range(2):
        strategy.start_epoch(seeded())
    values = torch.rand(30, dtype=torch.float64, generator=seeded(4))
    draw = strategy.draw(200_000, seeded(5))
    assert draw.weights is not None
    estimates = draw.weights * values[draw.indices] / draw.probabilities.mean() / 30
    error = float(estimates.std()) / len(estimates) ** 0.5
    assert abs(float(estimates.mean() - values.mean())) < 4 * error
    assert not started().weighted
    assert strategy.weighted
    assert started().draw(3, seeded()).weights is None


def test_the_pressure_goes_from_the_start_towards_the_end():
    strategy = started(epochs=10, s_start=1e8, s_end=1e2)
    seen = []
    for _ in range(12):
        strategy.start_epoch(seeded())
        seen.append(strategy.metrics()["selection_pressure"])
    assert seen == pytest.approx([10 ** (8 - 0.6 * epoch) for epoch in range(10)] + [100.0, 100.0])


def test_a_new_training_begins_with_a_pass_and_the_first_pressure():
    strategy = trained(16, seeded(14), s_start=1e4, s_end=1e2)
    losses = strategy.state_dict()["losses"]
    assert strategy.selection_pressure < 1e4
    strategy.begin()
    strategy.start_epoch(seeded())
    assert strategy.selection_pressure == 1e4
    assert strategy.draw(BATCH, seeded()).indices.tolist() == list(range(BATCH))
    assert torch.equal(strategy.state_dict()["losses"], losses)


def test_a_last_epoch_that_is_cut_short_counts_as_one():
    strategy = started(s_start=1e8, s_end=1e2)
    strategy.plan(5 * 6 + 1, 6)
    for _ in range(4):
        strategy.start_epoch(seeded())
    assert strategy.selection_pressure == pytest.approx(1e5)


def test_a_pressure_that_moves_needs_an_end():
    with pytest.raises(ValueError, match=r"`s_start` = 100.0 to `s_end` = 2.0 .* `max_epochs` or `max_steps`"):
        started(epochs=None, s_start=100.0, s_end=2.0)
    assert started(epochs=None).selection_pressure == 1e8


def test_a_shuffled_first_pass_sees_all_once_and_is_another_one_each_time():
    strategy, generator = started(first_pass="shuffled"), seeded(6)
    strategy.start_epoch(generator)
    first = torch.cat([strategy.draw(26, generator).indices for _ in range(5)])
    assert first.sort().values.tolist() == list(range(N))
    assert first.tolist() != list(range(N))
    strategy.start(Bins(torch.zeros(N, dtype=torch.int64)))
    strategy.start_epoch(generator)
    assert strategy.draw(26, generator).indices.tolist() != first[:26].tolist()


def test_batches_that_were_drawn_ahead_come_from_the_order_of_their_draw():
    strategy, generator = trained(9, seeded(7), sort_period=10), seeded(8)
    ahead = [strategy.draw(BATCH, generator) for _ in range(3)]
    law = strategy.probabilities()
    for draw in ahead:
        torch.testing.assert_close(draw.probabilities, law[draw.indices])
        strategy.update(draw, random_losses(BATCH, 0, generator), torch.zeros(BATCH))
    assert strategy._since_sort == 3 * BATCH


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


def trained(steps: int, generator: torch.Generator, size: int = N, **options: Any) -> OnlineBatchSelection:
    strategy = started(size, **options)
    for step in range(steps):
        train_one(strategy, generator, step)
    return strategy


def train_one(strategy: OnlineBatchSelection, generator: torch.Generator, step: int) -> Draw:
    if step % 6 == 0:
        strategy.start_epoch(generator)
    draw = strategy.draw(BATCH, generator)
    strategy.update(draw, random_losses(BATCH, step, generator), torch.zeros(BATCH).double())
    wanted = strategy.wanted()
    if wanted is not None:
        strategy.refresh(wanted, Scores(losses=random_losses(len(wanted), step, generator)))
    return draw


@pytest.mark.parametrize("steps", [0, 3, 6, 16])
@pytest.mark.parametrize("options", [{}, {"sort_period": 50, "recompute_every": 0.3}, {"first_pass": "shuffled"}])
def test_a_restored_state_goes_on_exactly(options, steps):
    options = {"reweight": True, "s_start": 1e4, "s_end": 10.0, **options}
    generator = seeded(9)
    strategy = trained(steps, generator, **options)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(**options), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    for step in range(steps, steps + 20):
        draw, expected = train_one(restored, other, step), train_one(strategy, generator, step)
        assert draw.within is None
        for name in ("indices", "bins", "probabilities", "weights"):
            assert torch.equal(getattr(draw, name), getattr(expected, name))
        assert torch.equal(restored.probabilities(), strategy.probabilities())
    assert restored.metrics() == strategy.metrics()
    again = started(**options)
    again.load_state_dict(state["strategy"])  # which neither has changed
    other.set_state(state["generator"])
    assert again._evaluated == steps * BATCH


@pytest.mark.parametrize("size", [20, 21, 60])
@pytest.mark.parametrize("loss", [0.0, 5e-324, 1e300, -3.0, NAN, INF])
def test_odd_losses_never_break_the_law(size, loss):
    strategy, generator = started(size, recompute_every=0.5), seeded(10)
    for step in range(15):
        if step % 4 == 0:
            strategy.start_epoch(generator)
        draw = strategy.draw(BATCH, generator)
        usual = torch.rand(BATCH, dtype=torch.float64, generator=generator)
        odd = torch.full_like(usual, loss)
        strategy.update(draw, [odd, torch.where(usual < 0.5, odd, usual), usual][step % 3], torch.zeros(BATCH).double())
        wanted = strategy.wanted()
        if wanted is not None:
            strategy.refresh(wanted, Scores(losses=torch.full((len(wanted),), loss, dtype=torch.float64)))
        law = strategy.probabilities()
        assert float(law.sum()) == pytest.approx(1)
        assert float(law.min()) > 0
    assert (strategy.skipped > 0) == (not abs(loss) < INF)
    assert not strategy._ranking.values.isnan().any()


def test_losses_that_are_not_finite_leave_the_ranks_as_they_are():
    strategy = trained(12, seeded(11), sort_period=1, recompute_every=0.1)
    before = strategy.probabilities()
    strategy.update(as_drawn([1, 2]), double(NAN, INF), torch.zeros(2).double())
    wanted = torch.arange(N)
    strategy.refresh(wanted, Scores(losses=torch.full((N,), NAN, dtype=torch.float64)))
    assert torch.equal(strategy.probabilities(), before)
    assert strategy.skipped == 2 + N


def test_to_look_at_the_law_changes_nothing():
    one, other = trained(15, seeded(12)), trained(15, seeded(12))
    one.probabilities()
    mine, its = one.state_dict(), other.state_dict()
    assert mine.pop("progress") == its.pop("progress")
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(its[name])) for name, value in mine.items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"s_start": 0.5}, ValueError, "`s_start` must be a finite selection pressure of at least 1, got 0.5"),
        ({"s_end": INF}, ValueError, "`s_end` must be a finite selection pressure of at least 1, got inf"),
        ({"s_end": NAN}, ValueError, "`s_end` must be a finite"),
        ({"sort_period": 0}, ValueError, "`sort_period` must be at least 1 instance, got 0"),
        ({"sort_period": 2.5}, TypeError, "`sort_period` must be an integer number of instances, got 2.5"),
        ({"sort_period": True}, TypeError, "`sort_period` must be an integer"),
        ({"recompute_every": -1.0}, ValueError, "`recompute_every` must be a number of epochs, or 0 for never, got -1"),
        ({"recompute_ratio": 0.0}, ValueError, r"`recompute_ratio` must be in \(0, 1\], got 0.0: .*recompute_every=0"),
        ({"recompute_ratio": 1.5}, ValueError, r"`recompute_ratio` must be in \(0, 1\], got 1.5"),
        ({"first_pass": "random"}, ValueError, "`first_pass` must be one of sequential, shuffled; got 'random'"),
    ],
    ids=str,
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        OnlineBatchSelection(**options)
