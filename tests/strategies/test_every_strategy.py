"""What every strategy of the catalogue has to keep, whatever its method; what a card has is in `test_cards.py`."""

from __future__ import annotations

import inspect
import itertools
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from lightning_as import cli, strategies
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import BatchSelector, Strategy, cards
from tests.helpers.catalogue import CATALOGUE
from tests.helpers.driver import EPOCH, Driver

Make = Callable[[], Strategy]
EPOCHS = 4
# 96 instances, as in every test over all strategies: some are given something for each.
TAGS = torch.repeat_interleave(torch.arange(4), torch.tensor([31, 1, 14, 50]))[
    torch.randperm(96, generator=torch.Generator().manual_seed(0))
]
every_strategy = pytest.mark.parametrize("make", CATALOGUE.values(), ids=list(CATALOGUE))
pytestmark = pytest.mark.filterwarnings("ignore:.*not finite")


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit; NaN, which stands for what is unknown, equals NaN."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and same(one.tolist(), other.tolist())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))
    return one == other or (one != one and other != other)


def check_draw(draw: Draw, bins: Bins) -> None:
    """Its fields are what `Draw` says."""
    indices, size = draw.indices, len(draw.indices)
    assert indices.dtype == draw.bins.dtype == torch.int64
    assert 0 <= int(indices.min()) <= int(indices.max()) < len(bins)
    assert torch.equal(draw.bins, bins.of(indices))
    for field in (draw.probabilities, draw.within, draw.weights):
        if field is not None:
            assert field.dtype == torch.float64
            assert field.shape == (size,)
            assert field.isfinite().all()
            assert (field > 0).all()


def check_law(strategy: Strategy) -> None:
    """The law is one, and the figures are numbers."""
    assert strategy.bins is not None
    law = strategy.probabilities()
    assert law.dtype == torch.float64
    assert law.shape == (len(strategy.bins),)
    assert law.isfinite().all()
    assert (law >= 0).all()
    assert float(law.sum()) == pytest.approx(1, rel=1e-9)
    assert all(math.isfinite(figure) for figure in strategy.metrics().values()), strategy.metrics()


@every_strategy
@pytest.mark.parametrize(("ahead", "size"), [(0, 16), (3, 16), (1, 96)])
def test_draws_are_what_they_say(make: Make, ahead: int, size: int):
    strategy, bins = make(), Bins(TAGS)
    if isinstance(strategy, BatchSelector):  # whose candidates have to be different ones
        size = min(size, 24)
    driver = Driver(strategy, bins, size=size, epochs=EPOCHS, ahead=ahead)
    for _ in range(EPOCHS * EPOCH):
        driver.run(1)
        check_law(strategy)
    for draw in driver.drawn:
        check_draw(draw, bins)
        assert len(draw.indices) == driver.size or isinstance(strategy, BatchSelector)
        assert len(draw.indices) >= driver.size
    for draw in driver.trained:
        check_draw(draw, bins)
        assert len(draw.indices) == driver.size
    assert len(driver.trained) == EPOCHS * EPOCH
    assert any(draw.weights is not None for draw in driver.trained) == strategy.weighted


@every_strategy
@pytest.mark.parametrize("before", [1, EPOCH - 1, EPOCH + 2, 2 * EPOCH])
def test_a_saved_state_goes_on_to_the_bit(make: Make, before: int):
    whole = Driver(make(), Bins(TAGS), ahead=3).run(before)
    state = whole.saved()
    kept, copy = whole.strategy.state_dict(), pickle.dumps(whole.strategy.state_dict())
    whole.run(EPOCHS * EPOCH - before)
    assert same(kept, pickle.loads(copy)), "a state is a copy"
    rest = Driver(make(), Bins(TAGS), seed=99, ahead=3).load(state).run(EPOCHS * EPOCH - before)
    for mine, its in zip(rest.trained, whole.trained[before:], strict=True):
        assert same(mine, its)
    assert same(rest.saved(), whole.saved())
    assert torch.equal(rest.strategy.probabilities(), whole.strategy.probabilities())


@every_strategy
def test_started_again_it_begins_anew(make: Make):
    strategy = make()
    Driver(strategy, Bins(TAGS), seed=5, odd=math.nan, odd_share=0.3).run(EPOCH + 3)
    again = Driver(strategy, Bins(TAGS)).run(2 * EPOCH)
    fresh = Driver(make(), Bins(TAGS)).run(2 * EPOCH)
    assert same(again.trained, fresh.trained)
    assert same(again.saved(), fresh.saved())
    assert strategy.skipped == 0


@every_strategy
@pytest.mark.parametrize("odd", [0.0, math.nan, math.inf, 1e300, 5e-324])
@pytest.mark.parametrize(
    "tags",
    [TAGS, torch.zeros(96, dtype=torch.int64), torch.arange(96).clamp(max=4)],
    ids=["bins", "one class", "bins of one"],
)
def test_odd_numbers_leave_laws_and_figures(make: Make, tags: Tensor, odd: float):
    """An epoch with some of them, one with nothing else, and one of usual numbers again; and in another order."""
    strategy, bins = make(), Bins(tags)
    driver = Driver(strategy, bins, size=8, epochs=6)
    for share in (1.0, 0.0, 0.3, 1.0, 0.3, 0.0):
        driver.odd, driver.odd_share = odd, share
        driver.run(1)
        check_law(strategy)
        driver.run(EPOCH - 1)
        check_law(strategy)
    for draw in driver.trained:
        check_draw(draw, bins)
    assert (strategy.skipped > 0) == (not math.isfinite(odd))


@every_strategy
def test_an_update_with_nothing_in_it_leaves_a_law(make: Make):
    strategy, nothing = make(), torch.empty(0, dtype=torch.float64)
    driver = Driver(strategy, Bins(TAGS)).run(EPOCH + 1)
    draw = driver.trained[-1].select(torch.empty(0, dtype=torch.int64))
    for _ in range(40):  # as many batches as any window here
        strategy.learn(draw, nothing, nothing)
    check_law(strategy)
    driver.run(EPOCH)
    check_law(strategy)


@every_strategy
def test_the_global_random_states_stay(make: Make):
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate()

    before = states()
    driver = Driver(make(), Bins(TAGS), ahead=2).run(2 * EPOCH)
    Driver(make(), Bins(TAGS)).load(driver.saved())
    check_law(driver.strategy)
    assert states() == before


@every_strategy
def test_draws_come_from_the_given_generator_alone(make: Make):
    torch.manual_seed(1)
    one = Driver(make(), Bins(TAGS)).run(2 * EPOCH)
    torch.manual_seed(2)
    other = Driver(make(), Bins(TAGS)).run(2 * EPOCH)
    third = Driver(make(), Bins(TAGS), seed=3).run(2 * EPOCH)
    assert same(one.trained, other.trained)
    assert not same([draw.indices for draw in one.trained], [draw.indices for draw in third.trained])


def test_the_catalogue_has_every_strategy_under_its_name():
    public = [getattr(strategies, name) for name in strategies.__all__]
    methods = {
        c.__name__ for c in public if inspect.isclass(c) and issubclass(c, Strategy) and not inspect.isabstract(c)
    }
    assert {type(make()).__name__ for make in CATALOGUE.values()} == methods
    assert all(name.split()[0] == type(make()).__name__ for name, make in CATALOGUE.items())


@pytest.mark.parametrize("card", cards.cards(), ids=lambda card: card.name)
def test_the_preset_of_a_strategy_makes_it(card: cards.Card):
    preset = yaml.safe_load((cli.PRESETS / f"{card.preset}.yaml").read_text())
    (callback,) = preset["trainer"]["callbacks"]
    strategy = callback["init_args"]["strategy"]
    assert strategy["class_path"] == f"lightning_as.{card.name}"
    assert (cli.PRESETS / f"{card.preset}.yaml").read_text().startswith("# ")
