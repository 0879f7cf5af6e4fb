"""Adaptive weighted SGD: the law over the bins is itself learned by gradient descent on the estimate's variance.

The proposal is a softmax over the bins, q_k(τ) ∝ exp τ_k, uniform inside them. An instance that is drawn with
probability r gives the gradient estimate d = ∇f / (N r). As d is unbiased for every τ, its variance is least where
E ‖d‖² is; and because ∇_τ E ‖d‖² = −E[‖d‖² ∇_τ log r], each batch makes the step

    τ ← τ + η · mean over the batch of ‖d‖² ∇_τ log r,        ‖d‖² = w² · bound,        w = 1/(N r).

Losses are weighted by w. At first q is the bins' shares of the data, so that all instances are equal.

Two guards against a runaway are this package's. With a floor ε the law is r_k = (1 − ε) q_k + ε |C_k|/N, so that no
weight exceeds 1/ε; its own gradient, (1 − ε) q_k / r_k · (e_k − q) for a draw from bin k, is what the step follows. And
a step that would move a logit by more than 1 is shortened to that.

Source: Bouchard, Trouillon, Perez, Gaidon, "Online Learning to Sample" (2015, arXiv:1506.09016), algorithm AW-SGD and
the application in which images are sampled by their labels.

Cost per step: no extra forward pass; O(batch · log K) for the draw and O(batch + K) for the update, for K bins.

Verified: the abstract and a summary; the step was derived from them and agrees with finite differences of E ‖d‖². The
paper's step sizes, guards and results could not be verified, and no code of the authors was found: the default learning
rate is a guess. Where loader workers draw ahead, a draw is older than τ: w² is then the product of the weights by the
law of the draw and by the present one, which keeps the step unbiased.

When to use it: as `GopalSampling`, whose optimum it shares, where the law should move a little with every batch
instead of once in a window.

When not: the gradient norms shrink by orders of magnitude during training, as they do where the loss goes to 0: the
steps shrink with their squares, and the law freezes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.uniform_in_bins import UniformInBins
from lightning_as.strategies.base import Strategy

_LARGEST_STEP = 1.0  # of a logit
_SMALLEST_LOGIT = -100.0  # of a normalised proposal: the square of a weight stays far from the end of float64


class LearnedProposal(Strategy):
    """A softmax over bins that learns, batch by batch, to give weighted gradients the least variance.

    Args:
        learning_rate: η, at least 0. Default: 0.1, a guess.
        floor: ε in [0, 1): the share of the draws that is uniform over all instances. Default: 0.1. The source has
            none; 0 is its law, but for logits that stay above −100.

    Raises:
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"bounds"})
    weighted = True

    def __init__(self, learning_rate: float = 0.1, floor: float = 0.1) -> None:
        if not 0 <= learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be finite and not negative, got {learning_rate}.")
        if not 0 <= floor < 1:
            raise ValueError(f"`floor` must be in [0, 1), got {floor}.")
        self.learning_rate = learning_rate
        self.floor = floor

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._inside = UniformInBins(bins)
        self._shares = torch.tensor(bins.sizes, dtype=torch.float64) / len(bins)
        self._set(self._shares.log())

    @property
    def bin_probabilities(self) -> Tensor:
        """The law over the bins, with the floor in it, (K,) float64."""
        return self._law

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        uniforms = torch.rand(2, size, dtype=torch.float64, generator=generator)
        bins = torch.searchsorted(self._cumulative, uniforms[0], right=True)
        indices = self._inside.draw(bins, uniforms[1])
        within = self._inside.probability(bins)
        probabilities = self._law.index_select(0, bins) * within
        return Draw(indices, bins, probabilities, within, weights=(len(self.bins) * probabilities).reciprocal())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if not len(bounds):
            return
        bins = draw.bins
        weights_then = (len(self.bins) * draw.probabilities).reciprocal()
        weights_now = (self._shares / self._law).index_select(0, bins)
        # ∇_τ log r of a draw from bin k is factor_k (e_k − q).
        factors = (1 - self.floor) * (self._proposal / self._law).index_select(0, bins)
        lengths = weights_then * weights_now * bounds * factors
        step = torch.zeros_like(self._law).index_add_(0, bins, lengths)
        step = (step - lengths.sum() * self._proposal).mul_(self.learning_rate / len(bounds))
        largest = float(vector_norm(step, math.inf))
        if largest > _LARGEST_STEP:
            step.mul_(_LARGEST_STEP / largest)
        self._set(self._logits + step)

    def probabilities(self) -> Tensor:
        tags = self.bins.tags.long()
        return self._law[tags] * self._inside.probability(tags)

    def metrics(self) -> dict[str, float]:
        """Of the law over the bins: entropy (nats), smallest and largest entry."""
        return {
            "entropy_p": float(torch.special.entr(self._law).sum()),
            "p_min": float(self._law.min()),
            "p_max": float(self._law.max()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self._logits.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._take(state["logits"].clone())

    def _set(self, logits: Tensor) -> None:
        """Take over logits, normalised."""
        self._take(logits.log_softmax(0).clamp_(min=_SMALLEST_LOGIT))

    def _take(self, logits: Tensor) -> None:
        self._logits = logits
        self._proposal = logits.softmax(0)
        self._law = (1 - self.floor) * self._proposal + self.floor * self._shares
        cumulative = self._law.cumsum(0)
        self._cumulative = cumulative / cumulative[-1]  # ends in exactly 1
