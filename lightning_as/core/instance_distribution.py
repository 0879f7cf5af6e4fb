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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.tree_in_bins import WEIGHT, TreeInBins, last_occurrence

_SCORE = 1  # the channel of a leaf beside its weight
# Scores below count as 0, and sums of weights outside are scaled back to about 1, both long before float64 ends.
_SMALLEST_SCORE = 1e-100
_SMALLEST_SUM, _LARGEST_SUM = 1e-40, 1e40
# Batches between two looks at the sums where a look has to wait for a GPU. A batch at most doubles a sum, and it leaves
# the share δq of it, which on a GPU should therefore not be tiny.
_LOOK_EVERY = 64


class InstanceDistribution(TreeInBins):
    """Q^j over the members of each bin j, uniform at first.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of its old q that a visit leaves an instance. Default: 0.1.
        leaf: The channels of a leaf at first, which a subclass may have otherwise. Default: weight 1, score 0.
    """

    def __init__(self, bins: Bins, delta_q: float = 0.1, leaf: Sequence[float] = (1.0, 0.0)) -> None:
        super().__init__(bins, leaf)
        self.delta_q = delta_q
        self._batches = 0
        self._unseen = torch.ones(len(bins), dtype=torch.bool, device=bins.device)
        self._seen = torch.zeros_like(self._sizes)  # of each bin

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.views(self._instance, self._place, self._unseen, self._seen, self._sizes)

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
            scores = torch.where(scores <= _SMALLEST_SCORE, 0, scores)
        if self._tree.loops is None:
            self._update_in_torch(indices, bins, scores)
            return
        batch = (part.contiguous().numpy() for part in (indices, bins, scores))
        arguments = (*self._tree.arrays[:2], *self.arrays[1:], *batch)
        limits = (self.delta_q, _SMALLEST_SCORE, _SMALLEST_SUM, _LARGEST_SUM)
        for _ in range(2):  # the second time with weights that are scaled
            if self._tree.loops.smooth_drawn(*arguments, *limits):
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
        leaves[:, _SCORE] = torch.where(self._unseen, 0, scores).index_select(0, self._instance.long())
        self._tree.load(leaves)

    # Off the CPU without looking at a number, for which a GPU would have to be waited for.
    def _update_in_torch(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        known = scores.isfinite()
        last = last_occurrence(indices, known)  # where an instance is written twice, it must be the same
        self._see(indices, bins, known, last)
        scores, known = scores.index_select(0, last), known.index_select(0, last)
        places = self._place.index_select(0, indices)
        scores = torch.where(known, scores, self._tree.get(places, channel=_SCORE))
        self._tree.set(places, scores, channel=_SCORE)
        self._batches += 1
        if self.bins.on_host or self._batches % _LOOK_EVERY == 0:
            self._keep_in_range()
        weight_sum, score_sum = self._tree.totals().unbind(1)
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        per_score = (1 - self.delta_q) * self._seen / self._sizes * weight_sum / score_sum
        held = self._tree.get(places, channel=WEIGHT)
        moved = torch.addcmul(held * self.delta_q, per_score.index_select(0, bins), scores)
        # Bins whose scores are all 0 have no target: they keep their Q.
        moves = (score_sum >= _SMALLEST_SCORE).index_select(0, bins) & known
        self._tree.set(places, torch.where(moves, moved, held), channel=WEIGHT)

    def _see(self, indices: Tensor, bins: Tensor, known: Tensor, last: Tensor) -> None:
        """Note that the known ones have a score from now on; of equal instances the last known one counts."""
        unseen = self._unseen.index_select(0, indices)
        is_last = last == torch.arange(len(indices), device=indices.device)
        self._seen.index_add_(0, bins, (unseen & known & is_last).to(torch.float64))
        self._unseen.index_copy_(0, indices, unseen & ~known.index_select(0, last))

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU: the leaves (N, 2), and which instances are unseen, (N,)."""
        return super().state_dict() | {"unseen": self._unseen.clone().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""
        super().load_state_dict(state)
        self._unseen.copy_(state["unseen"])
        unseen = self.bins.tags[self._unseen]
        self._seen.copy_(self._sizes - torch.bincount(unseen, minlength=len(self._sizes)))

    def _keep_in_range(self) -> None:
        """Scale all weights if some W threatens to leave float64. O(N) then, rare."""
        weight_sum = self._tree.totals()[:, WEIGHT]
        smallest, largest = (float(end) for end in weight_sum.aminmax())
        if smallest < _SMALLEST_SUM or largest > _LARGEST_SUM:
            mantissa, _ = weight_sum.frexp()
            factors = mantissa / weight_sum  # powers of two, which change no digit, so that it matters to none when
            self._tree.collapse(torch.stack([factors, torch.zeros_like(factors)], dim=1), channel=WEIGHT)
