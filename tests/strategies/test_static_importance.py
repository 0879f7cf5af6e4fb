from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies import Scores, StaticImportanceSampling
from tests.helpers.statistics import p_value

N = 83
TAGS = torch.arange(N) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def constants(seed: int = 0) -> Tensor:
    """Over many orders, a fifth of them 0."""
    generator = seeded(seed)
    values = torch.rand(N, dtype=torch.float64, generator=generator).pow(5) * 10
    values[torch.rand(N, generator=generator) < 0.2] = 0.0
    return values


def started(tags: Tensor = TAGS, **options: Any) -> StaticImportanceSampling:
    strategy = StaticImportanceSampling(**options)
    strategy.start(Bins(tags))
    return strategy


def naive(values: list[float], share: float) -> list[float]:
    total = math.fsum(values)
    return [share / len(values) + (1 - share) * value / total for value in values]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_the_law_and_the_weights_by_the_formula(share: float, seed: int):
    values = constants(seed)
    strategy = started(uniform_share=share, constants=values.tolist())
    law = double(*naive(values.tolist(), share))
    torch.testing.assert_close(strategy.probabilities(), law, rtol=1e-12, atol=0)
    draw = strategy.draw(500, seeded(seed))
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)
    assert torch.equal(draw.bins, TAGS[draw.indices])
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, 1 / (N * law[draw.indices]), rtol=1e-12, atol=0)
    largest = max(1 / (N * p) for p in law.tolist() if p)
    assert strategy.metrics()["largest_weight"] == pytest.approx(largest)
    assert float(draw.weights.max()) <= largest * (1 + 1e-12)
    if share:
        assert largest <= 1 / share + 1e-9


def test_by_hand():
    strategy = started(torch.tensor([0, 0, 1, 1]), constants=[1, 2, 5, 0])
    torch.testing.assert_close(strategy.probabilities(), double(3, 4, 7, 2) / 16)
    draw = strategy.draw(50, seeded())
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, (4 / double(3, 4, 7, 2))[draw.indices])
    assert strategy.metrics() == {"largest_weight": pytest.approx(2)}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_draws_follow_the_law(share: float):
    strategy = started(uniform_share=share, constants=constants())
    draw = strategy.draw(200_000, seeded(1))
    assert p_value(draw.indices, strategy.probabilities()) > 1e-3
    if share == 0:
        assert float(constants()[draw.indices].min()) > 0


def test_the_expected_weighted_value_is_the_plain_mean():
    strategy = started(constants=constants())
    law, values = strategy.probabilities(), torch.rand(N, dtype=torch.float64, generator=seeded(1))
    assert float((law * values / (N * law)).sum()) == pytest.approx(float(values.mean()), rel=1e-12)
    draw = strategy.draw(100_000, seeded(2))
    assert draw.weights is not None
    estimates = draw.weights * values[draw.indices]
    assert abs(float(estimates.mean() - values.mean())) < 4 * float(estimates.std()) / math.sqrt(100_000)


# --- Constants from the inputs ---


def test_the_inputs_are_wanted_once_and_their_squared_norms_are_the_constants():
    strategy, inputs = started(), torch.randn(N, 7, generator=seeded(3)) * 3
    assert strategy.reads == {"inputs"}
    assert strategy.probabilities().tolist() == [1 / N] * N
    assert torch.equal(strategy.wanted(), torch.arange(N))  # pyright: ignore[reportArgumentType]
    shuffled = torch.randperm(N, generator=seeded(4))
    strategy.refresh(shuffled, Scores(inputs=inputs[shuffled]))
    assert strategy.wanted() is None
    norms = [math.fsum(x * x for x in row) for row in inputs.tolist()]
    torch.testing.assert_close(strategy.probabilities(), double(*naive(norms, 0.5)), rtol=1e-12, atol=0)


def test_inputs_that_are_bytes_do_not_overflow():
    strategy = started(torch.zeros(2, dtype=torch.int64), uniform_share=0.0)
    strategy.refresh(torch.arange(2), Scores(inputs=torch.tensor([[200, 0], [100, 100]], dtype=torch.uint8)))
    torch.testing.assert_close(strategy.probabilities(), double(2, 1) / 3)


def test_given_constants_read_nothing():
    strategy = started(constants=constants())
    assert strategy.wanted() is None
    assert strategy.reads == frozenset()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_refused(value: float):
    inputs = torch.ones(N, 2)
    inputs[5, 1] = value
    with pytest.raises(ValueError, match=f"The squared norm of the input 5 is {value}: mend the data, or give"):
        started().refresh(torch.arange(N), Scores(inputs=inputs))


# --- State, and what is odd ---


@pytest.mark.parametrize("known", [False, True])
def test_a_restored_state_goes_on_with_equal_draws(known: bool):
    strategy, generator = started(), seeded()
    if known:
        strategy.refresh(torch.arange(N), Scores(inputs=torch.randn(N, 3, generator=seeded(5))))
    strategy.draw(10, generator)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert (restored.wanted() is None) == known
    for _ in range(5):
        draw, expected = restored.draw(20, other), strategy.draw(20, generator)
        for name in ("indices", "bins", "probabilities", "weights"):
            assert torch.equal(getattr(draw, name), getattr(expected, name))
        restored.update(draw, torch.ones(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64))
    assert torch.equal(restored.probabilities(), strategy.probabilities())


def test_constants_and_states_are_copies():
    values = constants()
    strategy = started(constants=values)
    law, state = strategy.probabilities(), strategy.state_dict()
    values.fill_(1)
    state["constants"].fill_(1)
    strategy.probabilities().fill_(1)
    again = StaticImportanceSampling(constants=strategy.constants)  # pyright: ignore[reportArgumentType]
    again.start(Bins(TAGS))
    assert torch.equal(again.probabilities(), law)
    assert torch.equal(strategy.probabilities(), law)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, 0.0], [1, 1, 1]),
        ([1e308, 1e308, 0.0], [1, 1, 0]),
        ([5e-324, 0.0, 0.0], [1, 0, 0]),
        ([1e-310, 1e308, 1e308], [0, 1, 1]),
    ],
)
def test_constants_at_the_ends_of_float64(share: float, values: list[float], expected: list[float]):
    strategy = started(torch.zeros(3, dtype=torch.int64), uniform_share=share, constants=values)
    law = strategy.probabilities()
    torch.testing.assert_close(law, double(*naive(expected, share)))
    draw = strategy.draw(1000, seeded())
    assert draw.weights is not None
    assert torch.isfinite(draw.weights).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uniform_share": -0.1}, r"`uniform_share` must be in \[0, 1\], got -0.1"),
        ({"uniform_share": 1.1}, r"`uniform_share` must be in \[0, 1\], got 1.1"),
        ({"constants": []}, r"`constants` must be one number per instance, got the shape \(0,\)"),
        ({"constants": [[1.0]]}, r"`constants` must be one number per instance, got the shape \(1, 1\)"),
        ({"constants": [1.0, -2.0]}, "`constants` must be finite and not negative, got -2.0 at position 1"),
        ({"constants": [math.nan]}, "`constants` must be finite and not negative, got nan at position 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        StaticImportanceSampling(**options)


def test_constants_of_another_data_set_are_refused():
    with pytest.raises(ValueError, match="`constants` must be one for each of the 83 instances, got 2"):
        started(constants=[1.0, 2.0])


def test_a_state_of_other_constants_is_refused():
    one, other = (StaticImportanceSampling(constants=constants) for constants in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]))
    for strategy in (one, other):
        strategy.start(Bins([0, 0, 1]))
    with pytest.raises(ValueError, match="of other `constants` than those given"):
        other.load_state_dict(one.state_dict())
    assert other.probabilities()[0] > other.probabilities()[2]
