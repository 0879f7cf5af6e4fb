"""Gopal's adaptive sampling: bins by side information, drawn in proportion to their gradient norms.

A bin C_k is drawn with probability p_k, and then a member of it uniformly. The law with the least variance of the
gradient estimate is

    p̂_k ∝ |C_k|/N · √(mean of ‖∇f‖² over C_k).

The mean is that of the squared gradient bounds of the instances drawn during the last J draws. Every J draws

    p_k ← δ p̂_k + (1 − δ) |C_k|/N,

so that p_k never falls below 1 − δ of the bin's share of the data, and a weight never exceeds 1/(1 − δ). Losses are
weighted by |C_k| / (N p_k): the method minimises the plain mean loss, with less noise.

Source: Gopal, "Adaptive Sampling for SGD by Exploiting Side Information" (ICML 2016), Algorithm 1 and eqs. (7) and (8).
Here J draws are the first whole number of batches that makes them, and the norm is that of the gradient with respect to
the logits. The δ of Gopal multiplies the new estimate, that of the thesis the old one.

Cost per step: no extra forward pass; O(batch · log K) for the draw and O(batch + K) for the update, for K bins.

Verified: the formulas, J = N/4 and δ = 0.5 in the paper's full text. The paper does not say what becomes of a bin that
was not drawn in a window: here it keeps its share of p, and the others divide the rest by p̂; a window of nothing but
zeros leaves p as it is. Its experiments are of linear models; that the gain carries over to deep networks could not be
verified, and on balanced classes there is little of it to have.

When to use it: bins that differ in size or difficulty, such as imbalanced classes or sources, and a loss whose minimum
must stay that of the mean.

When not: the difficulty lies inside the bins, of which the method sees nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.uniform_in_bins import UniformInBins
from lightning_as.strategies.base import Strategy


class GopalSampling(Strategy):
    """Bins in proportion to size and root mean squared gradient, uniform inside, weighted.

    Args:
        update_every: J, draws between two recomputations of p, at least 1; a batch is not split. None: a quarter of the
            data set, as in the paper. Default: None.
        delta: δ in [0, 1), the share of the new estimate in p; the rest is the bins' shares of the data. Default: 0.5,
            the paper's.

    Raises:
        TypeError: If `update_every` is not an integer.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"bounds"})
    weighted = True

    def __init__(self, update_every: int | None = None, delta: float = 0.5) -> None:
        if update_every is not None and (not isinstance(update_every, int) or isinstance(update_every, bool)):
            raise TypeError(f"`update_every` must be an integer number of draws or None, got {update_every!r}.")
        if update_every is not None and update_every < 1:
            raise ValueError(
                f"`update_every` must be at least 1 draw, got {update_every}; None: a quarter of the data."
            )
        if not 0 <= delta < 1:
            raise ValueError(f"`delta` must be in [0, 1), so that every bin can be drawn; got {delta}.")
        self.update_every = update_every
        self.delta = delta

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._inside = UniformInBins(bins)
        self._window = -(-len(bins) // 4) if self.update_every is None else self.update_every
        self._over_bins = BinDistribution(
            bins.sizes, None, 1 - self.delta, statistic="mean", smoothing="original", proportional=True
        )

    @property
    def bin_probabilities(self) -> Tensor:
        """p, (K,) float64."""
        return self._over_bins.probabilities

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        uniforms = torch.rand(2, size, dtype=torch.float64, generator=generator)
        bins = self._over_bins.draw(uniforms[0])
        indices = self._inside.draw(bins, uniforms[1])
        within = self._inside.probability(bins)
        probabilities = self.bin_probabilities.index_select(0, bins) * within
        return Draw(indices, bins, probabilities, within, weights=(len(self.bins) * probabilities).reciprocal())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        assert draw.within is not None, "a draw from here has it"
        self._over_bins.update(draw.bins, bounds, draw.within)
        if self._over_bins.draws >= self._window:
            self._over_bins.recompute()

    def probabilities(self) -> Tensor:
        tags = self.bins.tags.long()
        return self.bin_probabilities[tags] * self._inside.probability(tags)

    def metrics(self) -> dict[str, float]:
        """Of p: entropy (nats), smallest and largest entry, age (batches)."""
        p = self.bin_probabilities
        return {
            "entropy_p": float(torch.special.entr(p).sum()),
            "p_min": float(p.min()),
            "p_max": float(p.max()),
            "age_p": float(self._over_bins.age),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"over_bins": self._over_bins.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._over_bins.load_state_dict(state["over_bins"])
