"""N instances in descending order of a value, with batches of updates far cheaper than a sort.

There are two sorted runs: a main one with all instances, as they were when it was made, and a small one with those
whose value has been set since, which count as gone from the main one. A rank is found by searching both. A batch of B
values is merged into the small run, and when those merges have cost as much as a merge of all N would, the small run is
merged into the main one. That is O(√(N B)) per batch on average, and nothing is ever sorted but the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ranking:
    """The instances 0 … N - 1 in descending order of a value. Equal values are ordered by instance, ascending.

    Args:
        size: Number of instances N, at least 1.
        value: The value of each at first. Default: inf.

    Raises:
        ValueError: If there are no instances.

    Example:
        >>> ranking = Ranking(4, value=0.0)
        >>> ranking.set(torch.tensor([2, 1]), torch.tensor([5.0, -1.0], dtype=torch.float64))
        >>> ranking.order()
        tensor([2, 0, 3, 1])
    """

    def __init__(self, size: int, value: float = torch.inf) -> None:
        if size < 1:
            raise ValueError(f"`size` must be at least 1 instance, got {size}.")
        self.load(torch.full((size,), value, dtype=torch.float64, device="cpu"))

    def __len__(self) -> int:
        """Number of instances, N."""
        return len(self._values)

    @property
    def values(self) -> Tensor:
        """The value of every instance, (N,) float64: the whole state, since the order follows from it. Not a copy."""
        return self._values

    def load(self, values: Tensor) -> None:
        """Set the values of all instances, (N,), by a sort."""
        self._values = values.to(torch.float64, copy=True)
        self._is_moved = torch.zeros(len(values), dtype=torch.bool, device="cpu")
        keys, instances = (-self._values).sort(stable=True)
        self._begin(_Run(keys, instances))

    def set(self, indices: Tensor, values: Tensor) -> None:
        """Set the values of some instances.

        Args:
            indices: Instances, (B,) int64. Of duplicates the last counts.
            values: Their values, (B,) float64; may be infinite, but not NaN.
        """
        if len(indices) == 0:
            return
        indices, last = _last_of_each(indices)
        values = values.index_select(0, last)
        before = -self._values.index_select(0, indices)
        moved = self._is_moved.index_select(0, indices)
        self._values.index_copy_(0, indices, values)
        self._is_moved.index_fill_(0, indices, True)

        keys, order = (-values).sort(stable=True)  # equal ones stay in the order of the indices, which ascend
        batch = _Run(keys, indices.index_select(0, order))
        both = torch.cat([before, batch.keys]), torch.cat([indices, batch.instances])
        old, new = self._main.find(*both).view(2, -1)
        gone = old[~moved].sort().values
        self._gone = _Merge(torch.searchsorted(self._gone, gone), len(self._gone))(self._gone, gone)
        old_slots, new_slots = self._moved.find(*both).view(2, -1)
        self._replace(old_slots[moved].sort().values, new_slots, batch, new)

        self._work += len(self._places)
        if self._work > len(self):  # by then the small merges have cost about as much as a merge of all (measured)
            self._merge_all()

    def at(self, ranks: Tensor) -> Tensor:
        """The instances at the given ranks, of which 0 is that of the largest value: (B,) int64 for (B,) int64."""
        if len(self._ranks) == 0:
            return self._main.instances.index_select(0, ranks)
        before = torch.searchsorted(self._ranks, ranks)  # how many of the small run stand before each rank
        near = before.clamp(max=len(self._ranks) - 1)
        # The m-th of those that are left in the main run stands after every gone one that has at most m left before it.
        left = ranks - before
        skipped = torch.searchsorted(self._gone - torch.arange(len(self._gone), device="cpu"), left, right=True)
        in_main = self._main.instances.index_select(0, (left + skipped).clamp_(max=len(self) - 1))
        return torch.where(self._ranks.index_select(0, near) == ranks, self._moved.instances[near], in_main)

    def order(self) -> Tensor:
        """All instances in order, (N,) int64. O(N)."""
        self._merge_all()
        return self._main.instances.clone()

    def _begin(self, main: _Run) -> None:
        """Start with a main run of all instances, and nothing moved."""
        self._main = main
        self._moved = _Run(main.keys[:0], main.instances[:0])
        # Of those that moved: where they stand in the main run by their new values, (M,); their ranks, (M,); and where
        # they stood, (M,), ascending.
        self._places = self._ranks = self._gone = main.instances[:0]
        self._work = 0

    def _replace(self, leaving: Tensor, slots: Tensor, batch: _Run, places: Tensor) -> None:
        """Take entries out of the small run, and put a batch in.

        Args:
            leaving: Where those stand that leave, ascending.
            slots: How many entries stand before each of the batch, those that leave among them.
            batch: The batch.
            places: How many entries of the main run stand before each of the batch, those that are gone among them.
        """
        stays = torch.ones(len(self._places), dtype=torch.bool, device="cpu").index_fill_(0, leaving, False)
        stays = stays.nonzero()[:, 0]
        merge = _Merge(slots - torch.searchsorted(leaving, slots), len(stays))
        columns = zip((*self._moved, self._places), (*batch, places), strict=True)
        keys, instances, self._places = (merge(old.index_select(0, stays), new) for old, new in columns)
        self._moved = _Run(keys, instances)
        left = self._places - torch.searchsorted(self._gone, self._places)  # of the main run, before each
        self._ranks = left.add_(torch.arange(len(left), device="cpu"))

    def _merge_all(self) -> None:
        """Put all instances into the main run. O(N)."""
        if len(self._ranks) == 0:
            return
        self._is_moved.index_fill_(0, self._moved.instances, False)
        left = torch.ones(len(self), dtype=torch.bool, device="cpu").index_fill_(0, self._gone, False)
        free = torch.ones(len(self), dtype=torch.bool, device="cpu").index_fill_(0, self._ranks, False)
        parts = zip(self._main, self._moved, strict=True)
        runs = (
            torch.empty_like(main).masked_scatter_(free, main.masked_select(left)).index_copy_(0, self._ranks, moved)
            for main, moved in parts
        )
        self._begin(_Run(*runs))


class _Run(NamedTuple):
    """Instances in ascending order of a key, and of the instance where keys are equal."""

    keys: Tensor
    instances: Tensor

    def find(self, keys: Tensor, instances: Tensor) -> Tensor:
        """How many entries stand before each of the given ones: (B,) int64."""
        low = torch.searchsorted(self.keys, keys)
        high = torch.searchsorted(self.keys, keys, right=True)
        # Among entries with the same key, of which there may be many, bisect by instance. Where none are left, the
        # probe is at `low` itself, and whatever stands there changes nothing.
        ties = int((high - low).max())
        for power in reversed(range(ties.bit_length())):
            probe = torch.minimum(low + 2**power, high)
            low = torch.where(self.instances[probe - 1] < instances, probe, low)
        return low


class _Merge:
    """Puts a sorted batch into a sorted run, for each of several columns.

    Args:
        places: How many entries of the run stand before each of the batch, (B,) int64, ascending.
        size: Length of the run.
    """

    def __init__(self, places: Tensor, size: int) -> None:
        self._new = places + torch.arange(len(places), device="cpu")
        old = torch.ones(size + len(places), dtype=torch.bool, device="cpu").index_fill_(0, self._new, False)
        self._old = old.nonzero()[:, 0]

    def __call__(self, run: Tensor, batch: Tensor) -> Tensor:
        """A column of the run with the batch's in it."""
        merged = run.new_empty(len(self._old) + len(self._new))
        return merged.index_copy_(0, self._old, run).index_copy_(0, self._new, batch)


def _last_of_each(indices: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct entries, ascending, and the position of the last of each: (b,) int64 both."""
    ordered, positions = indices.sort(stable=True)
    last = torch.ones(len(ordered), dtype=torch.bool, device="cpu")
    torch.ne(ordered[1:], ordered[:-1], out=last[:-1])
    return ordered[last], positions[last]
