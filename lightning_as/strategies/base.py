"""What the sampler and the callback ask of a selective-sampling method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_as.bins import Bins
from lightning_as.draw import Draw


class Strategy(ABC):
    """A law over the instances of a data set that training moves.

    The constructor takes and checks the options; :meth:`start` makes the state. One object serves one
    sampler: started again, it begins anew.
    """

    bins: Bins | None = None
    """The partition of the data set at work, None before :meth:`start`."""

    @abstractmethod
    def start(self, bins: Bins) -> None:
        """Make the initial state for a data set that is partitioned into `bins`, and set :attr:`bins`."""

    @abstractmethod
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        """Draw a batch of `size` instances from the present law."""

    @abstractmethod
    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        """Learn from a batch that has been trained on.

        Args:
            draw: The batch, as it was drawn.
            losses: Its losses, (B,) float64, on the CPU.
            bounds: Its squared gradient bounds, (B,) float64, on the CPU.
        """

    @abstractmethod
    def probabilities(self) -> Tensor:
        """The present law over all instances, in the order of the data set, (N,) float64. O(N)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, ints and strings; copies, not views."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, after :meth:`start` with the same bins."""

    def start_epoch(self, generator: torch.Generator) -> None:  # noqa: B027 (most have nothing to do)
        """Called before the first draw of each epoch."""

    def metrics(self) -> dict[str, float]:
        """Figures that describe the present law, for the logger."""
        return {}
