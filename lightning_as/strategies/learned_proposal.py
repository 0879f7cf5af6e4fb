"""Adaptive weighted SGD: the distribution over the bins is itself learned by gradient descent on the variance.

The proposal is a softmax over the bins, q_k(τ) ∝ exp τ_k, uniform inside them. An instance that is drawn with
probability r gives the gradient estimate d = ∇f / (N r). As d is unbiased for every τ, its variance is least where
E ‖d‖² is; and because ∇_τ E ‖d‖² = −E[‖d‖² ∇_τ log r], each batch makes the step

    τ ← τ + η · mean over the batch of ‖d‖² ∇_τ log r,        ‖d‖² = w² · bound,        w = 1/(N r).

Losses are weighted by w. At first q is the bins' shares of the data, so that all instances are equal.

Two guards against a runaway are this package's. With a floor ε a bin has the probability r_k = (1 − ε) q_k + ε |C_k|/N,
so that no weight exceeds 1/ε; its own gradient, (1 − ε) q_k / r_k · (e_k − q) for a draw from bin k, is what the step
follows. And a step that would move a logit by more than 1 is shortened to that.

Source: Bouchard, Trouillon, Perez, Gaidon, "Online Learning to Sample" (2015, arXiv:1506.09016), algorithm AW-SGD and
the application in which images are sampled by their labels. Its draws are independent, `points="independent"` and the
preset; by default they are spread evenly, whose variance is another than the one that is minimised.

Cost per step: No extra forward pass; O(batch · log K) for the draw and O(batch + K) for the update, for K bins; 16
bytes of memory per instance.

Verified: The abstract and a summary; the step was derived from them and agrees with finite differences of E ‖d‖². The
paper's step sizes, guards and results could not be verified, and no code of the authors was found: the default learning
rate is a guess. Where loader workers draw ahead, a draw is older than τ: w² is then the product of the weights by the
distribution of the draw and by the present one, which keeps the step unbiased.

When to use it: As `GopalSampling`, whose optimum it shares, where P should move a little with every batch
instead of once in a window.

When not: The gradient norms shrink by orders of magnitude during training, as they do where the loss goes to 0: the
steps shrink with their squares, and P freezes.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lightning_as.core.arguments import check_choice, check_positive, check_share
from lightning_as.core.bin_distribution import BinDistribution, figures_of
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, importance_weights
from lightning_as.core.points import Kind, Points
from lightning_as.core.two_levels import TwoLevels
from lightning_as.core.uniform_in_bins import UniformInBins
from lightning_as.strategies.base import Strategy

_LARGEST_STEP = 1.0  # of a logit
_SMALLEST_LOGIT = -100.0  # of a normalised proposal: the square of a weight stays far from the end of float64


class LearnedProposal(Strategy):
    """A softmax over bins that learns, batch by batch, to give weighted gradients the least variance.

    Args:
        learning_rate: η, at least 0. Default: 0.1, a guess.
        floor: ε in [0, 1): the share of the draws that is uniform over all instances. Default: 0.1. The source has
            none; 0 is as there, but for logits that stay above −100.
        points: As in :class:`AdaptiveSampling`; the source's are independent. Default: ``"strata"``.

    Raises:
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"bounds"})
    weighted = True

    def __init__(self, learning_rate: float = 0.1, floor: float = 0.1, points: Kind = "strata") -> None:
        check_positive("learning_rate", learning_rate, with_zero=True)
        check_share("floor", floor)
        check_choice("points", points, get_args(Kind))
        self.learning_rate = learning_rate
        self.floor = floor
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.reads = type(self).reads if len(bins.sizes) > 1 else frozenset()  # one bin has the probability 1
        self._shares = torch.tensor(bins.sizes, dtype=torch.float64, device="cpu") / len(bins)
        self._proposal = BinDistribution(self._shares)
        self._levels = TwoLevels(bins, self._proposal, UniformInBins(bins), self.floor)
        self._points = Points(len(bins), self.points)
        self._set(self._shares.log())

    @property
    def bin_probabilities(self) -> Tensor:
        """The distribution over the bins, with the floor in it, (K,) float64."""
        return self._levels.bin_probabilities()

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        draw = self._levels.draw(self._points.take(size, generator))
        return draw._replace(weights=importance_weights(draw.probabilities, len(self.bins)))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if not len(bounds):
            return
        bins, q, r = draw.bins, self._proposal.probabilities, self.bin_probabilities
        weights_then = importance_weights(draw.probabilities, len(self.bins))
        weights_now = (self._shares / r).index_select(0, bins)
        # ∇_τ log r of a draw from bin k is factor_k (e_k − q).
        factors = (1 - self.floor) * (q / r).index_select(0, bins)
        lengths = weights_then * weights_now * bounds * factors
        step = torch.zeros_like(q).index_add_(0, bins, lengths)
        step = (step - lengths.sum() * q).mul_(self.learning_rate / len(bounds))
        largest = float(vector_norm(step, math.inf))
        if largest > _LARGEST_STEP:
            step.mul_(_LARGEST_STEP / largest)
        self._set(self._logits + step)

    def probabilities(self) -> Tensor:
        return self._levels.probabilities()

    def metrics(self) -> dict[str, float]:
        """Of the distribution over the bins: entropy (nats), smallest and largest entry."""
        return figures_of(self.bin_probabilities)

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self._logits.clone(), "drawn": self._points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._take(state["logits"].clone())
        self._points.load_state_dict(state["drawn"])

    def _set(self, logits: Tensor) -> None:
        """Take over logits, normalised."""
        self._take(logits.log_softmax(0).clamp_(min=_SMALLEST_LOGIT))

    def _take(self, logits: Tensor) -> None:
        self._logits = logits
        self._proposal.set(logits.softmax(0))
