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

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import require
from lightning_as.core.sum_tree import SumTree

_WEIGHT, _SCORE = 0, 1  # channels of a leaf
# Scores below count as 0, and sums of weights outside are scaled back to about 1, both long before float64 ends.
_SMALLEST_SCORE = 1e-100
_SMALLEST_SUM, _LARGEST_SUM = 1e-40, 1e40
# Batches between two looks at the sums where a look has to wait for a GPU. A batch at most doubles a sum, and it leaves
# the share δq of it, which on a GPU should therefore not be tiny.
_LOOK_EVERY = 64


class InstanceDistribution:
    """Q^j over the members of each bin j, uniform at first.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of its old q that a visit leaves an instance. Default: 0.1.
    """

    _leaf: tuple[float, ...] = (1.0, 0.0)
    """The channels of a leaf at first. A subclass may have others."""

    def __init__(self, bins: Bins, delta_q: float = 0.1) -> None:
        self.bins = bins
        self.delta_q = delta_q
        self._sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device)
        self._tree = SumTree(bins.sizes, channels=len(self._leaf), device=bins.device)
        self._tree.fill(list(self._leaf))
        self._place, self._instance = self._lay_out()
        self._batches = 0
        self._unseen = torch.ones(len(bins), dtype=torch.bool, device=bins.device)
        self._seen = torch.zeros_like(self._sizes)  # of each bin

    @property
    def share_seen(self) -> float:
        """Share of all instances that have a score."""
        return float(self._seen.sum()) / len(self.bins)

    def draw(self, bins: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one instance from each of the given bins, with replacement.

        Args:
            bins: Bins, (B,) int64.
            uniforms: In [0, 1), (B,) float64.

        Returns:
            Instances, (B,) int64, and the probability q of each, (B,) float64.
        """
        leaves, q = self._tree.draw(uniforms, bins)
        return self._instance.index_select(0, leaves).long(), q

    def draw_from(self, over_bins: BinDistribution, floor: float, uniforms: Tensor) -> Draw | None:
        """A draw from P, Q and a floor at once by a compiled loop, see :class:`TwoLevels`; None where there is none."""
        if self._tree.loops is None:
            return None
        drawn = torch.empty(2, len(uniforms), dtype=torch.int64, device="cpu")
        probabilities = torch.empty(2, len(uniforms), dtype=torch.float64, device="cpu")
        self._tree.loops.draw_two_levels(
            *self._tree.arrays(),
            self._place.numpy(),
            self._instance.numpy(),
            self.bins.tags.numpy(),
            self._sizes.numpy(),
            over_bins.probabilities.numpy(),
            over_bins.cumulative.numpy(),
            floor,
            uniforms.numpy(),
            drawn.numpy(),
            probabilities.numpy(),
        )
        return Draw(drawn[0], drawn[1], probabilities[0], probabilities[1])

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        """Q of the given instances, which lie in the given bins: (B,) float64."""
        weights = self._tree.get(self._place.index_select(0, indices), channel=_WEIGHT)
        return weights / self._tree.totals()[:, _WEIGHT].index_select(0, bins)

    def probabilities(self) -> Tensor:
        """Q of every instance, in the data set's order, (N,) float64; they sum to 1 in each bin. O(N)."""
        return self.probability(torch.arange(len(self.bins), device=self.bins.device), self.bins.tags.long())

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
        arrays = (
            self._tree.memory,
            self._tree.parents,
            self._place,
            self._unseen,
            self._seen,
            self._sizes,
            indices.contiguous(),
            bins.contiguous(),
            scores.contiguous(),
        )
        limits = (self.delta_q, _SMALLEST_SCORE, _SMALLEST_SUM, _LARGEST_SUM)
        for _ in range(2):  # the second time with weights that are scaled
            if self._tree.loops.smooth_drawn(*(array.numpy() for array in arrays), *limits):
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
        held = self._tree.get(places, channel=_WEIGHT)
        moved = torch.addcmul(held * self.delta_q, per_score.index_select(0, bins), scores)
        # Bins whose scores are all 0 have no target: they keep their Q.
        moves = (score_sum >= _SMALLEST_SCORE).index_select(0, bins) & known
        self._tree.set(places, torch.where(moves, moved, held), channel=_WEIGHT)

    def _see(self, indices: Tensor, bins: Tensor, known: Tensor, last: Tensor) -> None:
        """Note that the known ones have a score from now on; of equal instances the last known one counts."""
        unseen = self._unseen.index_select(0, indices)
        is_last = last == torch.arange(len(indices), device=indices.device)
        self._seen.index_add_(0, bins, (unseen & known & is_last).to(torch.float64))
        self._unseen.index_copy_(0, indices, unseen & ~known.index_select(0, last))

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU: the leaves (N, 2), and which instances are unseen, (N,)."""
        return {"leaves": self._tree.leaves().cpu(), "unseen": self._unseen.clone().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same bins."""
        require(float(state["leaves"].min()) >= 0, "`leaves` has negative weights or scores")
        self._tree.load(state["leaves"])
        require((self._tree.totals()[:, _WEIGHT] > 0).all(), "`leaves` has a bin without weight")
        self._unseen = state["unseen"].to(self.bins.device, copy=True)
        unseen = self.bins.tags[self._unseen]
        self._seen = self._sizes - torch.bincount(unseen, minlength=len(self._sizes))

    def _lay_out(self) -> tuple[Tensor, Tensor]:
        """The place of the leaf of each instance, and the instance of each leaf: (N,) both."""
        bins, tree, kind = self.bins, self._tree, torch.int32 if len(self.bins) < 2**31 else torch.int64
        if tree.loops is None:
            order = bins.order()
            place = torch.empty_like(order)
            place[order] = tree.places()
            return place, order.to(kind)
        place = torch.empty(len(bins), dtype=torch.int64, device="cpu")
        instance = torch.empty(len(bins), dtype=kind, device="cpu")
        firsts = (part.numpy() for part in tree.firsts())
        tags = bins.tags.numpy()
        tree.loops.place_instances(tags, *firsts, tree.channels, tree.fanout, place.numpy(), instance.numpy())
        return place, instance

    def _keep_in_range(self) -> None:
        """Scale all weights if some W threatens to leave float64. O(N) then, rare."""
        weight_sum = self._tree.totals()[:, _WEIGHT]
        smallest, largest = (float(end) for end in weight_sum.aminmax())
        if smallest < _SMALLEST_SUM or largest > _LARGEST_SUM:
            mantissa, _ = weight_sum.frexp()
            factors = mantissa / weight_sum  # powers of two, which change no digit, so that it matters to none when
            self._tree.collapse(torch.stack([factors, torch.zeros_like(factors)], dim=1), channel=_WEIGHT)


def last_occurrence(indices: Tensor, known: Tensor | None = None) -> Tensor:
    """For each entry the position of the last entry equal to it: (B,) int64.

    Args:
        indices: (B,) int64, not negative.
        known: Entries that go before the others, (B,) bool: of equal ones the last of these, if there is one. Default:
            all of them.
    """
    keys = indices if known is None else 2 * indices + known
    ordered, order = keys.sort(stable=True)
    ends = torch.searchsorted(ordered, indices if known is None else 2 * indices + 1, right=True)
    return order.index_select(0, ends - 1)
