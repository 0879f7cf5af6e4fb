"""Gopal's adaptive sampling: bins by side information, drawn in proportion to their gradient norms.

A bin C_k is drawn with probability p_k, and then a member of it uniformly. The distribution with the least variance of
the gradient estimate is

    p̂_k ∝ |C_k|/N · √(mean of ‖∇f‖² over C_k).

The mean is that of the squared gradient bounds of the instances drawn during the last J draws. Every J draws

    p_k ← δ p̂_k + (1 − δ) |C_k|/N,

so that p_k never falls below 1 − δ of the bin's share of the data, and a weight never exceeds 1/(1 − δ). Losses are
weighted by |C_k| / (N p_k): the method minimises the plain mean loss, with less noise.

Source: Gopal, "Adaptive Sampling for SGD by Exploiting Side Information" (ICML 2016), Algorithm 1 and eqs. (7) and (8).
Its draws are independent, `points="independent"` and the preset; by default they are spread evenly. Here J draws are
the first whole number of batches that makes them, and the norm is that of the gradient with respect to the logits. The
δ of Gopal multiplies the new estimate, that of the thesis the old one.

Cost per step: No extra forward pass; O(batch · log K) for the draw and O(batch + K) for the update, for K bins; 16
bytes of memory per instance.

Verified: The formulas, J = N/4 and δ = 0.5 in the paper's full text. The paper does not say what becomes of a bin that
was not drawn in a window: in this package it keeps its share of p, and the others divide the rest by p̂; a window of
nothing but zeros leaves p as it is. Its experiments are of linear models; that the gain carries over to deep networks
could not be verified, and on balanced classes there is little of it to have.

When to use it: Bins that differ in size or difficulty, such as imbalanced classes or sources, and a loss whose minimum
must stay that of the mean.

When not: The difficulty lies inside the bins, of which the method sees nothing.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_share
from lightning_as.core.bin_distribution import GradientBinDistribution, figures_of
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, importance_weights
from lightning_as.core.points import Kind, Points
from lightning_as.core.two_levels import TwoLevels
from lightning_as.core.uniform_in_bins import UniformInBins
from lightning_as.strategies.base import Strategy


class GopalSampling(Strategy):
    """Bins in proportion to size and root mean squared gradient, uniform inside, weighted.

    Args:
        update_every: J, draws between two recomputations of p, at least 1; a batch is not split. None: a quarter of the
            data set, as in the paper. Default: None.
        delta: δ in [0, 1), the share of the new estimate in p; the rest is the bins' shares of the data, so that every
            bin can be drawn. Default: 0.5, the paper's.
        points: As in :class:`AdaptiveSampling`; the paper's are independent. Default: ``"strata"``.

    Raises:
        TypeError: If `update_every` is not an integer, or `delta` not a number.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"bounds"})
    weighted = True

    def __init__(self, update_every: int | None = None, delta: float = 0.5, points: Kind = "strata") -> None:
        if update_every is not None:
            check_integer("update_every", update_every, unit="draws")
        check_share("delta", delta)
        check_choice("points", points, get_args(Kind))
        self.update_every = update_every
        self.delta = delta
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.reads = type(self).reads if len(bins.sizes) > 1 else frozenset()  # one bin has the probability 1
        self._window = -(-len(bins) // 4) if self.update_every is None else self.update_every
        self._over_bins = GradientBinDistribution(
            bins.sizes, None, 1 - self.delta, statistic="mean", smoothing="original", proportional=True
        )
        self._levels = TwoLevels(bins, self._over_bins, UniformInBins(bins))
        self._points = Points(len(bins), self.points)

    @property
    def bin_probabilities(self) -> Tensor:
        """p, (K,) float64."""
        return self._over_bins.probabilities

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        draw = self._levels.draw(self._points.take(size, generator))
        return draw._replace(weights=importance_weights(draw.probabilities, len(self.bins)))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        assert draw.within is not None, "a draw from here has it"
        self._over_bins.update(draw.bins, bounds, draw.within)
        if self._over_bins.draws >= self._window:
            self._over_bins.recompute()

    def probabilities(self) -> Tensor:
        return self._levels.probabilities()

    def metrics(self) -> dict[str, float]:
        """Of p: entropy (nats), smallest and largest entry, age (batches)."""
        return figures_of(self.bin_probabilities) | {"age_p": float(self._over_bins.age)}

    def state_dict(self) -> dict[str, Any]:
        return self._levels.state_dict() | {"drawn": self._points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._levels.load_state_dict(state)
        self._points.load_state_dict(state["drawn"])
