"""A strategy that keeps what it was told, for tests of what the callback tells it."""

from typing import Any

from torch import Tensor

from lightning_as import AdaptiveSampling, Draw


class Recording(AdaptiveSampling):
    """P moves every third batch, so that an epoch has several of them."""

    def __init__(self, beta: int = 3, delta_p: float = 0.5, **options: Any) -> None:
        super().__init__(beta=beta, delta_p=delta_p, **options)
        self.told: list[tuple[Draw, Tensor, Tensor]] = []

    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.told.append((draw, losses.clone(), bounds.clone()))
        super().update(draw, losses, bounds)

    def indices(self) -> list[list[int]]:
        return [draw.indices.tolist() for draw, _, _ in self.told]
