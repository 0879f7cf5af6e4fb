"""Q: the distribution of the instances inside each bin, over a sum tree, smoothed where it was drawn.

Lines 21 and 22 of Algorithm 1 make q_i ∝ l_i inside a bin and smooth it with δq. They do not say which instances they
mean. Here they are those of the batch, after which Q is normalised again in each bin:

    q_i ← δq q_i + (1 − δq) l_i / Z,        Z = Σ l over the bin,        then q ← q / Σ q.

An instance without a loss counts in Z as the mean of its bin, and keeps its q until it is drawn. So

* a visit leaves at least δq of the old q: an instance which was right once comes back, and is given up step by step,
  each time that it is right again;
* a loss counts relative to the mean loss at the time of its visit, not to today's: a stale loss of the first epochs
  does not grow in importance as the rest is learned.

The sum tree keeps a weight w with q = w / W, W = Σ w over the bin, so that normalising costs nothing:

    w_i ← δq w_i + (1 − δq) l_i W / Z.

Weights and scores are float32, which rounds each at 6e-8 of it, whenever it is set: q is off by some of these, and what
is drawn and reported is exactly the q that is kept. A q below some 1e-26 is 0, which no number of draws could tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.tree_in_bins import WEIGHT, TreeInBins, last_occurrence

_SCORE = 1  # the channel of a leaf beside its weight; -0.0 is none yet, which adds nothing to a sum
# Bins whose scores sum to less have no target; the least weight of a score that is not 0; sums of weights outside are
# scaled back to about 1: all long before the leaves' numbers end.
_LIMITS = {torch.float32: (1e-30, 1e-35, 1e-12, 1e12), torch.float64: (1e-100, 1e-250, 1e-40, 1e40)}
_LARGEST_FACTOR = 2.0**120
# Batches between two scalings of all weights on a GPU, by 1 where there is no need: to look would wait for it. A batch
# at most doubles a sum, and it leaves the share δq of it, which on a GPU should therefore not be tiny.
_SCALE_EVERY = 16


class InstanceDistribution(TreeInBins):
    """Q^j over the members of each bin j, uniform at first.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of its old q that a visit leaves an instance. Default: 0.1.
        leaf: The channels of a leaf at first, which a subclass may have otherwise. Default: weight 1 and no score.
        dtype: Of the leaves, float32 or float64. Default: float32.
    """

    def __init__(
        self,
        bins: Bins,
        delta_q: float = 0.1,
        leaf: Sequence[float] = (1.0, -0.0),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(bins, leaf, dtype)
        self.delta_q = delta_q
        self._smallest_score, self._smallest_weight, self._smallest_sum, self._largest_sum = _LIMITS[dtype]
        self._largest_score = torch.finfo(dtype).max
        self._batches = 0
        self._seen = torch.zeros_like(self._sizes)  # of each bin

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.views(self._instance, self._seen)

    @property
    def share_seen(self) -> float:
        """Share of all instances that have a score."""
        return float(self._seen.sum()) / len(self.bins)

    def update(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        """Enter a batch's scores into the table and move Q by one step of line 22.

        Args:
            indices: Instances, (B,) int64. Of duplicates the last counts.
            bins: Their bins, (B,) int64.
            scores: Their finite scores, (B,) float64, at least 0. Where torch does it, NaN leaves an instance alone.
        """
        if self.delta_q == 0:  # nothing else keeps a weight from vanishing
            scores = torch.where(scores <= self._smallest_score, 0, scores)
        if self._tree.loops is None:
            self._update_in_torch(indices, bins, scores)
            return
        batch = (part.contiguous().numpy() for part in (indices, bins, scores))
        arguments = (*self._tree.arrays, *self.arrays, *batch)
        limits = (self._largest_score, self._smallest_score, self._smallest_weight, self._smallest_sum)
        for _ in range(2):  # the second time with weights that are scaled
            if self._tree.loops.smooth_drawn(*arguments, self.delta_q, *limits, self._largest_sum):
                return
            self._keep_in_range()
        raise ValueError("The weights of a bin sum to 0, or to no finite number: no instance of it can be drawn.")

    def rescore(self, scores: Tensor) -> None:
        """Give all that have a score another one, such as of another unit. No q changes; Z does, for later steps.

        O(N). A GPU is waited for.

        Args:
            scores: In the data set's order, (N,) float64, finite and at least 0; of the unseen they are not used.
        """
        leaves = self._tree.leaves()
        unseen = leaves[:, _SCORE].signbit()
        scores = scores.index_select(0, self._instance.long()).clamp(max=self._largest_score).abs()
        leaves[:, _SCORE] = torch.where(unseen, -0.0, scores.to(leaves.dtype))
        self._tree.load(leaves)

    # Off the CPU without looking at a number, for which a GPU would have to be waited for.
    def _update_in_torch(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        known = scores.isfinite()
        last = last_occurrence(indices, known)  # where an instance is written twice, it must be the same
        leaves = self.leaves_of(indices, bins)
        held = self._tree.get(leaves, bins, channel=_SCORE)
        is_last = last == torch.arange(len(indices), device=indices.device)
        self._seen.index_add_(0, bins, (held.signbit() & known & is_last).double())
        scores, known = scores.index_select(0, last), known.index_select(0, last)
        scores = torch.where(known, scores.abs().clamp(max=self._largest_score), held.double())
        self._tree.set(leaves, scores, bins, channel=_SCORE)
        self._batches += 1
        if self.bins.on_host or self._batches % _SCALE_EVERY == 0:
            self._keep_in_range()
        weight_sum, score_sum = self._tree.totals().unbind(1)
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        per_score = (1 - self.delta_q) * self._seen / self._sizes * weight_sum / score_sum
        held = self._tree.get(leaves, bins, channel=WEIGHT).double()
        scores = self._tree.get(leaves, bins, channel=_SCORE).double()
        moved = torch.addcmul(held * self.delta_q, per_score.index_select(0, bins), scores)
        moved = torch.where(scores > 0, moved.clamp(min=self._smallest_weight), moved)
        # Bins whose scores are all 0 have no target: they keep their Q.
        moves = (score_sum >= self._smallest_score).index_select(0, bins) & known
        self._tree.set(leaves, torch.where(moves, moved, held), bins, channel=WEIGHT)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins: the leaves, (N, 2)."""
        super().load_state_dict(state)
        bins = torch.arange(len(self._sizes), device=self._sizes.device).repeat_interleave(self._sizes.long())
        has_score = ~self._tree.leaves()[:, _SCORE].signbit()
        self._seen.copy_(torch.bincount(bins[has_score], minlength=len(self._sizes)))

    def _keep_in_range(self) -> None:
        """Scale the weights of bins whose W threatens to leave what the leaves can be. O(N) then, rare."""
        weight_sum = self._tree.totals()[:, WEIGHT]
        fits = (weight_sum >= self._smallest_sum) & (weight_sum <= self._largest_sum)
        if self.bins.on_host and bool(fits.all()):
            return
        mantissa, _ = weight_sum.frexp()
        # Powers of two, which change no digit, so that it matters to none when.
        factors = torch.where(fits, 1, mantissa / weight_sum).clamp(max=_LARGEST_FACTOR)
        self._tree.collapse(torch.stack([factors, torch.zeros_like(factors)], dim=1), channel=WEIGHT)
