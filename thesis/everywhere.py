"""The other reading of line 22 of Algorithm 1: every instance of every bin moves after each batch, exactly.

Lines 21 and 22 of Algorithm 1, read for all i,

    q_i ← δq q_i + (1 − δq) l_i / Z,        Z = Σ l over the bin,

move all of Q, although the loss table l changes only where the batch was. Between two visits of instance i its
loss is constant, so with three numbers per bin, which change with every batch, and three per instance, which
change only on a visit,

    q_i = A l_i + U u_i + D r_i             (u_i = 1 while i is unseen, else 0)

holds at all times. A batch takes A, U, D to δq A + (1 − δq)/Z, δq U, δq D; while the bin has unseen members
the new mass goes to U instead. A visit replaces l_i and picks r_i such that q_i stays what it was. A sum tree
over the three channels (l, u, r) therefore draws from exactly the distribution of Algorithm 1, in O(batch · log N).

With δq = 0.1 this Q remembers two batches: it is in effect the table of last known losses itself, stale ones and
all, and an instance that was right once is hardly drawn again.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.linalg import vecdot

from lightning_as.core.arguments import check_choice
from lightning_as.core.bin_distribution import BinStatistic, Smoothing
from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.core.tree_in_bins import last_occurrence
from lightning_as.strategies import AdaptiveSampling
from lightning_as.strategies._score_schedule import Score

Unseen = Literal["first", "mean"]

# D may shrink to this before r takes it over, which leaves room for large scores before float64 ends. With δq = 0.1
# that is every 280 batches: what it costs, shared among them, is less than a draw up to some 10 million instances.
_SMALLEST_DECAY = 1e-280
# A score that would weigh this much under the old normaliser would cancel too many digits of r.
_LARGEST_JUMP = 1e4

# The coefficients with which a leaf weighs what its third channel says.
_AS_IT_IS = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


class EverywhereSampling(AdaptiveSampling):
    """Adaptive sampling that moves all of Q after each batch: it learns far less than where only the batch moves.

    Its draws are independent, as the thesis's.

    Args:
        beta: As in :class:`AdaptiveSampling`, and so are the others, but for `unseen`.
        delta_p: δp.
        delta_q: δq in [0, 1), the share of the old Q that each batch leaves of all instances.
        bin_statistic: What P is the root of.
        score: What Q follows.
        unseen: What instances without a score get. ``"first"``, the limit of the thesis's l = ∞: all of the
            target's mass, in equal shares; ``"mean"``: the mean score of their bin. Default: ``"first"``.
        smoothing: What δp mixes the new P with.
        floor: ε.

    Raises:
        TypeError: If `beta` is not an integer, or a share is not a number.
        ValueError: If an option is out of its range.
    """

    any_device = False

    def __init__(
        self,
        beta: int = 10,
        delta_p: float = 0.9,
        delta_q: float = 0.1,
        bin_statistic: BinStatistic = "sum",
        score: Score = "loss",
        unseen: Unseen = "first",
        smoothing: Smoothing = "previous",
        floor: float = 0.1,
    ) -> None:
        check_choice("score", score, get_args(Score))  # alone: what there is of Q here cannot be scored anew
        super().__init__(beta, delta_p, delta_q, bin_statistic, score, smoothing, floor, points="independent")
        check_choice("unseen", unseen, get_args(Unseen))
        self.unseen: Unseen = unseen

    def make_inside(self, bins: Bins) -> EverywhereDistribution:
        return EverywhereDistribution(bins, self.delta_q, self.unseen)


class EverywhereDistribution(InstanceDistribution):
    """Line 22 for every instance of every bin.

    Args:
        bins: The partition.
        delta_q: δq in [0, 1), the share of the old Q that a batch leaves. Default: 0.1.
        unseen: As in :class:`EverywhereSampling`. Default: ``"first"``.
    """

    def __init__(self, bins: Bins, delta_q: float = 0.1, unseen: Unseen = "first") -> None:
        super().__init__(bins, delta_q, leaf=(0.0, 1.0, 0.0), dtype=torch.float64)  # r cancels digits
        # A, U, D of each bin.
        ones = torch.ones_like(self._sizes)
        self._coefficients = torch.stack([torch.zeros_like(ones), 1 / self._sizes, ones], dim=1)
        self.unseen = unseen
        self._gain = torch.full_like(self._sizes, 1 - delta_q)
        self._share_unseen = 1.0
        self._ticks = 0  # since D was last 1: no D is smaller than delta_q ** ticks

    def draw(self, bins: Tensor, uniforms: Tensor, mass: Tensor, per_instance: float) -> tuple[Tensor, Tensor]:
        coefficients = self._coefficients
        if per_instance > 0:
            coefficients = coefficients * (mass / vecdot(self._tree.totals(), coefficients)).unsqueeze(1)
        leaves, within = self._tree.draw(uniforms, bins, coefficients, per_instance)
        return self._instance.index_select(0, leaves).long(), within

    def draw_from(self, mass: Tensor, ends: Tensor, per_instance: float, points: Tensor) -> None:
        """None: the loop is for leaves whose weight is their first channel."""

    def probability(self, indices: Tensor, bins: Tensor) -> Tensor:
        weights = self._tree.get(self.leaves_of(indices, bins), bins)
        weights = vecdot(weights, self._coefficients.index_select(0, bins)).clamp_(min=0)
        totals = vecdot(self._tree.totals(), self._coefficients)
        return weights / totals.index_select(0, bins)

    def update(self, indices: Tensor, bins: Tensor, scores: Tensor) -> None:
        leaves = self.leaves_of(indices, bins)
        scores = scores.index_select(0, last_occurrence(indices))
        held = self._coefficients.index_select(0, bins)
        weighed = held[:, 0] * scores
        if len(scores) and float(weighed.aminmax()[1]) > _LARGEST_JUMP:
            self._consolidate()
            held = self._coefficients.index_select(0, bins)
            weighed = held[:, 0] * scores
        q = vecdot(self._tree.get(leaves, bins), held)
        residual = (q - weighed) / held[:, 2]
        if self.delta_q == 0:  # D is 0 from the first step on, and what it multiplies is forgotten
            residual = torch.where(held[:, 2] > 0, residual, 0)
        self._tree.set(leaves, torch.stack([scores, torch.zeros_like(scores), residual], dim=1), bins)
        if self.delta_q == 0:
            self._hold(leaves, bins, scores, q - weighed)
        self._tick()

    @property
    def share_seen(self) -> float:
        """Share of all instances that have a score."""
        return 1 - self._share_unseen

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints: the leaves (N, 3), the coefficients (k, 3), and a counter."""
        return {
            "leaves": self._tree.leaves(),
            "coefficients": self._coefficients.clone(),
            "ticks": self._ticks,
        }

    def probabilities(self) -> Tensor:
        return self.probability(torch.arange(len(self.bins)), self.bins.tags.long())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tree.load(state["leaves"])
        self._share_unseen = float(state["leaves"][:, 1].sum()) / len(self.bins)
        self._coefficients = state["coefficients"].clone()
        self._ticks = state["ticks"]

    def _tick(self) -> None:
        """One step of line 22, for every bin."""
        totals = self._tree.totals()
        score_sum = totals[:, 0]
        moved = self._coefficients * self.delta_q
        if self._share_unseen == 0:
            to_scores = self._gain / score_sum
        else:
            unseen = totals[:, 1]
            self._share_unseen = float(unseen.sum()) / len(self.bins)
            to_scores, to_unseen = self._gains(score_sum, unseen)
            moved[:, 1] += to_unseen
        moved[:, 0] += to_scores
        if float(to_scores.aminmax()[1]) == math.inf:
            # A bin whose scores are all 0 has no target: it keeps its Q.
            moved = torch.where(to_scores.isfinite().unsqueeze(1), moved, self._coefficients)
        self._coefficients = moved
        self._ticks += 1
        if self.delta_q > 0 and self._ticks * math.log(self.delta_q) < math.log(_SMALLEST_DECAY):
            self._consolidate()

    def _gains(self, score_sum: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """(1 − δq) times what line 21 gives a unit of score and an unseen instance, in each bin."""
        if self.unseen == "first":
            complete = unseen == 0
            return torch.where(complete, self._gain / score_sum, 0), torch.where(complete, 0, self._gain / unseen)
        # The unseen count as one mean score each, so that Z is the mean times the size of the bin.
        seen = self._sizes - unseen
        return torch.where(seen > 0, self._gain * seen / (score_sum * self._sizes), 0), self._gain / self._sizes

    def _consolidate(self) -> None:
        """Write q itself into the third channel, so that A and U start at 0 again and D at 1. O(N), rare."""
        self._tree.collapse(self._coefficients, channel=2)
        self._coefficients = _AS_IT_IS.repeat(len(self._sizes), 1)
        self._ticks = 0

    def _hold(self, leaves: Tensor, bins: Tensor, scores: Tensor, residual: Tensor) -> None:
        """Without smoothing, keep the last Q of bins whose scores have just all become 0. O(N), rare.

        D is 0 there, and r forgotten: now it must say again what is left of q where the batch was.
        """
        totals = self._tree.totals()
        to_scores, _ = self._gains(totals[:, 0], totals[:, 1])
        emptied = to_scores.isinf() & (self._coefficients[:, 2] == 0)
        if not emptied.any():
            return
        keep = _AS_IT_IS.repeat(len(emptied), 1)
        keep[emptied] = 0
        self._tree.collapse(keep, channel=2)
        here = emptied[bins]
        values = torch.stack([scores, torch.zeros_like(scores), residual], dim=1)
        self._tree.set(leaves[here], values[here], bins[here])
        self._coefficients[:, 2].masked_fill_(emptied, 1)
