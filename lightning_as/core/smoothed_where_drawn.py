"""Q smoothed where drawn: only the instances of the batch move, towards their share of the bin's loss.

Lines 21 and 22 of Algorithm 1, read for the instances i of the batch, and Q normalised again in each bin:

    q_i ← δq q_i + (1 − δq) l_i / Z,        Z = Σ l over the bin,        then q ← q / Σ q.

An instance without a loss counts in Z as the mean of its bin, and keeps its q until it is drawn. What sets this
reading apart from the other one (:mod:`~thesis.smoothed_everywhere`):

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

from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution, last_occurrence

_WEIGHT, _SCORE = 0, 1  # channels of a leaf
# Scores below count as 0, and sums of weights outside are scaled back to about 1, both long before float64 ends.
_SMALLEST_SCORE = 1e-100
_SMALLEST_SUM, _LARGEST_SUM = 1e-40, 1e40
# Batches between two looks at the sums where a look has to wait for a GPU. A batch at most doubles a sum.
_LOOK_EVERY = 64


class SmoothedWhereDrawn(InstanceDistribution):
    """Line 22 for the instances of the batch.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of its old q that a visit leaves an instance. Default: 0.1.
    """

    def __init__(self, bins: Bins, delta_q: float = 0.1) -> None:
        counts = torch.tensor([1.0, 0.0], dtype=torch.float64)  # of a leaf only its weight
        super().__init__(bins, delta_q, leaf=[1.0, 0.0], coefficients=counts.expand(len(bins.sizes), 2))
        self._nothing = self._sizes.new_empty(0, 2)
        self._batches = 0
        self._set_unseen(torch.ones(len(bins), dtype=torch.bool, device=bins.device))

    @property
    def share_seen(self) -> float:
        return float(self._seen.sum()) / len(self.bins)

    def update(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        if self.delta_q == 0:  # nothing else keeps a weight from vanishing
            scores = torch.where(scores <= _SMALLEST_SCORE, 0, scores)
        if not self.bins.on_host:
            self._update_off_host(indices, bins, scores)
            return
        if self._unseen_left:
            self._see(indices)
        if self._tree.loops is not None and self._update_compiled(indices, bins, scores):
            return
        scores = scores.index_select(0, last_occurrence(indices))
        places = self._place.index_select(0, indices)
        self._tree.set(places, scores, channel=_SCORE)
        totals = self._tree.totals()
        smallest, largest = (float(end) for end in totals.aminmax())  # of both, which hardly ever needs a closer look
        if smallest >= _SMALLEST_SUM and largest <= _LARGEST_SUM:
            self._move(places, bins, scores, totals, None)
            return
        self._keep_in_range()
        totals = self._tree.totals()
        self._move(places, bins, scores, totals, totals[:, _SCORE] >= _SMALLEST_SCORE)

    def _update_off_host(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        """The same without looking at a number, for which the CPU would have to wait. NaN leaves an instance alone."""
        known = scores.isfinite()
        last = last_occurrence(indices, known)  # where an instance is written twice, it must be the same
        if self._unseen_left:
            self._see_off_host(indices, bins, known, last)
        scores, known = scores.index_select(0, last), known.index_select(0, last)
        places = self._place.index_select(0, indices)
        scores = torch.where(known, scores, self._tree.get(places, channel=_SCORE))
        self._tree.set(places, scores, channel=_SCORE)
        self._batches += 1
        if self._batches % _LOOK_EVERY == 0:
            self._unseen_left = len(self.bins) - int(self._seen.sum())
            self._keep_in_range()
        totals = self._tree.totals()
        self._move(places, bins, scores, totals, totals[:, _SCORE] >= _SMALLEST_SCORE, known)

    def _move(
        self,
        places: Tensor,
        bins: Tensor,
        scores: Tensor,
        totals: Tensor,
        has_target: Tensor | None,
        known: Tensor | None = None,
    ) -> None:
        """Line 22 for the batch, but for bins whose scores are all 0, and what is not known: these keep their Q."""
        weight_sum, score_sum = totals.unbind(1)
        per_score = self._gain * weight_sum / score_sum
        held = self._tree.get(places, channel=_WEIGHT)
        moved = torch.addcmul(held * self.delta_q, per_score.index_select(0, bins), scores)
        if has_target is not None:
            moves = has_target.index_select(0, bins)
            moved = torch.where(moves if known is None else moves & known, moved, held)
        self._tree.set(places, moved, channel=_WEIGHT)

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU: the leaves (N, 2), and which instances are unseen, (N,)."""
        return {"leaves": self._tree.leaves().cpu(), "unseen": self._unseen.clone().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tree.load(state["leaves"])
        self._set_unseen(state["unseen"].to(self.bins.device, copy=True))

    def _update_compiled(self, indices: Tensor, bins: Tensor, scores: Tensor) -> bool:
        """All of an update; or, if a sum is too small or large for that, its scores alone, with the result False."""
        return self._tree.loops.smooth_drawn(
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

    def _keep_in_range(self) -> None:
        """Scale all weights if some W threatens to leave float64. O(N) then, rare."""
        weight_sum = self._tree.totals()[:, _WEIGHT]
        smallest, largest = (float(end) for end in weight_sum.aminmax())
        if smallest < _SMALLEST_SUM or largest > _LARGEST_SUM:
            mantissa, _ = weight_sum.frexp()
            factors = mantissa / weight_sum  # powers of two, which change no digit, so that it matters to none when
            self._tree.collapse(torch.stack([factors, torch.zeros_like(factors)], dim=1), channel=_WEIGHT)

    def _set_unseen(self, unseen: Tensor) -> None:
        """Take over which instances are unseen, (N,) bool."""
        self._unseen = unseen
        self._seen = self._sizes - torch.bincount(self.bins.tags[unseen], minlength=len(self._sizes))  # of each bin
        self._unseen_left = int(unseen.sum())  # off the CPU as of the last look
        self._set_gain()

    def _see(self, indices: Tensor) -> None:
        """Note that instances have a score from now on."""
        fresh = indices[self._unseen.index_select(0, indices)].unique()
        if len(fresh):
            self._unseen.index_fill_(0, fresh, False)
            self._seen += torch.bincount(self.bins.of(fresh), minlength=len(self._sizes))
            self._unseen_left -= len(fresh)
            self._set_gain()

    def _see_off_host(self, indices: Tensor, bins: Tensor, known: Tensor, last: Tensor) -> None:
        """The same of the known ones, without looking; of equal instances the last known one counts."""
        unseen = self._unseen.index_select(0, indices)
        is_last = last == torch.arange(len(indices), device=indices.device)
        self._seen.index_add_(0, bins, (unseen & known & is_last).to(torch.float64))
        self._unseen.index_copy_(0, indices, unseen & ~known.index_select(0, last))
        self._set_gain()

    def _set_gain(self) -> None:
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        self._gain = (1 - self.delta_q) * self._seen / self._sizes
