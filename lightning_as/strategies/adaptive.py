"""Adaptive sampling: Algorithm 1 of the thesis.

A batch is drawn from two levels: a bin j with probability P_j, then an instance i of it with probability
Q_i^j, both with replacement and from one fixed distribution for the whole batch. P follows the accumulated bounds of
the gradient norms, Q follows the last known losses. The method is unweighted: it minimises the training loss
re-weighted towards what is hard, not the plain mean.

The defaults are the thesis's settings and two additions: a floor, r = (1 − ε) p q + ε/N with ε = 0.1, without which P
may collapse for good (`docs/evidence.md`, question 3, which also has the rule by which it was chosen); and draws that
are spread evenly over the distribution (:mod:`lightning_as.core.points`), where the thesis's are independent.
`floor=0.0, points="independent"`, the preset ``thesis``, is the thesis's own. Two variants of it are in the thesis's
studies:

* ``annex``: P from Σ Ĝ/q, as the English paper has it.
* ``robust``: the floor, and P from the mean of Ĝ/q², which is unbiased for the Σ ‖∇L‖²/q that P is the root of,
  averaged over windows before the root is taken.

Its chapter 5 leaves to future work that Q follow the loss at first and the gradient norm later: `score` as a dict or a
list. At a change the last losses and bounds of all are scored anew, for the Z of line 21; the q of an instance, and
with it the distribution, stays what it is until the instance is drawn. The third score, closeness, is the gradient of
the generalised cross-entropy (Zhang and Sabuncu, 2018) and, with γ = 1, that of Active Bias (Chang et al., 2017).

With a floor an unbiased weight is at most 1/ε, and a bin or an instance that was given up once is drawn again and
recovers.

Source: Avalos, master's thesis (2021), chapter 4, Algorithm 1, eqs. (67), (79), (80); English paper as its
annex D. Where the text is ambiguous: t counts batches, P is first recomputed after β whole batches, gc[j]
takes the sum of Ĝ, "∝" normalises before smoothing, and Q moves where it was drawn. The last is, beside the floor,
the one departure from the letter, in which all of Q may move: that reading learns far less
(`benchmarks/convergence.py`), and is a subclass in the thesis's studies.

Cost per step: No extra forward pass; O(batch · log N) for the draw and the update, a quarter of a millisecond on a CPU
(`benchmarks/sum_tree.py`); 14 bytes of memory per instance, 30 if the score
changes, and up to a quarter of a million instances 4 more.

Verified: P and all of Q against a line-by-line transcription of Algorithm 1; training on MNIST, where the loss falls
orders below uniform sampling without weights, and as uniform sampling with them. The thesis's own code is not public,
so that which of the readings its figures come from could not be verified. Annex D divides the whole sum by q at each
draw, which overflows within a window; ``sum_over_q`` divides each Ĝ. ``robust`` is this package's: its options are
judgement, not tuned.

When to use it: Most instances are soon easy, labels are clean, and a low training loss matters. Its gradients are 1.2
to 1.7 times as large as uniform sampling's: its best learning rate was the same or half by Adam, half or a quarter by
momentum.

When not: Noisy labels are drawn again and again; a module whose loss must stay the uniform mean.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_positive, check_share, without
from lightning_as.core.bin_distribution import (
    BinStatistic,
    GradientBinDistribution,
    Smoothing,
    check_smoothing,
    figures_of,
)
from lightning_as.core.bins import Bins
from lightning_as.core.chunk_order import ChunkOrder
from lightning_as.core.chunk_points import ChunkPoints
from lightning_as.core.draw import Draw
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.core.points import Kind, Points
from lightning_as.core.shard_bin_distribution import ShardBinDistribution
from lightning_as.core.two_levels import TwoLevels
from lightning_as.strategies._score_schedule import ScoreSchedule, Scoring, check_scoring
from lightning_as.strategies.base import Strategy

_GONE = (
    "Q moves where it was drawn, and there is no other choice: leave it out. The reading of the thesis that moves all "
    "of Q is `EverywhereSampling` in its studies, `thesis/everywhere.py` of the repository"
)


class AdaptiveSampling(Strategy):
    """Two-level sampling: P over bins by gradients, Q inside each by losses; the thesis.

    Args:
        beta: β, batches between two recomputations of P, at least 1 (line 12). Default: 10.
        delta_p: δp in [0, 1), how much P is smoothed (line 14). Default: 0.9.
        delta_q: δq in [0, 1), the share of the old q that a batch leaves its instances (line 22). Default: 0.1.
        bin_statistic: What P is the root of (line 13, eq. 67), from the bounds Ĝ of the instances drawn.
            ``"sum"``: Σ Ĝ, the thesis. ``"sum_over_q"``: Σ Ĝ/q, annex D. ``"mean"``: |c_j|² · mean Ĝ, Gopal.
            ``"second_moment"``: mean Ĝ/q², the unbiased estimate of Σ Ĝ/q. With a `floor` q is the probability inside
            the bin that was drawn from, with the floor in it. Default: ``"sum"``.
        score: What Q follows. ``"loss"``: the last known loss (eq. 79). ``"gradient"``: the root of the last
            known bound, that is the gradient norm (eqs. 78 and 80). ``"closeness"``: (1 − v) v^γ with v = exp(−loss),
            which is small for what is hopeless as well. A dict has the shares of the training from which each is in
            force, such as ``{0: "loss", 0.5: "gradient"}``. A list has them one after another: the next one begins
            with the epoch after one whose mean training loss, as estimated from the batches, is not a tenth below
            that of the epoch before, both under the same score. What a change does is said above. Default: ``"loss"``.
        smoothing: What δp mixes the new P with. ``"previous"``: the P before (line 14). ``"original"``: the
            bins' shares of the data, as Gopal. ``"statistic"``: not P but the `bin_statistic`, with its value before;
            a bin keeps it while it is not drawn. Only for ``"mean"`` and ``"second_moment"``. Default: ``"previous"``.
        floor: ε in [0, 1): the batch is drawn from (1 − ε) · p · q + ε/N, so that no instance falls below ε/N
            whatever P and Q do; the thesis has none, 0. Default: 0.1.
        gamma: γ of closeness, at least 0: the larger, the sooner something counts as hopeless. Default: 0.5.
        points: ``"strata"``: the draws of a pass are spread evenly, see :mod:`lightning_as.core.points`.
            ``"independent"``: each is by itself, as the thesis's. Default: ``"strata"``.

    Raises:
        TypeError: If `beta` is not an integer, or a share is not a number.
        ValueError: If an option is out of its range, or `smoothing` does not go with `bin_statistic`; at the first
            draw, if `score` goes by shares of a training that has no end.
    """

    reads = frozenset({"losses", "bounds"})  # of an object, only what its options and bins ask for
    any_device = True
    by_chunks = True
    by_shards = True

    @without("q_update", _GONE)
    @without("unseen", _GONE)
    def __init__(
        self,
        beta: int = 10,
        delta_p: float = 0.9,
        delta_q: float = 0.1,
        bin_statistic: BinStatistic = "sum",
        score: Scoring = "loss",
        smoothing: Smoothing = "previous",
        floor: float = 0.1,
        gamma: float = 0.5,
        points: Kind = "strata",
    ) -> None:
        check_integer("beta", beta, unit="batches")
        for name, share in (("delta_p", delta_p), ("delta_q", delta_q), ("floor", floor)):
            check_share(name, share)
        check_choice("bin_statistic", bin_statistic, get_args(BinStatistic))
        scores = check_scoring(score)
        check_choice("smoothing", smoothing, get_args(Smoothing))
        check_smoothing(bin_statistic, smoothing)
        check_positive("gamma", gamma, with_zero=True)
        if len(scores) > 1 and delta_q == 0:  # a score of 0 would leave a q of 0, where another score may not be 0
            raise ValueError(f"`delta_q` must be above 0 where `score` changes, {score!r}: use the default, 0.1.")
        check_choice("points", points, get_args(Kind))
        self.beta = beta
        self.delta_p = delta_p
        self.delta_q = delta_q
        self.bin_statistic: BinStatistic = bin_statistic
        self.score: Scoring = score
        self.samples_by_loss = scores != ("gradient",)
        self.reads = type(self).reads - (set() if self.samples_by_loss else {"losses"})
        self.smoothing: Smoothing = smoothing
        self.floor = floor
        self.gamma = gamma
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        if "gradient" not in check_scoring(self.score):  # of a single bin P is 1, whatever the bounds are
            self.reads = type(self).reads - ({"bounds", "linear_bounds"} if len(bins.sizes) == 1 else set())
        self._schedule = ScoreSchedule(self.score, self.gamma, bins)
        self._points = self._make_points(bins)
        self._lay_out(bins)

    def _make_points(self, bins: Bins) -> Points | ChunkPoints:
        if bins.chunks is None:
            return Points(len(bins), self.points)
        if self.bin_statistic in ("sum", "sum_over_q") or self.floor == 0:
            raise ValueError(
                "The data lie in chunks, a few of which are open at a time: P would forget those that are not. Use "
                "`AdaptiveSampling(bin_statistic='mean')`, which does not go by how often a chunk is drawn, with a "
                "`floor`; or ClosenessSampling."
            )
        if list(bins.chunks.sizes) != bins.sizes or not torch.equal(bins.tags.cpu().long(), bins.chunks.tags()):
            raise ValueError(
                "The data lie in chunks, a few of which are open at a time; AdaptiveSampling then needs them as its "
                "bins: give `bins='chunk'`, or use ClosenessSampling, whose bins may be any."
            )
        return ChunkPoints(bins.chunks, self.points)

    def _lay_out(self, bins: Bins) -> None:
        """P, Q and both together over some bins, as they are at first."""
        sizes, beta = (bins.sizes, self.beta) if bins.shard is None else (bins.shard.sizes, None)
        over_all = GradientBinDistribution(
            sizes, beta, self.delta_p, self.bin_statistic, self.smoothing, device=bins.device
        )
        self._over_bins = over_all if bins.shard is None else ShardBinDistribution(bins, over_all, self.beta)
        self._inside = self.make_inside(bins)
        self._levels = TwoLevels(bins, self._over_bins, self._inside, self.floor)

    def make_inside(self, bins: Bins) -> InstanceDistribution:
        """Q, as it is at first. A subclass may read line 22 of Algorithm 1 in another way."""
        return InstanceDistribution(bins, self.delta_q)

    def schedule(self) -> tuple[str, str] | None:
        return self._schedule.needs_end()

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        self._rescore(self._schedule.begin_epoch(self.progress))

    @property
    def bin_probabilities(self) -> Tensor:
        """P, (k,) float64."""
        return self._over_bins.probabilities

    def instance_probabilities(self) -> Tensor:
        """Q: the probability of each instance within its bin, in the data set's order, (N,) float64. O(N)."""
        return self._inside.probabilities()

    def probabilities(self) -> Tensor:
        return self._levels.probabilities()

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        if isinstance(self._points, ChunkPoints):
            return self._levels.draw(self._points.take(size, generator, self._levels.ends, self.processes))
        return self._levels.draw(self._points.take(size, generator))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        assert draw.within is not None, "a draw from here has it"
        self._over_bins.update(draw.bins, bounds, draw.within)
        self._inside.update(draw.indices, draw.bins, self._schedule.scores(losses, bounds))
        self._rescore(self._schedule.learn(draw, losses, bounds, self.progress))

    def _rescore(self, scores: Tensor | None) -> None:
        if scores is not None:
            self._inside.rescore(scores)

    @property
    def chunk_order(self) -> ChunkOrder | None:
        return self._points.order if isinstance(self._points, ChunkPoints) else None

    def metrics(self) -> dict[str, float]:
        """Of P: entropy (nats), smallest and largest entry, age (batches); share of instances seen.

        If the score changes, the number of the one in force, from 0.
        """
        others = {"seen": self._inside.share_seen, "age_p": float(self._over_bins.age)}
        return figures_of(self.bin_probabilities) | others | self._schedule.metrics()

    def state_dict(self) -> dict[str, Any]:
        return self._levels.state_dict() | self._schedule.state_dict() | {"drawn": self._points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._levels.load_state_dict(state)
        self._schedule.load_state_dict(state)
        self._points.load_state_dict(state["drawn"])

    def portable(self, state: dict[str, Any]) -> dict[str, Any]:
        return state | {"inside": self._inside.portable(state["inside"])}

    def recut(self, state: dict[str, Any]) -> dict[str, Any]:
        points = Points(len(self.bins), self.points).state_dict()  # of a new pass
        over = state["over_bins"]  # whose window begins anew, or the first process's would count for all
        over = over | {name: torch.zeros_like(over[name]) for name in ("accumulated", "count")} | {"age": 0}
        return state | {"inside": self._inside.recut(state["inside"]), "over_bins": over, "drawn": points}
