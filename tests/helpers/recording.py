"""A strategy that keeps what it was told, for tests of what the callback tells it."""

from __future__ import annotations

from torch import Tensor

from lightning_as import AdaptiveSampling, Bins, Draw


class Recording(AdaptiveSampling):
    """Keeps what it was told."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.told: list[tuple[Draw, Tensor, Tensor]] = []

    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.told.append((draw, losses.clone(), bounds.clone()))
        super().update(draw, losses, bounds)

    def indices(self) -> list[list[int]]:
        return [draw.indices.tolist() for draw, _, _ in self.told]
