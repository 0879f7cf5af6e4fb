"""Uniform draws inside bins: the lower of two levels, for laws that know no more of an instance than its bin."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_as.core.bins import Bins


class UniformInBins:
    """Every member of a bin with the same probability.

    Args:
        bins: The partition.

    Example:
        >>> inside = UniformInBins(Bins([0, 1, 0, 0]))
        >>> inside.draw(torch.tensor([0, 1, 0]), torch.tensor([0.0, 0.5, 0.9]))
        tensor([0, 1, 3])
        >>> inside.probability(torch.tensor([0, 1])).tolist()
        [0.3333333333333333, 1.0]
    """

    def __init__(self, bins: Bins) -> None:
        self._members = bins.order()
        self._sizes = torch.tensor(bins.sizes)
        self._starts = self._sizes.cumsum(0) - self._sizes

    def draw(self, bins: Tensor, uniforms: Tensor) -> Tensor:
        """Draw one instance from each of the given bins, with replacement.

        Args:
            bins: Bins, (B,) int64.
            uniforms: Independent uniforms in [0, 1), (B,) float64.

        Returns:
            Instances, (B,) int64.
        """
        # A size times the largest uniform, 1 - 2**-53, rounds to less than the size.
        ranks = (uniforms * self._sizes.index_select(0, bins)).long()
        return self._members.index_select(0, self._starts.index_select(0, bins).add_(ranks))

    def probability(self, bins: Tensor) -> Tensor:
        """Probability of any one member of each of the given bins, within its bin: (B,) float64."""
        return self._sizes.index_select(0, bins).to(torch.float64).reciprocal_()
