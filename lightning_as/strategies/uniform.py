"""Uniform sampling: what a `DataLoader` with `shuffle=True` does, and its fair control with replacement.

Without replacement an epoch is a random permutation, cut into batches; the instances of the last, incomplete batch wait
for a later epoch. It is what draws that are spread evenly (:mod:`lightning_as.core.points`) are of the uniform
distribution. Of data in chunks a few are open at a time, and shuffled together (:mod:`lightning_as.core.chunk_points`).
With replacement each draw is from all instances, by itself: an epoch of N draws then sees 63.2 % of the
data. It is the control of methods whose draws are independent: what one gains over it is not paid for by repeats.

Source: None; it is what stochastic gradient descent is defined with.

Cost per step: No extra forward pass; O(N) once per epoch for the permutation, with replacement O(batch). 12 bytes of
memory per instance, with replacement 4.

Verified: Nothing to verify.

When to use it: As the baseline that another method has to beat.

When not: Never wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.chunk_order import ChunkOrder
from lightning_as.core.draw import Draw, to_device
from lightning_as.core.state import require, require_indices
from lightning_as.strategies.base import Strategy


class Uniform(Strategy):
    """Every instance with the same probability, in shuffled epochs or with replacement.

    Args:
        replacement: Draw from all instances each time, instead of every instance once per epoch. Default: False.
    """

    reads = frozenset()
    any_device = True
    by_chunks = True
    by_shards = True

    def __init__(self, replacement: bool = False) -> None:
        self.replacement = replacement

    def start(self, bins: Bins) -> None:
        super().start(bins)
        if bins.chunks is not None and self.replacement:
            raise ValueError("`replacement=True` draws from all chunks at a time: leave it out.")
        self._chunk_order = None if bins.chunks is None else ChunkOrder(bins.chunks.open, bins.chunks.window)
        self._order = torch.empty(0, dtype=torch.int64, device="cpu")
        self._position = 0

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        self._shuffle(generator)

    def _shuffle(self, generator: torch.Generator) -> None:
        if not self.replacement and self._chunk_order is None:
            self._order = to_device(torch.randperm(len(self.bins), generator=generator, device="cpu"), self.bins.device)
            self._position = 0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        if self._chunk_order is not None:
            indices = to_device(self._next_of(self._chunk_order, size, generator), self.bins.device)
        elif self.replacement:
            indices = to_device(
                torch.randint(len(self.bins), (size,), generator=generator, device="cpu"), self.bins.device
            )
        else:
            indices = self._next(size, generator)
        return self._drawn_uniformly(indices)

    @property
    def chunk_order(self) -> ChunkOrder | None:
        return self._chunk_order

    def probabilities(self) -> Tensor:
        return self._uniform(len(self.bins))

    def state_dict(self) -> dict[str, Any]:
        of_chunks = {} if self._chunk_order is None else self._chunk_order.state_dict()
        return {"order": self._order.clone().cpu(), "position": self._position, "of_chunks": of_chunks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require_indices("order", state["order"], len(self.bins))
        require(state["position"] <= len(state["order"]), "`position` is beyond the epoch")
        if self._chunk_order is not None and self.bins.chunks is not None:
            self._chunk_order.load_state_dict(state["of_chunks"], len(self.bins.chunks.sizes))
        self._order, self._position = state["order"].to(self.bins.device, copy=True), state["position"]

    def recut(self, state: dict[str, Any]) -> dict[str, Any]:
        return state | {"order": self._order.new_empty(0, device="cpu"), "position": 0}

    def _next(self, size: int, generator: torch.Generator) -> Tensor:
        """The next instances of the permutation, and of another one where it ends."""
        parts = []
        while size:
            if self._position == len(self._order):
                self._shuffle(generator)
            part = self._order[self._position : self._position + size]
            parts.append(part)
            self._position += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _next_of(self, order: ChunkOrder, size: int, generator: torch.Generator) -> Tensor:
        """The next instances of the open chunks. A pass goes on in the next epoch, and has whole batches only."""
        assert self.bins.chunks is not None
        if size > order.left(self.processes):
            counts, draws = self.bins.chunks.counts(), len(self.bins) // size * size
            order.begin(counts.double() / len(self.bins), draws, generator, self.processes, counts)
        strata = order.take(size)
        return self.bins.chunks.starts()[strata.chunks] + strata.numbers
