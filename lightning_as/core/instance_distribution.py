"""Q: the distribution of the instances inside each bin, over a sum tree.

Lines 21 and 22 of Algorithm 1 make q_i ∝ l_i inside a bin and smooth it with δq. They do not say which instances
they mean, and that decides what training looks at: :mod:`~lightning_as.core.smoothed_where_drawn` moves the instances
of the batch, :mod:`~thesis.smoothed_everywhere` all instances of all bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.sum_tree import SMALLEST_WEIGHT, SumTree


class InstanceDistribution(ABC):
    """Q^j over the members of each bin j, uniform at first.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of the old Q that a step leaves.
        leaf: What the sum tree holds of each instance at first, C numbers.
        coefficients: What they count: q is in proportion to their dot product, (k, C) float64.
    """

    def __init__(self, bins: Bins, delta_q: float, leaf: list[float], coefficients: Tensor) -> None:
        self.bins = bins
        self.delta_q = delta_q
        self._sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device)
        self._tree = SumTree(bins.sizes, channels=len(leaf), device=bins.device)
        self._tree.load(torch.tensor(leaf).expand(len(bins), len(leaf)))
        self._coefficients = coefficients.to(bins.device)
        order = bins.order()
        self._place = torch.empty_like(order)  # of each instance
        self._place[order] = self._tree.places()
        self._instance = order.to(torch.int32 if len(bins) < 2**31 else torch.int64)  # of each leaf

    @property
    def uniforms(self) -> int:
        """Number of uniforms that the draw of one instance takes."""
        return self._tree.height

    @property
    @abstractmethod
    def share_seen(self) -> float:
        """Share of all instances that have a score."""

    def draw(self, bins: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one instance from each of the given bins, with replacement.

        Args:
            bins: Bins, (B,) int64.
            uniforms: Independent uniforms in [0, 1), (:attr:`uniforms`, B) float64.

        Returns:
            Instances, (B,) int64, and the probability q of each, (B,) float64.
        """
        weighing = self._weighing()
        leaves, q = self._tree.draw(uniforms, bins, weighing.index_select(0, bins) if len(weighing) else None)
        return self._instance.index_select(0, leaves).long(), q

    @property
    def compiled(self) -> bool:
        """Whether :meth:`draw_with_bins` can be used."""
        return self._tree.loops is not None

    def draw_with_bins(self, probabilities: Tensor, cumulative: Tensor, uniforms: Tensor) -> Draw:
        """Draw bins, and an instance from each, in a compiled loop.

        Args:
            probabilities: P, (k,) float64.
            cumulative: Its sums, (k,) float64, which end in 1.
            uniforms: Independent uniforms in [0, 1), (1 + :attr:`uniforms`, B) float64.
        """
        size = uniforms.shape[1]
        drawn = torch.empty(2, size, dtype=torch.int64)
        laws = torch.empty(2, size, dtype=torch.float64)
        self._tree.loops.draw_bins_and_leaves(
            probabilities.numpy(),
            cumulative.numpy(),
            *self._tree.arrays(),
            self._weighing().numpy(),
            SMALLEST_WEIGHT,
            uniforms.numpy(),
            drawn.numpy(),
            laws.numpy(),
        )
        leaves, bins = drawn.unbind()
        joint, within = laws.unbind()
        return Draw(self._instance.index_select(0, leaves).long(), bins, joint, within)

    def mix_in_uniform(self, draw: Draw, probabilities: Tensor, floor: float, uniforms: Tensor) -> bool:
        """Make a draw from p q one from (1 − ε) p q + ε/N, in a compiled loop.

        Args:
            draw: From :meth:`draw_with_bins`; it is written over.
            probabilities: P, (k,) float64.
            floor: ε.
            uniforms: In [0, 1), (B,) float64, independent of the draw.

        Returns:
            False, and nothing is done, if a leaf's weight is not its first channel, which this is not for.
        """
        if len(self._weighing()):
            return False
        assert draw.within is not None, "a draw from there has it"
        self._tree.loops.mix_in_uniform(
            self._tree.memory.numpy(),
            self._place.numpy(),
            self.bins.tags.numpy(),
            probabilities.numpy(),
            self._sizes.numpy(),
            floor,
            uniforms.numpy(),
            draw.indices.numpy(),
            draw.bins.numpy(),
            draw.probabilities.numpy(),
            draw.within.numpy(),
        )
        return True

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """Q of the given instances, which lie in the given bins: (B,) float64."""
        weights = self._tree.get(self._place.index_select(0, indices))
        weights = vecdot(weights, self._coefficients.index_select(0, bins)).clamp_(min=0)
        totals = vecdot(self._tree.totals(), self._coefficients)
        return weights / totals.index_select(0, bins)

    def probabilities(self) -> Tensor:
        """Q of every instance, in the order of the data set, (N,) float64; they sum to 1 in each bin. O(N)."""
        return self.probability(torch.arange(len(self.bins), device=self.bins.device), self.bins.tags.long())

    @abstractmethod
    def update(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        """Enter a batch's scores into the table and move Q by one step of line 22.

        Args:
            indices: Instances, (B,) int64. Of duplicates the last counts.
            bins: Their bins, (B,) int64.
            scores: Their finite scores, (B,) float64, at least 0. Off the CPU, NaN leaves an instance as it is.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""

    def _weighing(self) -> Tensor:
        """What the channels count in a draw, (k, C); or (0, C) if a leaf weighs its first channel."""
        return self._coefficients


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
