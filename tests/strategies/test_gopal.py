import math

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import GopalSampling
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import follow, started

SIZES = [31, 1, 12, 56]
TAGS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))[torch.randperm(100, generator=seeded())]


class Algorithm1:
    """Algorithm 1 of the paper, option 2, draw by draw; p moves after whole batches."""

    def __init__(self, window: int, delta: float) -> None:
        self.n, self.window, self.delta = sum(SIZES), window, delta
        self.p = [size / self.n for size in SIZES]
        self.clear()

    def clear(self) -> None:
        self.ssg = [0.0] * len(SIZES)
        self.count = [0] * len(SIZES)

    def probabilities(self) -> list[float]:
        return [self.p[k] / SIZES[k] for k in TAGS.tolist()]

    def weights(self, indices: list[int], step: int) -> list[float]:
        return [SIZES[k] / self.n / self.p[k] for k in TAGS[indices].tolist()]

    def learn(self, indices: list[int], bounds: list[float]) -> None:
        for k, bound in zip(TAGS[indices].tolist(), bounds, strict=True):
            self.ssg[k] += bound
            self.count[k] += 1
        if sum(self.count) < self.window:
            return
        drawn = [k for k in range(len(SIZES)) if self.count[k]]
        root = {k: SIZES[k] / self.n * math.sqrt(self.ssg[k] / self.count[k]) for k in drawn}
        if sum(root.values()) > 0:
            scale = sum(self.p[k] for k in drawn) / sum(root.values())
            new = [root[k] * scale if k in root else self.p[k] for k in range(len(SIZES))]
            self.p = [self.delta * p + (1 - self.delta) * s / self.n for p, s in zip(new, SIZES, strict=True)]
        self.clear()


@pytest.mark.parametrize("delta", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("window", [None, 1, 12, 13, 90])
def test_agrees_with_algorithm_1(delta: float, window: int | None):
    """The window is a quarter of the data in whole batches, if nothing else is said."""
    strategy = started(GopalSampling(delta=delta, update_every=window), Bins(TAGS))
    window = window or 25
    follow(strategy, Algorithm1(window, delta), 119)
    assert delta == 0 or (strategy.bin_probabilities - double(*SIZES) / 100).abs().max() > 0.01 * delta
    assert strategy.metrics()["age_p"] == 119 % -(-window // 12)
