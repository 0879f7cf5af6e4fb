from __future__ import annotations

import io
import math
import random
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, Draw, SelectiveBackprop
from lightning_as.strategies import Scores
from tests.helpers.statistics import p_value

N, SIZE = 60, 8
TAGS = torch.arange(N) % 3


def started(epochs: int | None = 10, batches: int = 7, **options: Any) -> SelectiveBackprop:
    strategy = SelectiveBackprop(**options)
    strategy.start(Bins(TAGS))
    strategy.plan(None if epochs is None else epochs * batches, batches)
    return strategy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def choose(strategy: SelectiveBackprop, losses: Tensor, size: int, generator: torch.Generator) -> list[int]:
    indices = torch.arange(len(losses)) % N
    draw = Draw(indices, TAGS[indices], torch.full((len(losses),), 1 / N).double())
    selection = strategy.select(draw, Scores(losses=losses), size, generator)
    assert selection.weights is None
    assert selection.probabilities is None
    return selection.positions.tolist()


class Oracle:
    """The source's calculator, loss by loss, and its coins."""

    def __init__(self, beta: float, minimum: float, history: int) -> None:
        self.beta, self.minimum, self.history = beta, minimum, history
        self.losses: list[float] = []

    def chances(self, losses: list[float]) -> list[float]:
        for loss in losses:
            self.losses.append(loss)
            if len(self.losses) > self.history:
                self.losses.pop(0)
        smaller = [sum(other < loss for other in self.losses) for loss in losses]
        return [max(self.minimum, (count / len(self.losses)) ** self.beta) for count in smaller]


@pytest.mark.parametrize("history", [10, 50, 1024])
@pytest.mark.parametrize(("beta", "minimum"), [(3.0, 0.0), (1.0, 0.2)])
def test_whoever_the_coins_keep_is_chosen_first(beta: float, minimum: float, history: int):
    strategy = started(beta=beta, minimum=minimum, history=history)
    oracle, generator, shadow = Oracle(beta, minimum, history), seeded(), seeded()
    numbers = random.Random(0)
    surplus = shortage = 0
    for _ in range(100):
        losses = [round(numbers.random(), 1) * numbers.choice([0, 1, 3]) for _ in range(24)]  # many equal, many 0
        positions = choose(strategy, torch.tensor(losses, dtype=torch.float64), SIZE, generator)
        coins = torch.rand(24, dtype=torch.float64, generator=shadow).tolist()
        chances = oracle.chances(losses)
        kept = {at for at in range(24) if coins[at] < chances[at]}
        assert len(set(positions)) == SIZE
        assert kept <= set(positions) if len(kept) <= SIZE else set(positions) <= kept
        surplus, shortage = surplus + (len(kept) > SIZE), shortage + (len(kept) < SIZE)
        keys = [coins[at] / chances[at] if chances[at] else math.inf for at in range(24)]
        certain = sorted((at for at in range(24) if chances[at]), key=lambda at: keys[at])[:SIZE]
        assert positions[: len(certain)] == certain
    assert shortage
    assert surplus or minimum == 0


def test_percentiles_computed_by_hand():
    strategy = started(beta=2.0, history=4)
    strategy._history = torch.tensor([5.0, 0.5, 2.0]).double()
    # Of 5, 0.5, 2, 1, 3 the last four count: below 1 there is one, below 3 there are three.
    chances = strategy._by_percentile(torch.tensor([1.0, 3.0]).double())
    assert chances.tolist() == [1 / 16, 9 / 16]
    assert strategy.state_dict()["history"].tolist() == [0.5, 2.0, 1.0, 3.0]


def test_composers_law_by_enumeration_of_draws_without_replacement():
    """Of 4 candidates in order 2 with keep = 1/2: p ∝ ((rank + ½)/4)^1."""
    strategy = started(form="composer")
    losses = torch.tensor([0.3, 0.1, 0.9, 0.2]).double()
    p = dict(zip([1, 3, 0, 2], [1 / 16, 3 / 16, 5 / 16, 7 / 16], strict=True))
    pairs = list(permutations(range(4), 2))
    law = torch.tensor([p[a] * p[b] / (1 - p[a]) for a, b in pairs], dtype=torch.float64)
    generator = seeded()
    chosen = [pairs.index(tuple(choose(strategy, losses, 2, generator))) for _ in range(8000)]  # pyright: ignore[reportArgumentType]
    assert p_value(torch.tensor(chosen), law) > 1e-3


def test_composers_chances_by_hand():
    strategy = started(form="composer", keep=0.25)
    chances = strategy._by_rank(torch.tensor([0.3, 0.1]).double())
    assert chances.tolist() == [0.75**3, 0.25**3]


def sizes(strategy: SelectiveBackprop, epochs: int, batches: int) -> list[list[int]]:
    generator = seeded()
    found = []
    for _ in range(epochs):
        strategy.start_epoch(generator)
        found.append([len(strategy.draw(SIZE, generator).indices) // SIZE for _ in range(batches)])
    return found


def test_the_first_epoch_keeps_everything_and_fills_no_history():
    strategy = started()
    assert sizes(strategy, 3, 4) == [[1] * 4, [4] * 4, [4] * 4]
    strategy.learn(Draw(torch.arange(3), TAGS[:3], torch.ones(3)), torch.ones(3), torch.ones(3))
    assert len(strategy.state_dict()["history"]) == 0
    assert strategy.metrics() == {"choosing": 1.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1] * 4, [1, 1, 2, 1], [2, 1, 2, 1], [1] * 4]),  # of 16 batches the 7th to the 12th, but no even one
        ({"interrupt": 0}, [[1] * 4, [1, 1, 2, 2], [2] * 4, [1] * 4]),
        ({"interrupt": 3, "start": 0.0, "end": 1.0, "keep": 0.2}, [[5, 5, 1, 5]] * 4),
    ],
)
def test_composer_chooses_in_its_part_of_the_training(options: dict[str, Any], expected: list[list[int]]):
    options = {"start": 6 / 16, "end": 12 / 16, **options}
    assert sizes(started(epochs=4, batches=4, form="composer", **options), 4, 4) == expected


def test_a_new_training_chooses_in_its_part_again():
    options = {"start": 6 / 16, "end": 12 / 16, "interrupt": 0}
    strategy = started(epochs=4, batches=4, form="composer", **options)
    first = sizes(strategy, 4, 4)
    strategy.begin()
    assert sizes(strategy, 4, 4) == first
    other = started()
    choose(other, torch.rand(24).double(), SIZE, seeded())
    assert sizes(other, 2, 3) == [[1] * 3, [4] * 3]
    other.begin()
    assert len(other.state_dict()["history"]) == 24
    assert sizes(other, 2, 3) == [[1] * 3, [4] * 3]


def test_composers_defaults():
    strategy = SelectiveBackprop(form="composer")
    assert (strategy.first, strategy.end, strategy.interrupt, strategy.factor) == (0.5, 0.9, 2, 2)


def test_composer_needs_an_end_in_sight():
    with pytest.raises(ValueError, match=r"no end in sight: give the Trainer `max_epochs` or `max_steps`"):
        started(epochs=None, form="composer")
    started(epochs=None)


def test_candidates_are_passes_over_the_data():
    strategy, generator = started(keep=0.5), seeded()
    strategy.start_epoch(generator)
    strategy.start_epoch(generator)
    drawn = torch.cat([strategy.draw(SIZE, generator).indices for _ in range(15)])
    assert torch.equal(drawn.view(4, N).sort(1).values, torch.arange(N).expand(4, N))
    assert strategy.probabilities().tolist() == [1 / N] * N


@pytest.mark.parametrize("form", ["percentile", "composer"])
@pytest.mark.parametrize("value", [0.0, 2.0, -1.0, math.inf, math.nan])
def test_equal_or_strange_losses_are_chosen_at_random(form: Any, value: float):
    strategy, generator = started(form=form), seeded()
    chosen = torch.tensor([choose(strategy, torch.full((12,), value).double(), 3, generator) for _ in range(500)])
    assert all(len(set(one)) == 3 for one in chosen.tolist())
    if form == "percentile":
        assert p_value(chosen.flatten(), torch.full((12,), 1 / 12).double()) > 1e-3
    assert bool(strategy.state_dict()["history"].isfinite().all())
    assert strategy.skipped == (0 if math.isfinite(value) else 6000)


def test_keep_is_by_default_what_the_law_keeps():
    assert [SelectiveBackprop(beta=beta).factor for beta in (3.0, 1.0, 0.1, 3.6)] == [4, 2, 2, 5]
    assert SelectiveBackprop(keep=0.1).factor == 10
    strategy, generator = started(history=10_000), seeded()
    losses = torch.rand(4000, dtype=torch.float64, generator=generator)
    assert float(strategy._by_percentile(losses).mean()) == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.parametrize("form", ["percentile", "composer"])
def test_a_restored_state_goes_on(form: Any):
    options = {"form": form, "start": 0.1, "end": 1.0}

    def steps(strategy: SelectiveBackprop, generator: torch.Generator, count: int) -> list[Any]:
        seen: list[Any] = []
        for step in range(count):
            draw = strategy.draw(SIZE, generator)
            if len(draw.indices) > SIZE:
                losses = (draw.indices % 7).double()
                seen.append(strategy.select(draw, Scores(losses=losses), SIZE, generator).positions.tolist())
            seen.append(draw.indices.tolist())
            if step == 4:
                strategy.start_epoch(generator)
        return [*seen, strategy.state_dict()["history"].tolist()]

    strategy, generator = started(**options), seeded()
    strategy.start_epoch(generator)
    strategy.start_epoch(generator)
    steps(strategy, generator, 3)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other, generator_2 = started(**options), seeded(5)
    other.load_state_dict(state["strategy"])
    generator_2.set_state(state["generator"])
    assert steps(other, generator_2, 9) == steps(strategy, generator, 9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"form": "queue"}, ValueError, "`form` must be one of percentile, composer; got 'queue'"),
        ({"keep": 0.4}, ValueError, "`keep` must be 1 over a whole number .* got 0.4"),
        ({"beta": 0.0}, ValueError, "`beta` must be positive and finite, got 0.0"),
        ({"minimum": 1.5}, ValueError, r"`minimum` must be in \[0, 1\], got 1.5"),
        ({"history": 0}, ValueError, "`history` must be at least 1 loss, got 0"),
        ({"history": 2.0}, TypeError, "`history` must be an integer, got 2.0"),
        ({"interrupt": 1}, ValueError, "`interrupt` must be 0 or at least 2 batches, got 1"),
        ({"start": 0.9, "end": 0.5}, ValueError, "`start` and `end` must be .* got 0.9 and 0.5"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        SelectiveBackprop(**options)
