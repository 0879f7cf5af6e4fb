"""The two-level distribution: P over bins, Q over the instances of each, and a floor of uniform draws.

An instance i of the bin j has the probability

    r_i = (1 − ε) p_j q_i + ε / N,

so that none falls below ε/N, whatever P and Q do, and an unbiased weight is at most 1/ε. With ε = 0 this is the
distribution of Avalos's thesis (2021), Algorithm 1, lines 4 and 5; P alone with a uniform Q is Gopal's (ICML 2016).

An instance owns one interval of [0, 1), the bins one after the other and the instances of each one after the other, of
the length r: one point decides a draw. It falls into the part of a bin, of the length (1 − ε) p_j + ε n_j/N; where it
stands in there, as a share, falls into the part of an instance, as if a leaf weighed (1 − ε) p_j w_i/W_j + ε/N. So r is
exact to some 2**-50 of the whole: an instance with less than that is drawn, if at all, at another rate.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution, invert
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, to_device


class InsideBins(Protocol):
    """Q: a distribution over the instances of each bin."""

    def draw(self, bins: Tensor, uniforms: Tensor, mass: Tensor, per_instance: float) -> tuple[Tensor, Tensor]:
        """Draw one instance from each of the given bins, in proportion to m_j q_i + f.

        Args:
            bins: Bins, (B,) int64.
            uniforms: In [0, 1), (B,) float64.
            mass: m, (k,) float64.
            per_instance: f, at least 0; with 0 the mass is of no importance.

        Returns:
            Instances, (B,) int64, and the probability of each among those of its bin, (B,) float64.
        """
        ...

    def draw_from(self, mass: Tensor, ends: Tensor, per_instance: float, points: Tensor) -> Draw | None:
        """A draw of the bins, whose parts of [0, 1) have these `ends`, (k,), and of the instances, by a compiled loop.

        Returns:
            The draw at the points, (B,); None where there is no such loop.
        """
        ...

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """The probability of the given instances in the given bins, which are theirs: (B,) float64."""
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
        sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device)
        self._shares, self._share_ends = sizes / len(bins), sizes.cumsum(0) / len(bins)
        self._cut: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.inference_mode()  # which spares a fifth of the time
    def draw(self, points: Tensor) -> Draw:
        """Draw a batch with replacement.

        Args:
            points: What the distribution is inverted at, in [0, 1), (B,) float64, on the CPU.

        Returns:
            The draw, with the probability r of each instance and that within its bin, the floor counted in.
        """
        points = to_device(points, self.bins.device)
        mass, ends = self._parts()
        per_instance = self.floor / len(self.bins)
        draw = self.inside.draw_from(mass, ends, per_instance, points)
        if draw is not None:
            return draw
        bins, rest = invert(ends, points)
        indices, within = self.inside.draw(bins, rest, mass, per_instance)
        return Draw(indices, bins, within * self.bin_probabilities().index_select(0, bins), within)

    def bin_probabilities(self) -> Tensor:
        """Probability that a draw falls into each bin, the floor counted in, (k,) float64."""
        return (1 - self.floor) * self.over_bins.probabilities + self.floor * self._shares

    @property
    def ends(self) -> Tensor:
        """Where the bins' parts of [0, 1) end, (k,) float64."""
        return self._parts()[1]

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

    def _parts(self) -> tuple[Tensor, Tensor]:
        """(1 − ε) P, and where the bins' parts of [0, 1) end, both (k,); made when P is another than before."""
        p = self.over_bins.probabilities
        if self._cut is None or self._cut[0] is not p:
            # A number less ε, and ε again, rounds to 1: the parts end in it exactly, as P does.
            ends = (1 - self.floor) * self.over_bins.cumulative + self.floor * self._share_ends
            self._cut = p, (1 - self.floor) * p, ends
        return self._cut[1:]

    def _joint(self, q: Tensor, bins: Tensor) -> Tensor:
        """The probability r of instances with the given q, which lie in the given bins."""
        p = self.over_bins.probabilities.index_select(0, bins)
        return (p * q).mul_(1 - self.floor).add_(self.floor / len(self.bins))
