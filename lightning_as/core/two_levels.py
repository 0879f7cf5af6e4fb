"""The two-level distribution: P over bins, Q over the instances of each, and a floor of uniform draws.

An instance i of the bin j has the probability

    r_i = (1 − ε) p_j q_i + ε / N,

so that none falls below ε/N, whatever P and Q do, and an unbiased weight is at most 1/ε. With ε = 0 this is the
distribution of Avalos's thesis (2021), Algorithm 1, lines 4 and 5; P alone with a uniform Q is Gopal's (ICML 2016).

One uniform number decides a draw: whether it comes from the floor, then the bin, then the instance. What is left of the
number at one level, as a share of the part that it fell into, is uniform again, and decides at the next. So r is exact
to some 2**-52 of the whole: an instance with less than that is drawn, if at all, at another rate.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.draw import LARGEST_UNIFORM, Draw, to_device


class InsideBins(Protocol):
    """Q: a distribution over the instances of each bin."""

    def draw(self, bins: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Instances of the given bins, (B,) int64, and the probability of each in its bin, (B,) float64."""
        ...

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """The probability of the given instances in the given bins, which are theirs: (B,) float64."""
        ...

    def draw_from(self, over_bins: BinDistribution, floor: float, uniforms: Tensor) -> Draw | None:
        """A draw from all levels at once by a compiled loop; None where there is none for it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""
        ...


class TwoLevels:
    """P over bins × Q in each × a floor.

    Args:
        bins: The partition of N instances into k bins.
        over_bins: P. Who owns it moves it.
        inside: Q. Who owns it moves it.
        floor: ε in [0, 1). Default: 0.
    """

    def __init__(self, bins: Bins, over_bins: BinDistribution, inside: InsideBins, floor: float = 0.0) -> None:
        self.bins = bins
        self.over_bins = over_bins
        self.inside = inside
        self.floor = floor
        self._shares = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device) / len(bins)

    @torch.inference_mode()  # which spares a fifth of the time
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        """Draw a batch with replacement.

        Args:
            size: Number of instances B.
            generator: For the uniform numbers, on the CPU.

        Returns:
            The draw, with the probability r of each instance and that within its bin, the floor counted in.
        """
        uniforms = to_device(torch.rand(size, dtype=torch.float64, generator=generator, device="cpu"), self.bins.device)
        draw = self.inside.draw_from(self.over_bins, self.floor, uniforms)
        if draw is not None:
            return draw
        rest = (uniforms - self.floor).div_(1 - self.floor).clamp_(min=0, max=LARGEST_UNIFORM)
        bins, rest = self.over_bins.draw(rest)
        indices, q = self.inside.draw(bins, rest)
        if self.floor > 0:
            # A uniform below ε is, as a share of it, uniform again. Rounding may have given N.
            anywhere = (uniforms / self.floor * len(self.bins)).long().clamp_(max=len(self.bins) - 1)
            indices = torch.where(uniforms < self.floor, anywhere, indices)
            bins = self.bins.of(indices)
            q = self.inside.probability(indices, bins)
        joint = self._joint(q, bins)
        return Draw(indices, bins, joint, joint / self.bin_probabilities().index_select(0, bins))

    def bin_probabilities(self) -> Tensor:
        """Probability that a draw falls into each bin, the floor counted in, (k,) float64."""
        return (1 - self.floor) * self.over_bins.probabilities + self.floor * self._shares

    def probability(self, indices: Tensor) -> Tensor:
        """The probability r of each of the given instances, (B,) float64."""
        bins = self.bins.of(indices)
        return self._joint(self.inside.probability(indices, bins), bins)

    def probabilities(self) -> Tensor:
        """The probability r of every instance, in the data set's order, (N,) float64. O(N)."""
        return self.probability(torch.arange(len(self.bins), device=self.bins.device))

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints; the floor is an option, and no part of it."""
        return {"over_bins": self.over_bins.state_dict(), "inside": self.inside.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""
        self.over_bins.load_state_dict(state["over_bins"])
        self.inside.load_state_dict(state["inside"])

    def _joint(self, q: Tensor, bins: Tensor) -> Tensor:
        """The probability r of instances with the given q, which lie in the given bins."""
        p = self.over_bins.probabilities.index_select(0, bins)
        return (p * q).mul_(1 - self.floor).add_(self.floor / len(self.bins))
