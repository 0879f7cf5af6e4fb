from __future__ import annotations

import io
import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import GradientNormSampling
from tests.helpers.statistics import p_value

N = 61
TAGS = torch.arange(N) % 3
NAN, INF = math.nan, math.inf


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(tags: Tensor = TAGS, **options: Any) -> GradientNormSampling:
    strategy = GradientNormSampling(**options)
    strategy.start(Bins(tags))
    return strategy


def random_bounds(size: int, generator: torch.Generator) -> Tensor:
    """Over many orders, a fifth of them 0."""
    bounds = torch.rand(size, dtype=torch.float64, generator=generator).pow(8) * 1e4
    bounds[torch.rand(size, generator=generator) < 0.2] = 0.0
    return bounds


def trained(steps: int, generator: torch.Generator, size: int = 16, **options: Any) -> GradientNormSampling:
    strategy = started(**options)
    for _ in range(steps):
        learn(strategy, strategy.draw(size, generator), random_bounds(size, generator))
    return strategy


def learn(strategy: GradientNormSampling, draw: Draw, bounds: Tensor) -> None:
    strategy.update(draw, torch.ones(len(bounds), dtype=torch.float64), bounds)


def as_drawn(strategy: GradientNormSampling, indices: list[int]) -> Draw:
    chosen = torch.tensor(indices, dtype=torch.int64)
    assert strategy.bins is not None
    return Draw(chosen, strategy.bins.of(chosen), strategy.probabilities()[chosen])


class Oracle:
    """By loops, with the batch in which each norm was found."""

    def __init__(self, constant: float, staleness: int | None, warm_up: float) -> None:
        self.constant, self.staleness, self.warm_up = constant, staleness, warm_up
        self.found: dict[int, tuple[int, float]] = {}
        self.now = 0

    def learn(self, indices: list[int], bounds: list[float]) -> None:
        self.now += 1
        for index, bound in zip(indices, bounds, strict=True):
            self.found[index] = (self.now, math.sqrt(bound) + self.constant)

    def good(self) -> dict[int, float]:
        """That of the last batch is 1 old."""
        oldest = -INF if self.staleness is None else self.now + 1 - self.staleness
        return {index: omega for index, (batch, omega) in self.found.items() if batch >= oldest}

    def law(self) -> list[float]:
        good = self.good()
        if not len(good) / N > self.warm_up:
            return [1 / N] * N
        mean = fmean(good.values())
        omegas = [good.get(index, mean) for index in range(N)]
        total = math.fsum(omegas)
        return [omega / total if total else 1 / N for omega in omegas]


@pytest.mark.parametrize("constant", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("staleness", [None, 1, 3, 10])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5])
def test_agrees_with_loops(constant: float, staleness: int | None, warm_up: float):
    strategy = started(constant=constant, staleness=staleness, warm_up=warm_up)
    oracle, generator = Oracle(constant, staleness, warm_up), seeded()
    duplicates = warm = 0
    for _ in range(80):
        law = double(*oracle.law())
        torch.testing.assert_close(strategy.probabilities(), law, rtol=1e-11, atol=0)
        draw = strategy.draw(8, generator)
        duplicates += 8 - len(draw.indices.unique())
        warm += float(law.std()) > 0
        torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-11, atol=0)
        assert draw.weights is not None
        torch.testing.assert_close(draw.weights, 1 / (N * law[draw.indices]), rtol=1e-11, atol=0)
        assert torch.equal(draw.bins, TAGS[draw.indices])
        bounds = random_bounds(8, generator)
        learn(strategy, draw, bounds)
        oracle.learn(draw.indices.tolist(), bounds.tolist())
        good = oracle.good()
        assert strategy.metrics()["usable"] == pytest.approx(len(good) / N)
        assert strategy.metrics()["gradient_norm"] == pytest.approx(fmean(good.values()) - constant, abs=1e-9)
    assert duplicates > 10
    assert (warm > 40) == (8 * (staleness or 10) / N > 0.9 * warm_up)


def test_the_weight_is_the_mean_over_the_own_and_by_hand():
    strategy = started(torch.tensor([0, 0, 0, 0]), constant=1.0, warm_up=0.0)
    learn(strategy, as_drawn(strategy, [2, 0, 2]), double(100, 9, 4))
    # ω = 4, ?, 3, ?; the unknown count as the mean, 3.5.
    torch.testing.assert_close(strategy.probabilities(), double(4, 3.5, 3, 3.5) / 14)
    draw = strategy.draw(30, seeded())
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, (3.5 / double(4, 3.5, 3, 3.5))[draw.indices])
    assert strategy.metrics() == {"usable": 0.5, "gradient_norm": 2.5}


def test_a_norm_is_good_for_so_many_batches_and_renewed_by_another_visit():
    strategy = started(torch.zeros(4, dtype=torch.int64), constant=0.0, staleness=2, warm_up=0.0)
    usable = []
    for indices in ([0, 1], [1], [2], [2], [3, 3]):
        learn(strategy, as_drawn(strategy, indices), torch.ones(len(indices), dtype=torch.float64))
        usable.append(4 * strategy.metrics()["usable"])
    assert usable == [2, 2, 2, 1, 2]


def test_a_batch_without_a_finite_bound_ages_the_norms():
    strategy = started(constant=0.0, staleness=1, warm_up=0.0)
    learn(strategy, as_drawn(strategy, [0, 1]), double(1, 2))
    assert strategy.metrics()["usable"] == 2 / N
    learn(strategy, as_drawn(strategy, [4, 5]), double(NAN, INF))
    assert strategy.metrics() == {"usable": 0, "gradient_norm": 0}
    assert strategy.probabilities().tolist() == [1 / N] * N
    assert strategy.skipped == 2


def test_sampling_is_uniform_until_more_than_the_share_is_known():
    strategy = started(torch.zeros(10, dtype=torch.int64), warm_up=0.2)
    learn(strategy, as_drawn(strategy, [0, 1]), double(1, 100))
    assert strategy.probabilities().tolist() == [0.1] * 10
    assert strategy.draw(9, seeded()).weights.tolist() == [1.0] * 9  # pyright: ignore[reportOptionalMemberAccess]
    learn(strategy, as_drawn(strategy, [2]), double(1))
    assert float(strategy.probabilities()[1]) > 0.2


@pytest.mark.parametrize("steps", [0, 40])
def test_draws_follow_the_law(steps: int):
    strategy = trained(steps, seeded())
    assert (float(strategy.probabilities().std()) > 0) == (steps > 0)
    assert p_value(strategy.draw(100_000, seeded(1)).indices, strategy.probabilities()) > 1e-3


def test_the_expected_weighted_value_is_the_plain_mean():
    strategy = trained(40, seeded(), staleness=3)
    values = torch.rand(N, dtype=torch.float64, generator=seeded(1))
    draw = strategy.draw(100_000, seeded(2))
    assert draw.weights is not None
    estimates = draw.weights * values[draw.indices]
    assert abs(float(estimates.mean() - values.mean())) < 4 * float(estimates.std()) / math.sqrt(100_000)
    each = torch.full((N,), NAN, dtype=torch.float64)
    each[draw.indices] = draw.weights
    assert float((strategy.probabilities() * each * values).sum()) == pytest.approx(float(values.mean()), rel=1e-12)


def test_weights_stay_below_the_mean_over_the_constant():
    strategy = trained(60, seeded(), constant=2.0)
    draw = strategy.draw(5000, seeded(1))
    assert draw.weights is not None
    limit = (strategy.metrics()["gradient_norm"] + 2) / 2
    assert 0.5 * limit < float(draw.weights.max()) <= limit * (1 + 1e-12)


def test_draws_ahead_of_updates():
    strategy, generator = trained(10, seeded(), staleness=4), seeded(1)
    draws = [strategy.draw(8, generator) for _ in range(3)]
    kept = [(draw.indices.clone(), draw.probabilities.clone()) for draw in draws]
    for draw, (indices, probabilities) in zip(draws, kept, strict=True):
        learn(strategy, draw, random_bounds(8, generator))
        assert torch.equal(draw.indices, indices)
        assert torch.equal(draw.probabilities, probabilities)


@pytest.mark.parametrize("staleness", [None, 4])
@pytest.mark.parametrize("steps", [0, 2, 30])
def test_a_restored_state_goes_on_with_equal_draws(staleness: int | None, steps: int):
    generator = seeded()
    strategy = trained(steps, generator, staleness=staleness)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(staleness=staleness), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert restored.metrics() == strategy.metrics()
    for _ in range(15):
        draw, expected = restored.draw(16, other), strategy.draw(16, generator)
        for name in ("indices", "bins", "probabilities", "weights"):
            assert torch.equal(getattr(draw, name), getattr(expected, name))
        learn(restored, draw, random_bounds(16, other))
        learn(strategy, expected, random_bounds(16, generator))
        assert torch.equal(restored.probabilities(), strategy.probabilities())


def test_a_state_is_a_copy():
    strategy = trained(10, seeded(), staleness=4)
    state, law = strategy.state_dict(), strategy.probabilities()
    for _ in range(2):
        restored = started(staleness=4)
        restored.load_state_dict(state)
        assert torch.equal(restored.probabilities(), law)
        for changed in (restored, strategy):
            learn(changed, as_drawn(changed, list(range(N))), random_bounds(N, seeded(5)))


@pytest.mark.parametrize(("saved", "here"), [(None, 4), (4, None), (8, 4)])
def test_a_state_of_another_staleness_is_refused(saved: int | None, here: int | None):
    with pytest.raises(ValueError, match=f"is of another `staleness` than {here}: use the one it was saved with"):
        started(staleness=here).load_state_dict(trained(9, seeded(), staleness=saved).state_dict())


@pytest.mark.parametrize("constant", [0.0, 1.0])
@pytest.mark.parametrize("bounds", [[0.0] * 4, [INF, NAN, INF, NAN], [1e99, 0.0, 1e-300, 5e-324], [1e300, 1, 2, 3]])
@pytest.mark.parametrize("tags", [torch.zeros(5, dtype=torch.int64), torch.arange(5)], ids=["one bin", "five"])
def test_degenerate_bounds_leave_a_law(constant: float, bounds: list[float], tags: Tensor):
    strategy = started(tags, constant=constant, staleness=2, warm_up=0.0)
    for _ in range(3):
        learn(strategy, as_drawn(strategy, [0, 1, 2, 3]), double(*bounds))
        law = strategy.probabilities()
        assert (law >= 0).all()
        assert float(law.sum()) == pytest.approx(1)
        draw = strategy.draw(8, seeded())
        assert (draw.probabilities > 0).all()
        assert draw.weights is not None
        assert torch.isfinite(draw.weights).all()


def test_it_asks_for_the_gradients_of_the_linear_layers():
    strategy = GradientNormSampling()
    assert (strategy.gradients, strategy.reads, strategy.weighted) == ("linear", {"bounds"}, True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"constant": -1}, ValueError, "`constant` must be finite and not negative, got -1"),
        ({"constant": NAN}, ValueError, "`constant` must be finite and not negative, got nan"),
        ({"staleness": 0}, ValueError, "`staleness` must be at least 1 batch, or None for never, got 0"),
        ({"staleness": 1.5}, TypeError, r"`staleness` must be an integer number of batches or None, got 1\.5"),
        ({"warm_up": 1.0}, ValueError, r"`warm_up` must be in \[0, 1\), the share of instances that it waits for"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        GradientNormSampling(**options)
