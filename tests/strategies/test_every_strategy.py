import itertools
import math
import pickle
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import BatchSelector, Strategy
from tests.helpers.catalogue import CATALOGUE, VARIANTS
from tests.helpers.driver import EPOCH, Driver
from tests.helpers.looking import no_looking
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import started

Make = Callable[[], Strategy]
EPOCHS = 4
# 96 instances, as in every test over all strategies: some are given something for each.
TAGS = torch.repeat_interleave(torch.arange(4), torch.tensor([31, 1, 14, 50]))[torch.randperm(96, generator=seeded())]
EVERY = CATALOGUE | VARIANTS
every_strategy = pytest.mark.parametrize("make", EVERY.values(), ids=list(EVERY))
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


def check_distribution(strategy: Strategy) -> None:
    probabilities = strategy.probabilities()
    assert probabilities.dtype == torch.float64
    assert probabilities.shape == (len(strategy.bins),)
    assert (probabilities >= 0).all()
    assert float(probabilities.sum()) == pytest.approx(1, rel=1e-9)
    assert all(math.isfinite(figure) for figure in strategy.metrics().values()), strategy.metrics()


@every_strategy
@pytest.mark.parametrize(("ahead", "size"), [(0, 16), (3, 16), (1, 96)])
def test_draws_are_what_they_say_and_stay_it(make: Make, ahead: int, size: int):
    strategy, bins = make(), Bins(TAGS)
    if isinstance(strategy, BatchSelector):  # whose candidates have to be different ones
        size = min(size, 24)
    driver = Driver(strategy, bins, size=size, epochs=EPOCHS, ahead=ahead)
    copies: list[bytes] = []
    for _ in range(EPOCHS * EPOCH):
        driver.run(1)
        check_distribution(strategy)
        copies += [pickle.dumps(draw) for draw in driver.drawn[len(copies) :]]
    for draw, kept in zip(driver.drawn, copies, strict=True):
        check_draw(draw, bins)
        assert same(draw, pickle.loads(kept))
        assert len(draw.indices) == size or (isinstance(strategy, BatchSelector) and len(draw.indices) > size)
    for draw in driver.trained:
        check_draw(draw, bins)
        assert len(draw.indices) == size
    assert len(driver.trained) == EPOCHS * EPOCH
    assert any(draw.weights is not None for draw in driver.trained) == strategy.weighted


@every_strategy
@pytest.mark.parametrize("steps", [0, 2 * EPOCH + 1])
def test_draws_follow_the_distribution_and_carry_it(make: Make, steps: int):
    """Passes follow it more closely than independent draws. A presample is followed only in the mean."""
    strategy, generator = Driver(make(), Bins(TAGS), size=24).run(steps).strategy, seeded(3)
    draws = [strategy.draw(24, generator) for _ in range(120)]
    probabilities = strategy.probabilities()
    if "predictor" in strategy.state_dict() and strategy.state_dict()["predictor"] == "lstm":
        return
    if strategy.state_dict().get("scores") is None:  # InfoBatch goes on with the pass that it has begun
        for draw in draws:
            torch.testing.assert_close(draw.probabilities, probabilities[draw.indices], rtol=1e-9, atol=0)
    assert p_value(torch.cat([draw.indices for draw in draws]), probabilities) > 1e-3


WITH_POINTS = [name for name, make in EVERY.items() if getattr(make(), "points", None) == "strata"]


@pytest.mark.parametrize("name", WITH_POINTS)
def test_an_epoch_of_equal_instances_is_a_permutation_and_the_next_another_one(name: str):
    """In equal bins, before anything is known, and whether or not the batches fit into an epoch."""
    for size in (16, 36):
        strategy, generator, drawn = started(EVERY[name](), 96), seeded(), []
        for _ in range(2):
            strategy.start_epoch(generator)
            if strategy.state_dict().get("predictor") == "lstm" or strategy.probabilities().std() > 1e-6:
                return
            drawn.append(torch.cat([strategy.draw(size, generator).indices for _ in range(96 // size)]))
        assert all(len(epoch.unique()) == 96 // size * size for epoch in drawn)
        assert not torch.equal(*drawn)


def test_draws_have_strata_wherever_they_are_of_a_distribution_over_the_instances():
    assert {name.split()[0] for name in WITH_POINTS} == {
        "AdaptiveSampling",
        "ClosenessSampling",
        "GopalSampling",
        "GradientNormSampling",
        "LearnedProposal",
        "LossProportional",
        "OnlineBatchSelection",
        "RebinnedSampling",
        "StaticImportanceSampling",
    }


UNBIASED = ("GradientNorm", "Static", "Stratified", "Gopal", "LearnedProposal")


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith(UNBIASED) or name.endswith("unbiased")])
def test_weights_are_unbiased_by_enumeration(name: str):
    """Σ r w f is the mean of f over the data, with the weight that each instance has when it is drawn."""
    strategy = Driver(EVERY[name](), Bins(TAGS), size=24).run(2 * EPOCH + 1).strategy
    probabilities, values = strategy.probabilities(), torch.rand(96, dtype=torch.float64, generator=seeded(1))
    weights, generator = torch.full((96,), math.nan, dtype=torch.float64), seeded(2)
    for _ in range(5000):
        draw = strategy.draw(24, generator)
        assert draw.weights is not None
        # Of prioritised sampling the largest of a batch is 1: the common factor that this takes away is put back.
        factor = 1 / (96 * draw.probabilities[0] * draw.weights[0]) if name.startswith("Prioritized") else 1.0
        weights[draw.indices] = draw.weights * factor
        if not weights.isnan().any():
            break
    assert float((probabilities * weights * values).sum()) == pytest.approx(float(values.mean()), rel=1e-9)


@every_strategy
@pytest.mark.parametrize("before", [0, 1, EPOCH + 2, 2 * EPOCH])
def test_a_saved_state_goes_on_to_the_bit(make: Make, before: int):
    whole = Driver(make(), Bins(TAGS), ahead=3).run(before)
    state = whole.saved()
    kept, copy = whole.strategy.state_dict(), pickle.dumps(whole.strategy.state_dict())
    whole.run(EPOCHS * EPOCH - before)
    rest = Driver(make(), Bins(TAGS), seed=99, ahead=3)
    rest.strategy.load_state_dict(kept)
    rest.run(1)
    assert same(kept, pickle.loads(copy)), "a state is a copy, and is copied when it is loaded"
    rest.load(state).run(EPOCHS * EPOCH - before)  # whatever it has learned before
    assert same(rest.trained[1:], whole.trained[before:])
    assert same(rest.saved(), whole.saved())
    assert torch.equal(rest.strategy.probabilities(), whole.strategy.probabilities())
    assert rest.strategy.metrics() == whole.strategy.metrics()


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
@pytest.mark.parametrize(
    ("tags", "odd"),
    [(TAGS, odd) for odd in (0.0, math.nan, math.inf, 1e300, 5e-324)]
    + [(torch.zeros(96, dtype=torch.int64), odd) for odd in (0.0, math.nan)]
    + [(torch.arange(96).clamp(max=4), odd) for odd in (0.0, math.nan)],
    ids=lambda value: str(value if isinstance(value, float) else torch.bincount(value).tolist()),
)
def test_odd_numbers_leave_distributions_and_figures(make: Make, tags: Tensor, odd: float):
    """An epoch with some of them, one with nothing else, and one of usual numbers again; and in another order."""
    strategy, bins = make(), Bins(tags)
    driver = Driver(strategy, bins, size=8, epochs=6)
    for share in (1.0, 0.0, 0.3, 1.0, 0.3, 0.0):
        driver.odd, driver.odd_share = odd, share
        driver.run(1)
        check_distribution(strategy)
        driver.run(EPOCH - 1)
        check_distribution(strategy)
    for draw in driver.trained:
        check_draw(draw, bins)
    assert (strategy.skipped > 0) == (not math.isfinite(odd))


@every_strategy
def test_a_negative_loss_is_refused_where_it_would_be_a_probability_and_nothing_at_all_is_fine(make: Make):
    driver = Driver(make(), Bins(TAGS)).run(EPOCH + 1)
    strategy, draw = driver.strategy, driver.trained[-1]
    refused = pytest.raises(ValueError, match=r"`losses` must not be negative to sample by them, got -1\.0")
    with refused if strategy.samples_by_loss else nullcontext():
        strategy.update(draw, double(-1).expand(16), double(0).expand(16))
    for _ in range(40):  # as many batches as any window
        strategy.learn(draw.select(torch.empty(0, dtype=torch.int64)), double(), double())
    check_distribution(strategy)
    driver.run(EPOCH)
    check_distribution(strategy)


@every_strategy
def test_draws_come_from_the_given_generator_alone(make: Make):
    torch.manual_seed(1)
    before = torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate()
    one = Driver(make(), Bins(TAGS), ahead=2).run(2 * EPOCH)
    Driver(make(), Bins(TAGS)).load(one.saved())
    check_distribution(one.strategy)
    assert before == (torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate())
    torch.manual_seed(2)
    other = Driver(make(), Bins(TAGS), ahead=2).run(2 * EPOCH)
    third = Driver(make(), Bins(TAGS), ahead=2, seed=3).run(2 * EPOCH)
    assert same(one.trained, other.trained)
    assert not all(same(draw.indices, its.indices) for draw, its in zip(one.trained, third.trained, strict=True))


@pytest.mark.usefixtures("in_torch")
@pytest.mark.parametrize("name", [name for name, make in CATALOGUE.items() if make().any_device])
def test_off_the_cpu_it_draws_and_learns_without_looking(name: str):
    strategy, generator, losses = started(CATALOGUE[name](), Bins(TAGS)), seeded(), double(*range(16))
    losses[3] = math.nan
    drawn = []
    with no_looking():
        for step in range(12):
            if step % 6 == 0:
                strategy.start_epoch(generator)
            drawn.append(strategy.draw(16, generator))
            strategy.update(drawn[-1], losses, losses)
    assert strategy.skipped == 12
    for draw in drawn:
        check_draw(draw, strategy.bins)
    check_distribution(strategy)


def under_defaults(strategy: Strategy, dtype: torch.dtype) -> Strategy:
    """The strategy, all of whose methods run under these defaults of torch and those of another device."""

    def changed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            torch.set_default_dtype(dtype)
            try:
                with torch.device("meta"):
                    return method(*args)
            finally:
                torch.set_default_dtype(torch.float32)

        return run

    for name in ("start", "start_epoch", "draw", "select", "update", "wanted", "refresh", "state_dict"):
        if hasattr(strategy, name):
            setattr(strategy, name, changed(getattr(strategy, name)))
    return strategy


@every_strategy
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_type_and_device_change_nothing(make: Make, dtype: torch.dtype):
    strategy = under_defaults(make(), dtype)
    expected, found = (Driver(its, Bins(TAGS)).run(2 * EPOCH + 1) for its in (make(), strategy))
    assert same(found.trained, expected.trained)
    assert same(found.saved(), expected.saved())
