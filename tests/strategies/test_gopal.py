from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import GopalSampling
from tests.helpers.statistics import p_value

TAGS = torch.repeat_interleave(torch.arange(4), torch.tensor([31, 1, 12, 56]))[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]
SIZES = [31, 1, 12, 56]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(tags: torch.Tensor = TAGS, **options: Any) -> GopalSampling:
    strategy = GopalSampling(**options)
    strategy.start(Bins(tags))
    return strategy


def random_bounds(size: int, generator: torch.Generator, step: int = 0) -> torch.Tensor:
    bounds = torch.rand(size, dtype=torch.float64, generator=generator).pow(4) * 10.0 ** (-(step % 5))
    bounds[torch.rand(size, generator=generator) < 0.3] = 0.0
    return bounds


def trained(steps: int, generator: torch.Generator, **options: Any) -> GopalSampling:
    strategy = started(**options)
    for step in range(steps):
        draw, bounds = strategy.draw(16, generator), random_bounds(16, generator, step)
        strategy.update(draw, bounds, bounds)
    return strategy


class Algorithm1:
    """Algorithm 1 of the paper, option 2, draw by draw; p moves after whole batches."""

    def __init__(self, sizes: list[int], window: int, delta: float) -> None:
        self.sizes, self.n, self.window, self.delta = sizes, sum(sizes), window, delta
        self.p = [size / self.n for size in sizes]
        self.clear()

    def clear(self) -> None:
        self.ssg = [0.0] * len(self.sizes)
        self.count = [0] * len(self.sizes)

    def batch(self, bins: list[int], bounds: list[float]) -> None:
        for k, bound in zip(bins, bounds, strict=True):
            self.ssg[k] += bound
            self.count[k] += 1
        if sum(self.count) < self.window:
            return
        drawn = [k for k in range(len(self.sizes)) if self.count[k]]
        root = {k: self.sizes[k] / self.n * math.sqrt(self.ssg[k] / self.count[k]) for k in drawn}
        if sum(root.values()) > 0:
            scale = sum(self.p[k] for k in drawn) / sum(root.values())
            new = [root[k] * scale if k in root else self.p[k] for k in range(len(self.sizes))]
            self.p = [self.delta * p + (1 - self.delta) * s / self.n for p, s in zip(new, self.sizes, strict=True)]
        self.clear()


@pytest.mark.parametrize("delta", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("window", [None, 1, 16, 17, 90])
def test_agrees_with_algorithm_1(delta, window):
    strategy = started(delta=delta, update_every=window)
    oracle = Algorithm1(SIZES, 25 if window is None else window, delta)
    generator = seeded(1)
    for step in range(120):
        draw, bounds = strategy.draw(16, generator), random_bounds(16, generator, step)
        if step % 11 == 0:
            bounds.zero_()
        strategy.update(draw, bounds, bounds)
        oracle.batch(draw.bins.tolist(), bounds.tolist())
        expected = torch.tensor(oracle.p, dtype=torch.float64)
        torch.testing.assert_close(strategy.bin_probabilities, expected, rtol=1e-11, atol=0)
    assert delta == 0 or (strategy.bin_probabilities - torch.tensor(SIZES) / 100).abs().max() > 0.01 * delta


def test_one_step_is_what_is_computed_by_hand():
    """Sizes 3 and 1; norms 1, 3 in bin 0 and 4, 4 in bin 1: roots 3 √5 and 4, halved with 3/4 and 1/4."""
    strategy = started(torch.tensor([0, 0, 0, 1]), update_every=4)
    assert strategy.bin_probabilities.tolist() == [0.75, 0.25]
    within = torch.tensor([1 / 3, 1.0, 1 / 3, 1.0], dtype=torch.float64)
    draw = Draw(torch.tensor([0, 3, 1, 3]), torch.tensor([0, 1, 0, 1]), within, within)
    strategy.update(draw, within, torch.tensor([1.0, 16.0, 9.0, 16.0], dtype=torch.float64))
    first = 3 * math.sqrt(5) / (3 * math.sqrt(5) + 4)
    assert strategy.bin_probabilities.tolist() == pytest.approx([(first + 0.75) / 2, (1 - first + 0.25) / 2], rel=1e-14)


def test_the_window_is_a_quarter_of_the_data_in_whole_batches():
    strategy = started()
    for batch in range(1, 10):
        draw = strategy.draw(10, seeded(batch))
        strategy.update(draw, torch.ones(10).double(), torch.ones(10).double() * (1 + draw.bins))
        assert strategy.metrics()["age_p"] == batch % 3  # 30 draws are the first to reach 25


@pytest.mark.parametrize("steps", [0, 2, 40])
def test_draws_follow_the_law_and_carry_it(steps):
    strategy = trained(steps, seeded(2), delta=0.9)
    law = strategy.probabilities()
    assert law.sum().item() == pytest.approx(1, rel=1e-12)
    draw = strategy.draw(100_000, seeded(3))
    assert p_value(draw.indices, law) > 1e-3
    assert torch.equal(draw.bins, TAGS[draw.indices])
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)
    torch.testing.assert_close(draw.within, 1 / torch.tensor(SIZES).double()[draw.bins])
    assert (steps == 0) == bool((law - 0.01).abs().max() < 1e-12)


def test_weights_make_the_mean_that_of_the_data_and_stay_below_their_limit():
    strategy = trained(40, seeded(4), delta=0.8)
    law, values = strategy.probabilities(), torch.randn(100, dtype=torch.float64, generator=seeded(5))
    draw = strategy.draw(5000, seeded(6))
    assert draw.weights is not None
    weights = torch.zeros(100, dtype=torch.float64)
    weights[draw.indices] = draw.weights
    assert (weights > 0).all()
    assert (law * weights * values).sum().item() == pytest.approx(values.mean().item(), rel=1e-11)
    sizes = torch.tensor(SIZES).double()
    torch.testing.assert_close(draw.weights, (sizes / 100 / strategy.bin_probabilities)[draw.bins])
    assert draw.weights.max() <= 1 / (1 - 0.8) + 1e-12


def test_every_bin_keeps_its_share_of_the_floor_even_if_its_gradients_vanish():
    strategy, generator = started(delta=0.5), seeded(7)
    for _ in range(60):
        draw = strategy.draw(16, generator)
        strategy.update(draw, draw.weights, (draw.bins == 3).double())
    torch.testing.assert_close(strategy.bin_probabilities[:3], torch.tensor(SIZES[:3]).double() / 200)


def test_a_restored_state_goes_on_amid_a_window():
    generator = seeded(8)
    strategy = trained(7, generator, update_every=50)
    assert 0 < strategy.metrics()["age_p"] < 4
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(update_every=50), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    for step in range(20):
        for one, source in ((strategy, generator), (restored, other)):
            draw, bounds = one.draw(16, source), random_bounds(16, source, step)
            one.update(draw, bounds, bounds)
        assert torch.equal(strategy.probabilities(), restored.probabilities())
    assert torch.equal(generator.get_state(), other.get_state())


@pytest.mark.parametrize("bound", [0.0, math.inf, math.nan, 1e300, 5e-324])
def test_odd_bounds_leave_a_law(bound):
    strategy, generator = started(update_every=20), seeded(9)
    for _ in range(12):
        draw, odd = strategy.draw(8, generator), torch.rand(8, dtype=torch.float64, generator=generator)
        odd[::2] = bound
        strategy.update(draw, odd, odd)
        law = strategy.probabilities()
        assert (law > 0).all()
        assert law.sum().item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"update_every": 2.5}, TypeError, "`update_every` must be an integer number of draws or None, got 2.5"),
        ({"update_every": True}, TypeError, "`update_every` must be an integer"),
        ({"update_every": 0}, ValueError, "`update_every` must be at least 1 draw, got 0"),
        ({"delta": 1.0}, ValueError, r"`delta` must be in \[0, 1\), so that every bin can be drawn; got 1.0"),
        ({"delta": -0.1}, ValueError, "`delta` must be in"),
        ({"delta": math.nan}, ValueError, "`delta` must be in"),
    ],
)
def test_options_out_of_their_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        GopalSampling(**options)
