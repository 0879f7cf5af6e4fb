"""Instances in bins, drawn in proportion to a weight of each: a sum tree for every bin, and who sits on which leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.execution import Viewing
from lightning_as.core.state import require
from lightning_as.core.sum_tree import SumTree

WEIGHT = 0
"""The channel of a leaf that is the weight."""


class TreeInBins(Viewing):
    """q_i = w_i / W inside each bin, W = Σ w over the bin; an :class:`InsideBins`.

    Args:
        bins: The partition.
        leaf: The channels of each leaf at first: the weight, and whatever else a subclass keeps. Default: the weight
            alone, 1.
        dtype: Of the leaves, float32 or float64. Of a float32 weight the last digit is at 2**-24 of it; q is what is
            drawn by exactly. Default: float32.

    Example:
        >>> inside = TreeInBins(Bins([0, 1, 0, 0]))
        >>> inside.set(torch.tensor([2]), torch.tensor([3.0], dtype=torch.float64))
        >>> inside.probabilities().tolist()
        [0.2, 1.0, 0.6, 0.2]
    """

    def __init__(self, bins: Bins, leaf: Sequence[float] = (1.0,), dtype: torch.dtype = torch.float32) -> None:
        self.bins = bins
        self._sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device)
        self._tree = SumTree(bins.sizes, channels=len(leaf), device=bins.device, dtype=dtype)
        self._tree.fill(leaf)
        self._instance = self._lay_out()
        self._leaf: Tensor | None = None

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What the loops take of it on the CPU; first of all the instance of each leaf."""
        return self.views(self._instance)

    def draw(self, bins: Tensor, uniforms: Tensor, mass: Tensor, per_instance: float) -> tuple[Tensor, Tensor]:
        """Draw one instance from each of the given bins, with replacement, see :meth:`InsideBins.draw`."""
        coefficients = None
        if per_instance > 0:
            coefficients = (mass / self._tree.totals()[:, WEIGHT]).unsqueeze(1)
        leaves, within = self._tree.draw(uniforms, bins, coefficients, per_instance)
        return self._instance.index_select(0, leaves).long(), within

    def draw_from(self, mass: Tensor, ends: Tensor, per_instance: float, points: Tensor) -> Draw | None:
        """A draw from all levels at once, see :meth:`InsideBins.draw_from`."""
        if self._tree.loops is None:
            return None
        drawn = torch.empty(2, len(points), dtype=torch.int64, device="cpu")
        probabilities = torch.empty(2, len(points), dtype=torch.float64, device="cpu")
        levels = mass.numpy(), ends.numpy(), per_instance
        arrays = points.numpy(), drawn.numpy(), probabilities.numpy()
        self._tree.loops.draw_two_levels(*self._tree.arrays, self.arrays[0], *levels, *arrays)
        return Draw(*drawn.unbind(), *probabilities.unbind())

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """Q of the given instances, which lie in the given bins: (B,) float64."""
        weights = self._tree.get(self.leaves_of(indices, bins), bins, channel=WEIGHT)
        return weights / self._tree.totals()[:, WEIGHT].index_select(0, bins)

    def probabilities(self) -> Tensor:
        """Q of every instance, in the data set's order, (N,) float64; they sum to 1 in each bin. O(N)."""
        totals = self._tree.totals()[:, WEIGHT].repeat_interleave(self._sizes.long())
        return torch.empty_like(totals).index_copy_(0, self._instance.long(), self._tree.leaves()[:, WEIGHT] / totals)

    def set(self, indices: Tensor, weights: Tensor) -> None:
        """Set the weights of instances; no bin that is drawn from may be left without any.

        Args:
            indices: Instances, (B,) int64. Of duplicates the last counts.
            weights: Their weights, (B,) float64, finite and not negative.
        """
        weights = weights.index_select(0, last_occurrence(indices))
        bins = self.bins.of(indices)
        self._tree.set(self.leaves_of(indices, bins), weights, bins, channel=WEIGHT)

    def load(self, weights: Tensor) -> None:
        """Set the weights of all instances, in the data set's order, (N,) float64; likewise. O(N)."""
        leaves = self._tree.leaves()
        leaves[:, WEIGHT] = weights.index_select(0, self._instance)
        self._tree.load(leaves)

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU: the leaves, (N, channels)."""
        return {"leaves": self._tree.leaves().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""
        require(float(state["leaves"].min()) >= 0, "`leaves` has negative entries")
        self._tree.load(state["leaves"])
        require((self._tree.totals()[:, WEIGHT] > 0).all(), "`leaves` has a bin without weight")

    def portable(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with the leaves in the order of the instances, and with weights whose mean is 1 in each bin."""
        leaves, bins = state["leaves"].clone(), self.bins.tags.cpu().index_select(0, self._instance.cpu()).long()
        sums = torch.bincount(bins, leaves[:, WEIGHT].double(), len(self.bins.sizes))
        leaves[:, WEIGHT] *= (self._sizes.cpu() / sums).index_select(0, bins)
        return state | {"leaves": torch.empty_like(leaves).index_copy_(0, self._instance.long().cpu(), leaves)}

    def recut(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state that :meth:`portable` ones of parts make up, with the leaves where they are here."""
        return state | {"leaves": state["leaves"].index_select(0, self._instance.cpu())}

    def leaves_of(self, indices: Tensor, bins: Tensor) -> Tensor:
        """The leaves of instances, (B,) int64, in the given bins, which are theirs: (B,) int64."""
        if self._tree.loops is None:  # a table, since each step of a search would be a launch
            if self._leaf is None:
                numbers = torch.arange(len(self.bins), dtype=self._instance.dtype, device=self.bins.device)
                self._leaf = torch.empty_like(numbers).index_copy_(0, self._instance.long(), numbers)
            return self._leaf.index_select(0, indices).long()
        leaves = torch.empty_like(indices)
        batch = (part.contiguous().numpy() for part in (indices, bins, leaves))
        self._tree.loops.find_leaves(*self._tree.arrays[2:], self.arrays[0], *batch)
        return leaves

    def _lay_out(self) -> Tensor:
        """The instance of each leaf, (N,)."""
        kind = torch.int32 if len(self.bins) < 2**31 else torch.int64
        if self._tree.loops is None:
            return self.bins.order().to(kind)
        instance, sizes = torch.empty(len(self.bins), dtype=kind, device="cpu"), self._sizes.long()
        starts = sizes.cumsum(0) - sizes
        self._tree.loops.sort_by_tag(self.bins.tags.numpy(), starts.numpy(), instance.numpy())
        return instance


def last_occurrence(indices: Tensor, known: Tensor | None = None) -> Tensor:
    """For each entry the position of the last entry equal to it: (B,) int64.

    Args:
        indices: (B,) int64, not negative.
        known: Entries that go before the others, (B,) bool: of equal ones the last of these, if there is one. Default:
            all of them.
    """
    keys = indices if known is None else 2 * indices + known
    ordered, order = keys.sort(stable=True)
    ends = torch.searchsorted(ordered, indices if known is None else 2 * indices + 1, right=True)
    return order.index_select(0, ends - 1)
