"""Uniform draws inside bins: the lower of two levels, for methods that know no more of an instance than its bin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins


class UniformInBins:
    """Every member of a bin with the same probability; an :class:`InsideBins`.

    Args:
        bins: The partition.

    Example:
        >>> inside = UniformInBins(Bins([0, 1, 0, 0]))
        >>> indices, q = inside.draw(torch.tensor([0, 1, 0]), torch.tensor([0.0, 0.5, 0.9]), torch.ones(2), 0.0)
        >>> indices
        tensor([0, 1, 3])
        >>> q.tolist()
        [0.3333333333333333, 1.0, 0.3333333333333333]
    """

    def __init__(self, bins: Bins) -> None:
        self._members = bins.order()
        self._sizes = torch.tensor(bins.sizes, dtype=torch.int64, device="cpu")
        self._starts = self._sizes.cumsum(0) - self._sizes

    def draw(self, bins: Tensor, uniforms: Tensor, mass: Tensor, per_instance: float) -> tuple[Tensor, Tensor]:
        """Draw one instance from each of the given bins, with replacement; with a floor, too, all of a bin are equal.

        Args:
            bins: Bins, (B,) int64.
            uniforms: In [0, 1), (B,) float64.
            mass: Of no importance.
            per_instance: Of no importance.

        Returns:
            Instances, (B,) int64, and the probability of each in its bin, (B,) float64.
        """
        sizes = self._sizes.index_select(0, bins)
        ranks = (uniforms * sizes).long()  # a size times the largest uniform, 1 - 2**-53, rounds to less than the size
        return self._members.index_select(0, self._starts.index_select(0, bins).add_(ranks)), 1 / sizes.double()

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """The probability of the given instances in the given bins, which are theirs: (B,) float64."""
        return self._sizes.index_select(0, bins).to(torch.float64).reciprocal_()

    def draw_from(self, mass: Tensor, ends: Tensor, per_instance: float, points: Tensor) -> None:
        """None: there is no compiled loop for this."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: all of it follows from the bins."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""
