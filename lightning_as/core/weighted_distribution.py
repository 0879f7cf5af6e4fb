"""A distribution over all instances in proportion to a weight of each, with point updates in O(log N)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vecdot

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import require
from lightning_as.core.sum_tree import SumTree
from lightning_as.core.tree_in_bins import last_occurrence

_SMALLEST_TOTAL = 1e-140  # the sum tree draws from sums above 1e-150


class WeightedDistribution:
    """r_i ∝ w_i. Instances whose weight is not known count as the mean of the known ones: at first all of them.

    If all weights are 0 the distribution is the uniform one.

    Args:
        bins: The partition, of which the distribution takes no notice: draws say which bins they fell into.
        unknown: What an unknown weight counts as instead; no part of the state. Default: the mean.
    """

    def __init__(self, bins: Bins, unknown: float | None = None) -> None:
        self.bins = bins
        self.unknown = unknown
        # The second channel is 1 for an unknown weight: the mean of the known ones is its coefficient.
        self._tree = SumTree([len(bins)], channels=2)
        self._tree.fill([0.0, 1.0])

    @property
    def known(self) -> int:
        """Number of instances whose weight is known."""
        return len(self.bins) - round(float(self._tree.totals()[0, 1]))

    @property
    def mean(self) -> float:
        """Mean of the known weights, 1 if there are none."""
        total, unknown = self._tree.totals()[0].tolist()
        known = len(self.bins) - unknown
        return total / known if known else 1.0

    def weights(self, indices: Tensor | None = None) -> Tensor:
        """The weight of each of the given instances, or of all of them in O(N): (B,) float64."""
        leaves = self._tree.leaves() if indices is None else self._tree.get(indices)
        return vecdot(leaves, self._coefficients())

    def set(self, indices: Tensor, weights: Tensor) -> None:
        """Set the weights of instances, (B,) float64 and not negative. Of duplicates the last counts."""
        weights = weights.index_select(0, last_occurrence(indices))
        self._tree.set(indices, torch.stack([weights, torch.zeros_like(weights)], dim=1))

    def forget(self, indices: Tensor) -> None:
        """Make the weights of instances unknown again."""
        unknown = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu").expand(len(indices), 2)
        self._tree.set(indices, unknown)

    def draw(self, points: Tensor) -> Draw:
        """Draw a batch with replacement.

        Args:
            points: What the distribution, instance after instance, is inverted at, in [0, 1), (B,) float64.
        """
        coefficients = self._coefficients()
        if float(self._tree.totals()[0] @ coefficients) < _SMALLEST_TOTAL:
            indices = (points * len(self.bins)).long()
            probabilities = torch.full_like(points, 1 / len(self.bins))
        else:
            indices, probabilities = self._tree.draw(points, coefficients=coefficients.unsqueeze(0))
        return Draw(indices, self.bins.of(indices), probabilities)

    def probabilities(self) -> Tensor:
        """The distribution, r of every instance: (N,) float64. O(N)."""
        weights = self.weights()
        total = weights.sum()
        return weights / total if float(total) >= _SMALLEST_TOTAL else torch.full_like(weights, 1 / len(weights))

    def state(self) -> Tensor:
        """The state: the weights, −1 where unknown, so that equal states compare equal, (N,) float64."""
        weights, unknown = self._tree.leaves().unbind(1)
        return torch.where(unknown > 0, -1.0, weights)

    def load_state(self, state: Tensor) -> None:
        """Take over a state of as many instances."""
        require(((state >= 0) | (state == -1)).all(), "`weights` has negative entries")
        self._tree.load(torch.stack([state.clamp(min=0), (state < 0).to(torch.float64)], dim=1))

    def _coefficients(self) -> Tensor:
        unknown = self.mean if self.unknown is None else self.unknown
        return torch.tensor([1.0, unknown], dtype=torch.float64, device="cpu")
