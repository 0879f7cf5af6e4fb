"""Uniform sampling in shuffled epochs: what a `DataLoader` with `shuffle=True` does, and the baseline.

Without replacement: an epoch is a random permutation, cut into batches; the instances of the last,
incomplete batch wait for a later epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.bins import Bins
from lightning_as.draw import Draw
from lightning_as.strategies.base import Strategy


class Uniform(Strategy):
    """Every instance once per epoch, in a new random order each time."""

    def start(self, bins: Bins) -> None:
        self.bins = bins
        self._size = len(bins)
        self._bins = bins
        self._within = 1 / torch.tensor(bins.sizes, dtype=torch.float64)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    def start_epoch(self, generator: torch.Generator) -> None:
        self._order = torch.randperm(self._size, generator=generator)
        self._position = 0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        parts = []
        while size:
            if self._position == len(self._order):
                self.start_epoch(generator)
            part = self._order[self._position : self._position + size]
            parts.append(part)
            self._position += len(part)
            size -= len(part)
        indices = parts[0] if len(parts) == 1 else torch.cat(parts)
        bins = self._bins.of(indices)
        probabilities = torch.full((len(indices),), 1 / self._size, dtype=torch.float64)
        return Draw(indices, bins, probabilities, self._within.index_select(0, bins))

    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        """Nothing to learn."""

    def probabilities(self) -> Tensor:
        return torch.full((self._size,), 1 / self._size, dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        return {"order": self._order.clone(), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order, self._position = state["order"].clone(), state["position"]
