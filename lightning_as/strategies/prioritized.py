"""Prioritised sampling: prioritised experience replay with a data set in place of the replay memory.

An instance is drawn with probability P(i) = p_i^α / Σ_k p_k^α, from its priority

* ``"proportional"``: p_i = loss + ε, the last known one;
* ``"rank"``: p_i = 1 / rank(i), its place in the descending order of the last known losses.

The range of the cumulative distribution is cut into B equal parts, and one instance is drawn from each: a batch is
spread more evenly than by independent draws, and its mean has the same expectation. So there is no choice of points
here. The losses are weighted by w_i = (N P(i))^(−β), over the largest of the batch. β goes linearly from `beta_start`
at the first batch to 1 at the last: in the end the weights are unbiased, up to their common factor. Instances that were
never drawn have the largest priority so far, at first 1; with ``"rank"`` they come before all others.

Source: Schaul, Quan, Antonoglou and Silver, "Prioritized Experience Replay" (2015, arXiv:1511.05952): eq. (1),
the weights under "annealing the bias", Algorithm 1, and the appendix on the variants. Its supervised experiment is of
MNIST without 99 % of the digits 0 to 4, with the last error as priority, α = 1 and β = 0, that is, no weights.

Cost per step: No extra forward pass. ``"proportional"``: O(batch · log N), half a millisecond. ``"rank"``: O(√(N ·
batch)), a millisecond or two with a million instances (`benchmarks/online_batch_selection.py`). 21 bytes of memory per
instance, ``"rank"`` 45.

Verified: The formulas, both α and β, the draws and the supervised experiment in the paper. It does not give ε, which is
10⁻⁶ in this package, nor say of what β's steps are: batches. The error |δ| of a regression becomes the loss.
Departures: the order is exact after every batch, where the paper's heap is sorted anew every 10⁶ steps; ranks are drawn
from the exact distribution inside each part, there uniformly; new items keep the priority that was the largest when
they came, in this package it is the largest now, since all came at once.

When to use it: What is worth learning is rare, as in imbalanced data.

When not: Noisy labels; with the weights on, what the priorities gain early is taken back as β nears 1.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, stratified_uniforms
from lightning_as.core.ranking import Ranking
from lightning_as.core.state import require
from lightning_as.core.weighted_distribution import WeightedDistribution
from lightning_as.strategies.base import Strategy

Variant = Literal["proportional", "rank"]


class PrioritizedSampling(Strategy):
    """Instances by a power of their last loss or of its rank, with weights that become unbiased.

    Args:
        variant: What the priority is made from. ``"proportional"``: the loss. ``"rank"``: its rank, which outliers do
            not disturb. Default: ``"proportional"``.
        alpha: α in [0, 1], how much the priorities count; 0 is uniform. Default: 0.6 of ``"proportional"``, 0.7 of
            ``"rank"``, the paper's Atari experiments; its supervised one has 1.
        beta_start: β of the first batch, in [0, 1]; with 1 there is no annealing. Default: 0.4 of ``"proportional"``,
            0.5 of ``"rank"``, the paper's Atari experiments. Its supervised one has no weights, which is
            ``AdaptiveSamplingCallback(weights="none")``.
        epsilon: ε > 0, what ``"proportional"`` adds to a loss so that one of 0 is not the end. Default: 1e-6; the paper
            does not say.

    Raises:
        ValueError: If an option is out of its range.
    """

    weighted = True

    def __init__(
        self,
        variant: Variant = "proportional",
        alpha: float | None = None,
        beta_start: float | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        check_choice("variant", variant, get_args(Variant))
        for name, exponent in (("alpha", alpha), ("beta_start", beta_start)):
            if exponent is not None:
                check_share(name, exponent, with_one=True)
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"`epsilon` must be a positive number, such as 1e-6, got {epsilon}.")
        is_proportional = variant == "proportional"
        self.variant: Variant = variant
        self.samples_by_loss = is_proportional
        self.alpha = (0.6 if is_proportional else 0.7) if alpha is None else alpha
        self.beta_start = (0.4 if is_proportional else 0.5) if beta_start is None else beta_start
        self.epsilon = epsilon

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._size = len(bins)
        if self.variant == "proportional":
            self._distribution = _ByLoss(bins, self.alpha, self.epsilon)
        else:
            self._distribution = _ByRank(bins, self.alpha)

    def schedule(self) -> tuple[str, str] | None:
        return (f"β from `beta_start` = {self.beta_start} to 1", "set `beta_start=1`") if self.beta_start < 1 else None

    @property
    def beta(self) -> float:
        """β of the next batch that is drawn."""
        total = self.progress.total
        if total is None:
            return self.beta_start
        return self.beta_start + (1 - self.beta_start) * min(1.0, self.progress.done / max(1, total - 1))

    @torch.inference_mode()
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        draw = self._distribution.draw(size, generator)
        logarithms = (draw.probabilities * self._size).log_().mul_(-self.beta)
        return draw._replace(weights=logarithms.sub_(logarithms.max()).exp_())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if len(losses):
            self._distribution.set(draw.indices, losses)

    def probabilities(self) -> Tensor:
        return self._distribution.probabilities()

    def metrics(self) -> dict[str, float]:
        """β of the next batch that is drawn."""
        return {"beta": self.beta}

    def state_dict(self) -> dict[str, Any]:
        return {"variant": self.variant, **self._distribution.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._distribution.load_state_dict(state)


class _ByLoss:
    """P(i) ∝ (loss + ε)^α, with the largest priority so far for the unseen."""

    def __init__(self, bins: Bins, alpha: float, epsilon: float) -> None:
        self._alpha = alpha
        self._epsilon = epsilon
        self._largest = 1.0
        self._distribution = WeightedDistribution(bins, unknown=1.0)

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return self._distribution.draw(stratified_uniforms(size, generator))

    def set(self, indices: Tensor, losses: Tensor) -> None:
        priorities = losses + self._epsilon
        self._note_largest(max(self._largest, float(priorities.max())))
        self._distribution.set(indices, priorities.pow_(self._alpha))

    def probabilities(self) -> Tensor:
        return self._distribution.probabilities()

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._distribution.state(), "largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._distribution.load_state(state["weights"])
        require(state["largest"] > 0, f"`largest` is {state['largest']}")
        self._note_largest(state["largest"])

    def _note_largest(self, priority: float) -> None:
        self._largest = priority
        self._distribution.unknown = priority**self._alpha


class _ByRank:
    """P(i) ∝ rank(i)^−α by the descending loss, with the unseen before all others."""

    def __init__(self, bins: Bins, alpha: float) -> None:
        self._bins = bins
        self._ranking = Ranking(len(bins))
        weights = torch.arange(1, len(bins) + 1, dtype=torch.float64, device="cpu").pow_(-alpha)
        self._probabilities = weights / weights.sum()  # of each rank
        cumulative = weights.cumsum_(0)
        self._cumulative = cumulative.div_(cumulative[-1].clone())  # ends in exactly 1

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        ranks = torch.searchsorted(self._cumulative, stratified_uniforms(size, generator), right=True)
        indices = self._ranking.at(ranks)
        return Draw(indices, self._bins.of(indices), self._probabilities.index_select(0, ranks))

    def set(self, indices: Tensor, losses: Tensor) -> None:
        self._ranking.set(indices, losses)

    def probabilities(self) -> Tensor:
        probabilities = torch.empty_like(self._probabilities)
        probabilities[self._ranking.at(torch.arange(len(probabilities), device="cpu"))] = self._probabilities
        return probabilities

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._ranking.values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ranking.load(state["losses"])
