"""Q smoothed where drawn: only the instances of the batch move, towards their share of the bin's loss.

Lines 21 and 22 of Algorithm 1, read for the instances i of the batch, and Q normalised again in each bin:

    q_i ← δq q_i + (1 − δq) l_i / Z,        Z = Σ l over the bin,        then q ← q / Σ q.

An instance without a loss counts in Z as the mean of its bin, and keeps its q until it is drawn. What sets this
reading apart from the other one (:mod:`~lightning_as.smoothed_everywhere`):

* A visit leaves at least δq of the old q, so that an instance which was right once comes back, and is given up
  step by step, each time that it is right again.
* A loss counts relative to the mean loss at the time of its visit, not to today's: a stale loss of the first
  epochs does not grow in importance as the rest is learned.

The sum tree keeps a weight w with q = w / W, W = Σ w over the bin, so that normalising costs nothing:

    w_i ← δq w_i + (1 − δq) l_i W / Z.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

from lightning_as.bins import Bins
from lightning_as.compiled import kernels
from lightning_as.instance_distribution import InstanceDistribution, last_occurrence

_WEIGHT, _SCORE = 0, 1  # channels of a leaf
# Scores below count as 0, and sums of weights outside are scaled back to 1, both long before float64 ends.
_SMALLEST_SCORE = 1e-100
_SMALLEST_SUM, _LARGEST_SUM = 1e-40, 1e40
_LARGEST_BATCH = 16384  # that torch writes in its order, by one thread; twice as many it shares among threads


class SmoothedWhereDrawn(InstanceDistribution):
    """Line 22 for the instances of the batch.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of its old q that a visit leaves an instance. Default: 0.1.
    """

    def __init__(self, bins: Bins, delta_q: float = 0.1) -> None:
        counts = torch.tensor([1.0, 0.0], dtype=torch.float64)  # of a leaf only its weight
        super().__init__(bins, delta_q, leaf=[1.0, 0.0], coefficients=counts.expand(len(bins.sizes), 2))
        self._nothing = torch.empty(0, 2, dtype=torch.float64)
        self._forget()

    @property
    def share_seen(self) -> float:
        return 1 - self._unseen_left / len(self.bins)

    def update(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        if self.delta_q == 0:  # nothing else keeps a weight from vanishing
            scores = threshold(scores, _SMALLEST_SCORE, 0.0)
        if len(indices) > _LARGEST_BATCH:
            scores = scores.index_select(0, last_occurrence(indices))
        if self._unseen_left:
            self._see(indices)
        if self._tree.compiled and self._update_compiled(indices, bins, scores):
            return
        places = self._place.index_select(0, indices)
        self._tree.set(places, scores, channel=_SCORE)
        scores = self._tree.get(places, channel=_SCORE)  # for duplicates the one that was written last
        weight_sum, score_sum, some_zero = self._sums()
        per_score = self._gain * weight_sum / score_sum
        held = self._tree.get(places, channel=_WEIGHT)
        moved = torch.addcmul(held * self.delta_q, per_score.index_select(0, bins), scores)
        if some_zero:  # a bin whose scores are all 0 keeps its Q
            moved = torch.where(score_sum.index_select(0, bins) < _SMALLEST_SCORE, held, moved)
        self._tree.set(places, moved, channel=_WEIGHT)

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors: the leaves (N, 2), and which instances are unseen, (N,)."""
        return {"leaves": self._tree.leaves(), "unseen": self._unseen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tree.load(state["leaves"])
        self._forget()
        self._see((~state["unseen"]).nonzero()[:, 0])

    def _update_compiled(self, indices: Tensor, bins: Tensor, scores: Tensor) -> bool:
        """All of an update; or, if a sum is too small or large for that, its scores alone, with the result False."""
        return kernels().smooth_drawn(
            self._tree.memory.numpy(),
            self._tree.parents.numpy(),
            self._place.numpy(),
            indices.contiguous().numpy(),
            bins.contiguous().numpy(),
            scores.contiguous().numpy(),
            self._gain.numpy(),
            self.delta_q,
            _SMALLEST_SUM,
            _LARGEST_SUM,
        )

    def _weighing(self) -> Tensor:
        return self._nothing  # a leaf's weight is its first channel

    def _sums(self) -> tuple[Tensor, Tensor, bool]:
        """W and Σ l of each bin, and whether some Σ l is 0.

        Scales all weights first if some W threatens to leave float64: O(N) then, rare.
        """
        totals = self._tree.totals()
        weight_sum, score_sum = totals.unbind(1)
        smallest, largest = (float(end) for end in totals.aminmax())  # of both, which hardly ever needs a closer look
        if smallest >= _SMALLEST_SUM and largest <= _LARGEST_SUM:
            return weight_sum, score_sum, False
        if float(weight_sum.min()) < _SMALLEST_SUM or float(weight_sum.max()) > _LARGEST_SUM:
            self._tree.collapse(torch.stack([1 / weight_sum, torch.zeros_like(weight_sum)], dim=1), channel=_WEIGHT)
            weight_sum = self._tree.totals()[:, _WEIGHT]
        return weight_sum, score_sum, float(score_sum.min()) < _SMALLEST_SCORE

    def _forget(self) -> None:
        """No instance is seen yet."""
        self._unseen = torch.ones(len(self.bins), dtype=torch.bool)
        self._unseen_left = len(self.bins)
        self._seen = torch.zeros_like(self._sizes)  # members of each bin

    def _see(self, indices: Tensor) -> None:
        """Note that instances have a score from now on."""
        fresh = indices[self._unseen.index_select(0, indices)].unique()
        self._unseen.index_fill_(0, fresh, False)
        self._unseen_left -= len(fresh)
        self._seen += torch.bincount(self.bins.of(fresh), minlength=len(self._sizes))
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        self._gain = (1 - self.delta_q) * self._seen / self._sizes
