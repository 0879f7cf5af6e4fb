"""The points of [0, 1) that draws with replacement invert a cumulative distribution at.

Independent points miss a third of the data in an epoch of N draws, and give the others at random 1, 2 or 5 times. The
strata do not: a pass of N draws takes one point from each of the N equal parts of [0, 1), in random order,

    x_k = (π(k) + u_k) / N,        π a random permutation of 0 … N − 1, u_k uniform in [0, 1).

Under the uniform distribution this is random reshuffling, exactly. Under any other that stays as it is for the pass, an
instance with the probability r, whose part of [0, 1) is one interval, is drawn N·r times give or take less than two,
with a variance of at most ½; with independent points that is N·r·(1 − r). Where the distribution moves from batch to
batch it is approximate. Of more than 2**18 strata π is made in parts: each has one of as many neighbours as there are
parts, at random, and they come one after the other, each in random order. The pass begins anywhere in them, so that any
draw may be of any stratum.

Each point by itself is uniform, so that over the permutations each draw has the probability that it carries. Given the
earlier draws of the pass it has not, as with any reshuffling.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_as.core.state import require

Kind = Literal["strata", "independent"]

# Strata times steps in each. Rounding moves a point by less than half a step: it stays in its stratum.
_STEPS = 2**50
# Points that are made at once: amid a training step each tensor operation takes some 20 µs, on however few numbers.
_AT_ONCE = 2**14
# Strata that are put in order at once, which takes 3 ms.
_PART = 2**18


class Points:
    """Points for draws from a distribution over N instances.

    A pass knows nothing of epochs: it goes on in the next one if an epoch was short. What is left of it, if that is
    fewer than are asked for, is dropped, as a shuffled loader drops its last, incomplete batch.

    Args:
        count: Number of instances N, and of strata.
        kind: ``"strata"``: see the module. ``"independent"``: each uniform by itself. Default: ``"strata"``.

    Example:
        >>> points = Points(4)
        >>> (points.take(4, torch.Generator().manual_seed(0)) * 4).long().sort().values
        tensor([0, 1, 2, 3])
    """

    def __init__(self, count: int, kind: Kind = "strata") -> None:
        self.count = count
        self.kind: Kind = kind
        self._key = 0
        self._position = count  # of the pass, which is over before it has begun
        self._start = 0  # of the part of it whose points are made
        self._parts = -(-count // _PART)
        self._firsts: list[int] = []  # strata of the parts, in their order
        self._offset = 0  # where the pass begins in them
        self._part = -1  # the first stratum of the part whose order is at hand
        self._order = torch.empty(0, dtype=torch.int32, device="cpu")
        self._made = torch.empty(0, dtype=torch.float64, device="cpu")

    def take(self, size: int, generator: torch.Generator) -> Tensor:
        """The next `size` points, (size,) float64 in [0, 1), on the CPU.

        Args:
            size: Number of points.
            generator: For the uniforms, or for the key of a pass, from which all of its points follow; on the CPU.

        Returns:
            Points, not to be changed in place.

        Raises:
            ValueError: If there are not so many strata.
        """
        if self.kind == "independent":
            return torch.rand(size, dtype=torch.float64, generator=generator, device="cpu")
        if size > self.count:
            raise ValueError(
                f"A batch of {size} has no strata of its own among {self.count} instances: use smaller batches, or "
                "`points='independent'`."
            )
        if self._position + size > self.count:
            self._begin(int(torch.randint(2**63 - 1, (), generator=generator, device="cpu")), 0)
            self._make(0, size)
        elif self._position + size > self._start + len(self._made):
            self._make(self._position, size)
        at = self._position - self._start
        self._position += size
        return self._made[at : at + size]

    def state_dict(self) -> dict[str, Any]:
        """State as a string and ints: all points of a pass follow from its key."""
        state: dict[str, Any] = {"points": self.kind}
        if self.kind == "strata":
            state |= {"key": self._key, "position": self._position, "start": self._start}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many instances."""
        if self.kind == "independent":
            return
        key, position, start = state["key"], state["position"], state["start"]
        require(start <= position <= self.count, "`position` is beyond the pass")
        require(key < 2**63, "`key` is none of a generator")
        self._begin(key, position)
        self._make(start, 0)

    def _begin(self, key: int, position: int) -> None:
        """Begin the pass of a key, or go on in it."""
        self._key, self._position, self._part = key, position, -1
        self._firsts, self._offset = [0], 0
        if self._parts > 1:
            generator = _seeded(key + 1 + self.count)
            self._firsts = torch.randperm(self._parts, generator=generator, device="cpu").tolist()
            self._offset = int(torch.randint(self.count, (), generator=generator, device="cpu"))

    def _make(self, start: int, size: int) -> None:
        """Make the points of the pass from `start` on, so many or more."""
        strata, steps = self._strata(start, max(size, _AT_ONCE)), _STEPS >> self.count.bit_length()
        points = torch.empty(len(strata), dtype=torch.float64, device="cpu")
        points.random_(steps, generator=_seeded(self._key + 1 + start))
        # Multiples of a half up to 2**50, of which float64 has all.
        self._start, self._made = start, points.add_(strata, alpha=steps).add_(0.5).div_(self.count * steps)

    def _strata(self, start: int, size: int) -> Tensor:
        """So many strata of the pass from `start` on, or as many as are left of it, (size,) integers."""
        taken, end = [self._order[:0]], min(start + size, self.count)
        while start < end:
            place, number = (start + self._offset) % self.count, 0
            while place >= (count := len(range(first := self._firsts[number], self.count, self._parts))):
                place, number = place - count, number + 1
            if first != self._part:
                self._part, self._order = first, self._in_order(first, count)
            taken.append(self._order[place : place + end - start])
            start += len(taken[-1])
        return torch.cat(taken)

    def _in_order(self, first: int, count: int) -> Tensor:
        """The strata of a part in the order of the pass, (count,) integers."""
        kind = torch.int32 if self.count < 2**31 else torch.int64
        order = torch.randperm(count, dtype=kind, generator=_seeded(self._key - first), device="cpu")
        if self._parts == 1:
            return order
        # Turned in each row of neighbours, or data with a period would have parts with one phase of it.
        rows, generator = self.count // self._parts, _seeded(self._key + 2 + self.count)
        turned = torch.zeros(count, dtype=kind, device="cpu")
        turned[:rows].random_(self._parts, generator=generator)  # but for a last row that is not whole
        turned.add_(first).remainder_(self._parts)
        return turned.index_select(0, order).add_(order, alpha=self._parts)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
