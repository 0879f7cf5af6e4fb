import math
import random
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import SelectiveBackprop
from lightning_as.strategies import Scores
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import as_drawn, started

N, SIZE = 60, 8


def choose(strategy: SelectiveBackprop, losses: Tensor, size: int, generator: torch.Generator) -> list[int]:
    draw = as_drawn(strategy, torch.arange(len(losses)) % N)
    selection = strategy.select(draw, Scores(losses=losses), size, generator)
    assert selection.weights is selection.probabilities is None
    return selection.positions.tolist()


class Oracle:
    def __init__(self, beta: float, minimum: float, history: int) -> None:
        self.beta, self.minimum, self.history = beta, minimum, history
        self.losses: list[float] = []

    def chances(self, losses: list[float]) -> list[float]:
        self.losses = [*self.losses, *losses][-self.history :]
        smaller = [sum(other < loss for other in self.losses) for loss in losses]
        return [max(self.minimum, (count / len(self.losses)) ** self.beta) for count in smaller]


@pytest.mark.parametrize("history", [10, 50, 1024])
@pytest.mark.parametrize(("beta", "minimum"), [(3.0, 0.0), (1.0, 0.2)])
def test_whoever_the_coins_keep_is_chosen_first(beta: float, minimum: float, history: int):
    strategy = started(SelectiveBackprop(beta=beta, minimum=minimum, history=history), N)
    oracle, generator, shadow = Oracle(beta, minimum, history), seeded(), seeded()
    numbers = random.Random(0)
    counts: set[int] = set()
    for _ in range(100):
        losses = [round(numbers.random(), 1) * numbers.choice([0, 1, 3]) for _ in range(24)]  # many equal, many 0
        positions = choose(strategy, double(*losses), SIZE, generator)
        coins = torch.rand(24, dtype=torch.float64, generator=shadow).tolist()
        chances = oracle.chances(losses)
        kept = {at for at in range(24) if coins[at] < chances[at]}
        assert len(set(positions)) == SIZE
        assert kept <= set(positions) if len(kept) <= SIZE else set(positions) <= kept
        counts |= {(len(kept) > SIZE) - (len(kept) < SIZE)}
        keys = [coins[at] / chances[at] if chances[at] else math.inf for at in range(24)]
        certain = sorted((at for at in range(24) if chances[at]), key=lambda at: keys[at])[:SIZE]
        assert positions[: len(certain)] == certain
        assert strategy.state_dict()["history"].tolist() == oracle.losses
    assert counts >= ({-1, 1} if minimum else {-1})


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_composer_draws_without_replacement_by_enumeration(keep: float):
    """Of 4 candidates in order 2: p ∝ ((rank + ½)/4)^(1/keep − 1)."""
    strategy, generator, losses = started(SelectiveBackprop("composer", keep), N), seeded(), double(0.3, 0.1, 0.9, 0.2)
    powers = [((rank + 0.5) / 4) ** (1 / keep - 1) for rank in (2, 0, 3, 1)]
    p = [power / sum(powers) for power in powers]
    pairs = list(permutations(range(4), 2))
    expected = double(*(p[a] * p[b] / (1 - p[a]) for a, b in pairs))
    chosen = [pairs.index((a, b)) for a, b in (choose(strategy, losses, 2, generator) for _ in range(3000))]
    assert p_value(torch.tensor(chosen), expected) > 1e-3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"form": "percentile"}, [[1] * 4, [4] * 4, [4] * 4, [4] * 4]),  # the first epoch keeps everything
        ({}, [[1] * 4, [1, 1, 2, 1], [2, 1, 2, 1], [1] * 4]),  # of 16 batches the 7th to the 12th, but no even one
        ({"interrupt": 0}, [[1] * 4, [1, 1, 2, 2], [2] * 4, [1] * 4]),
        ({"interrupt": 3, "start": 0.0, "end": 1.0, "keep": 0.2}, [[5, 5, 1, 5]] * 4),
    ],
)
def test_how_many_batches_of_candidates_each_draw_of_a_training_has(options: dict[str, Any], expected: list[list[int]]):
    options = {"form": "composer", "start": 6 / 16, "end": 12 / 16, **options}
    strategy, generator = started(SelectiveBackprop(**options), N, 16, 4), seeded()
    choose(strategy, torch.rand(24, generator=generator).double(), SIZE, generator)
    history = strategy.state_dict()["history"]
    for _ in range(2):
        strategy.progress.reset()
        for epoch in expected:
            strategy.start_epoch(generator)
            for factor in epoch:
                assert len(strategy.draw(SIZE, generator).indices) == factor * SIZE
                strategy.progress.step()
        assert torch.equal(strategy.state_dict()["history"], history)
    assert strategy.metrics() == {"choosing": float(options["form"] == "percentile")}


@pytest.mark.parametrize("form", ["percentile", "composer"])
@pytest.mark.parametrize("value", [0.0, math.nan])
def test_equal_or_strange_losses_are_chosen_at_random(form: Any, value: float):
    strategy, generator = started(SelectiveBackprop(form), N), seeded()
    chosen = torch.tensor([choose(strategy, torch.full((12,), value).double(), 3, generator) for _ in range(500)])
    assert all(len(set(one)) == 3 for one in chosen.tolist())
    if form == "percentile":
        assert p_value(chosen.flatten(), torch.full((12,), 1 / 12).double()) > 1e-3
    assert bool(strategy.state_dict()["history"].isfinite().all())
    assert strategy.skipped == (0 if math.isfinite(value) else 6000)


def test_the_share_kept_is_what_the_percentiles_keep_on_average_as_one_over_a_whole_number():
    assert [SelectiveBackprop(beta=beta).factor for beta in (3.0, 1.0, 0.1, 3.6)] == [4, 2, 2, 5]
    assert SelectiveBackprop(keep=0.1).factor == 10
    assert SelectiveBackprop(form="composer").factor == 2
