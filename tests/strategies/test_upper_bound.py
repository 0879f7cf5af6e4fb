from __future__ import annotations

import io
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, Draw, UpperBoundImportanceSampling
from lightning_as.core.draw import importance_weights
from lightning_as.strategies import Scores, Selection
from tests.helpers.statistics import p_value

N, SIZE = 60, 8
TAGS = torch.arange(N) % 3


def started(**options: Any) -> UpperBoundImportanceSampling:
    strategy = UpperBoundImportanceSampling(**options)
    strategy.start(Bins(TAGS))
    return strategy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def candidates(indices: Tensor) -> Draw:
    return Draw(indices, TAGS[indices], torch.full((len(indices),), 1 / N).double())


def chosen(strategy: UpperBoundImportanceSampling, values: Tensor, size: int = SIZE, seed: int = 0) -> Selection:
    """What is chosen of candidates with these losses or bounds."""
    scores = Scores(losses=values) if strategy.score == "loss" else Scores(bounds=values)
    return strategy.select(candidates(torch.arange(len(values)) % N), scores, size, seeded(seed))


def active(strategy: UpperBoundImportanceSampling) -> UpperBoundImportanceSampling:
    strategy.load_state_dict({"tau": strategy.threshold + 1.0})
    return strategy


class Oracle:
    """The source's loop, instance by instance, with its own expression of τ."""

    def __init__(self, score: str, tau_form: str, momentum: float) -> None:
        self.score, self.tau_form, self.momentum = score, tau_form, momentum
        self.tau = 0.0

    def shares(self, values: list[float]) -> list[float]:
        s = [v if self.score == "loss" else math.sqrt(v) for v in values]
        return [1 / len(s) if sum(s) == 0 else one / sum(s) for one in s]

    def weights(self, values: list[float]) -> list[float]:
        return [math.inf if g == 0 else 1 / (len(values) * g) for g in self.shares(values)]

    def note(self, values: list[float]) -> None:
        g = self.shares(values)
        u = 1 / len(g)
        rest = 1 - sum((one - u) ** 2 for one in g) / sum(one**2 for one in g)
        new = 1 / math.sqrt(rest) if self.tau_form == "sqrt" else 1 / rest
        self.tau = self.momentum * self.tau + (1 - self.momentum) * new


@pytest.mark.parametrize("score", ["bound", "loss"])
@pytest.mark.parametrize("tau_form", ["sqrt", "ratio"])
def test_weights_and_tau_are_those_of_a_naive_loop(score: Any, tau_form: Any):
    strategy = started(score=score, tau_form=tau_form, momentum=0.7)
    oracle = Oracle(score, tau_form, 0.7)
    generator = seeded(1)
    for step in range(200):
        values = torch.rand(3 * SIZE, dtype=torch.float64, generator=generator).pow(4)
        values[torch.rand(3 * SIZE, generator=generator) < 0.3] = 0
        if step == 50:
            values.zero_()
        if step % 3:
            selection = chosen(strategy, values, seed=step)
            expected = oracle.weights(values.tolist())
            assert selection.weights is not None
            assert selection.weights.tolist() == pytest.approx(
                [expected[at] for at in selection.positions.tolist()], rel=1e-12
            )
            draw = candidates(selection.positions)._replace(weights=selection.weights)
            strategy.update(draw, torch.rand(SIZE).double(), torch.rand(SIZE).double())  # which counts nothing
        else:
            values = values[:SIZE]
            draw = candidates(torch.randint(5, (SIZE,), generator=generator))
            strategy.update(draw, values if score == "loss" else values + 1, values)
        oracle.note(values.tolist())
        assert strategy.state_dict()["tau"] == pytest.approx(oracle.tau, rel=1e-12)


def test_a_choice_computed_by_hand():
    strategy = started()
    selection = chosen(strategy, torch.tensor([9.0, 1.0, 0.0, 0.0]).double(), 50)
    # s = (3, 1, 0, 0), g = (3/4, 1/4, 0, 0), w = 1/(4 g), r = 4 g/60; tau_new = sqrt(4 · 10/16).
    assert selection.weights is not None
    assert selection.probabilities is not None
    assert set(selection.positions.tolist()) == {0, 1}
    by_position = dict(zip(selection.positions.tolist(), selection.weights.tolist(), strict=True))
    assert by_position == {0: pytest.approx(1 / 3), 1: pytest.approx(1.0)}
    assert selection.probabilities.max().item() == pytest.approx(3 / 60)
    assert strategy.metrics() == {"tau": pytest.approx(0.1 * math.sqrt(2.5)), "active": 0.0}
    ratio = started(tau_form="ratio")
    chosen(ratio, torch.tensor([9.0, 1.0, 0.0, 0.0]).double(), 50)
    assert ratio.metrics()["tau"] == pytest.approx(0.1 * 2.5)


@pytest.mark.parametrize("score", ["bound", "loss"])
def test_choices_follow_the_scores(score: Any):
    strategy = started(score=score)
    values = torch.tensor([4.0, 0.0, 1.0, 16.0, 0.25, 1.0]).double()
    selection = chosen(strategy, values, 40_000)
    law = values.sqrt() if score == "bound" else values
    assert p_value(selection.positions, law / law.sum()) > 1e-3


def test_the_weighted_mean_is_that_of_the_data_by_enumeration():
    """Over all candidates that may be drawn, three of four instances with replacement, and all choices among them."""
    count, presample = 4, 3
    f, bounds = [3.0, -1.0, 10.0, 0.5], [0.04, 1.0, 0.5, 2.0]
    strategy = UpperBoundImportanceSampling(presample=presample)
    strategy.start(Bins([0] * count))
    expectation = 0.0
    for drawn in product(range(count), repeat=presample):
        found = torch.tensor([bounds[i] for i in drawn], dtype=torch.float64)
        draw = Draw(torch.tensor(drawn), torch.zeros(presample).long(), torch.full((presample,), 1 / count).double())
        selection = strategy.select(draw, Scores(bounds=found), 300, seeded())
        assert selection.weights is not None
        weight = dict(zip(selection.positions.tolist(), selection.weights.tolist(), strict=True))
        g = [math.sqrt(bounds[i]) / sum(math.sqrt(bounds[j]) for j in drawn) for i in drawn]
        assert set(weight) == set(range(presample))
        expectation += sum(g[at] * weight[at] * f[i] for at, i in enumerate(drawn)) / count**presample
    assert expectation == pytest.approx(sum(f) / count, rel=1e-12)


def test_unbiased_weights_from_the_probabilities_are_the_sources():
    selection = chosen(started(), torch.rand(24, generator=seeded(3)).double())
    assert selection.probabilities is not None
    torch.testing.assert_close(importance_weights(selection.probabilities, N), selection.weights, rtol=1e-12, atol=0)


def test_candidates_are_drawn_once_tau_is_above_the_threshold_and_draws_may_run_ahead():
    strategy, generator = started(presample=4), seeded()
    assert strategy.threshold == pytest.approx(7 / 3)
    sharp = torch.zeros(SIZE).double()
    sharp[0] = 1.0  # tau_new = sqrt(8) = 2.83: above 7/3 after 17 steps, 1 - 0.9^17 = 0.833
    sizes = []
    ahead = [strategy.draw(SIZE, generator) for _ in range(3)]
    for _ in range(25):
        draw = ahead.pop(0)
        sizes.append(len(draw.indices))
        if len(draw.indices) == SIZE:
            assert draw.weights is None
            strategy.update(draw, torch.ones(SIZE).double(), sharp)
        else:
            scores = Scores(bounds=torch.cat([sharp] * 4))
            selection = strategy.select(draw, scores, SIZE, generator)
            strategy.update(draw.select(selection.positions)._replace(weights=selection.weights), sharp, sharp)
        ahead.append(strategy.draw(SIZE, generator))
    assert sizes == [SIZE] * (17 + 2) + [4 * SIZE] * 6  # two had been drawn before the 17th step, besides its own


def test_the_default_threshold_is_where_the_forward_passes_pay():
    assert started().threshold == 2.0
    assert started(presample=5).threshold == pytest.approx((5 * 128 + 3 * 128) / (3 * 128))
    assert started(threshold=1.5).threshold == 1.5


def test_equal_scores_give_weights_of_one_and_back_to_uniform_batches():
    strategy = active(started())
    for _ in range(60):
        selection = chosen(strategy, torch.full((24,), 0.3).double())
        assert selection.weights is not None
        assert selection.weights.tolist() == pytest.approx([1.0] * SIZE)
    assert strategy.metrics()["tau"] == pytest.approx(1.0, abs=0.01)
    assert len(strategy.draw(SIZE, seeded()).indices) == SIZE


@pytest.mark.parametrize("size", [SIZE, 3 * SIZE])
def test_draws_are_uniform_with_replacement(size: int):
    strategy = started() if size == SIZE else active(started())
    generator = seeded()
    draws = [strategy.draw(SIZE, generator) for _ in range(2000)]
    assert {len(draw.indices) for draw in draws} == {size}
    indices = torch.cat([draw.indices for draw in draws])
    assert p_value(indices, strategy.probabilities()) > 1e-3
    assert any(len(draw.indices.unique()) < size for draw in draws)
    assert torch.equal(draws[0].bins, TAGS[draws[0].indices])
    assert draws[0].probabilities.unique().tolist() == [1 / N]


@pytest.mark.parametrize("value", [0.0, 1e-320, 1e300, math.inf, math.nan])
def test_strange_scores_give_finite_weights(value: float):
    strategy = started()
    for values in ([value] * 24, [value] * 3 + [1.0] * 21):
        selection = chosen(strategy, torch.tensor(values, dtype=torch.float64))
        assert selection.weights is not None
        assert bool(selection.weights.isfinite().all())
        assert math.isfinite(strategy.metrics()["tau"])
    assert strategy.skipped == (27 if not math.isfinite(value) else 0)
    nan = torch.full((SIZE,), math.nan).double()
    before = strategy.state_dict()
    strategy.update(candidates(torch.arange(SIZE)), nan, nan)
    assert strategy.state_dict() == before


def test_an_unknown_score_counts_as_the_mean_of_the_others():
    values = torch.tensor([1.0, math.inf, 4.0, 1.0]).double()
    selection = chosen(started(score="loss"), values, 200)
    assert selection.weights is not None
    weight = dict(zip(selection.positions.tolist(), selection.weights.tolist(), strict=True))
    assert weight == {0: pytest.approx(2.0), 1: pytest.approx(1.0), 2: pytest.approx(0.5), 3: pytest.approx(2.0)}


def test_negative_losses_are_refused():
    with pytest.raises(ValueError, match=r"`losses` must not be negative .* got -1.0: .* `score='bound'`"):
        chosen(started(score="loss"), torch.tensor([1.0, -1.0]).double())


def test_a_restored_state_goes_on():
    strategy, generator = started(threshold=0.2), seeded()

    def steps(strategy: UpperBoundImportanceSampling, generator: torch.Generator, count: int) -> list[Any]:
        seen = []
        for _ in range(count):
            draw = strategy.draw(SIZE, generator)
            bounds = (draw.indices % 7).double()
            if len(draw.indices) > SIZE:
                selection = strategy.select(draw, Scores(bounds=bounds), SIZE, generator)
                draw = draw.select(selection.positions)._replace(weights=selection.weights)
            strategy.update(draw, torch.ones(SIZE).double(), (draw.indices % 7).double())
            seen += [draw.indices.tolist(), strategy.state_dict()]
        return seen

    steps(strategy, generator, 1)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other, generator_2 = started(threshold=0.2), seeded(5)
    other.load_state_dict(state["strategy"])
    generator_2.set_state(state["generator"])
    assert steps(other, generator_2, 9) == steps(strategy, generator, 9)
    assert strategy.metrics()["active"] == 1.0
    strategy.start(Bins(TAGS))
    assert strategy.state_dict() == {"tau": 0.0}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"presample": 2.5}, TypeError, "`presample` must be a whole number .* got 2.5"),
        ({"presample": True}, TypeError, "`presample`"),
        ({"presample": 1}, ValueError, "`presample` must be at least 2 .* got 1"),
        ({"threshold": -1.0}, ValueError, "`threshold` must be finite and not negative, got -1.0"),
        ({"threshold": math.nan}, ValueError, "`threshold`"),
        ({"momentum": 1.0}, ValueError, r"`momentum` must be in \[0, 1\), got 1.0"),
        ({"score": "norm"}, ValueError, "`score` must be one of bound, loss; got 'norm'"),
        ({"tau_form": "cube"}, ValueError, "`tau_form` must be one of sqrt, ratio; got 'cube'"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        UpperBoundImportanceSampling(**options)


def test_it_reads_what_its_score_needs():
    assert started().reads == {"bounds"}
    assert started(score="loss").reads == {"losses"}
    assert UpperBoundImportanceSampling.weighted
