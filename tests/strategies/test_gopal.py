from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import GopalSampling
from tests.helpers.statistics import seeded

SIZES = [31, 1, 12, 56]
TAGS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(100, generator=seeded())]


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


def test_weights_make_the_mean_that_of_the_data_and_stay_below_their_limit():
    strategy = trained(40, seeded(4), delta=0.8)
    r, values = strategy.probabilities(), torch.randn(100, dtype=torch.float64, generator=seeded(5))
    draw = strategy.draw(5000, seeded(6))
    assert draw.weights is not None
    weights = torch.zeros(100, dtype=torch.float64)
    weights[draw.indices] = draw.weights
    assert (weights > 0).all()
    assert (r * weights * values).sum().item() == pytest.approx(values.mean().item(), rel=1e-11)
    sizes = torch.tensor(SIZES).double()
    torch.testing.assert_close(draw.weights, (sizes / 100 / strategy.bin_probabilities)[draw.bins])
    assert draw.weights.max() <= 1 / (1 - 0.8) + 1e-12


def test_every_bin_keeps_its_share_of_the_floor_even_if_its_gradients_vanish():
    strategy, generator = started(delta=0.5), seeded(7)
    for _ in range(60):
        draw = strategy.draw(16, generator)
        strategy.update(draw, draw.weights, (draw.bins == 3).double())
    torch.testing.assert_close(strategy.bin_probabilities[:3], torch.tensor(SIZES[:3]).double() / 200)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"update_every": 2.5}, TypeError, "`update_every` must be an integer number of draws, got 2.5"),
        ({"update_every": 0}, ValueError, "`update_every` must be at least 1 draws, got 0"),
        ({"delta": 1.0}, ValueError, r"`delta` must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_their_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        GopalSampling(**options)
