"""Closeness sampling: more of what is neither known nor hopeless, and of rare classes; in the end all alike.

With v = exp(−l), under cross-entropy the probability of the given label, the doubt d of an instance is 1 − v, smoothed
over its visits: d ← α d + (1 − α)(1 − v). After every eighth of a pass all instances are ranked by their closeness,

    d (1 − d)^γ,

largest first, and until the next time the one at rank i = 0 … N − 1 weighs w = s^(−i/N), where s is the selection
pressure. An instance of the bin j, of n_j instances, then has the probability

    r = (1 − ε) P_j w / W_j + ε/N,        P_j ∝ max(n_j, φ max n),        W_j = Σ w over the bin,        ε the floor.

So bins are drawn in proportion to their sizes, but one of fewer than φ times the instances of the largest as if it had
so many; and inside a bin by ranks. P is fixed, or ranks would shift the classes while the network knows little.

With γ = 0 the ranks are those of the loss, and wrong labels, whose loss stays the largest, are drawn the most. The
larger γ, the sooner something counts as hopeless: closeness is largest at v = γ/(1 + γ). ``gamma="follow"`` takes it
from the data. What is hard and what is wrong both have a small v, but what is wrong keeps it. So there are two shares:
h, of the data whose v is below 1/10, and k, of those that were so at their visit before and are so again. Each sum of
[v < 1/10] / (N r) over draws is without bias; h and k are of some half a pass. Then

    γ = ½ · (h − 0.02)/0.06 · (k − 0.5)/0.2,        each factor between 0 and 1,

the largest since the first pass, for a network that has learned wrong labels by heart no longer shows them; k is 1
until there is one. On clean data (γ = 0) what is hard is worth its draws; on dirty data (γ = ½) it is drawn with care.
Doubts are kept as one of 16,383 levels (:mod:`lightning_as.core.levels`), to 0.15 %. Equal instances share the mean
weight of their ranks, and those whose loss is not known, or never finite, get that of all ranks.

In the first pass and in the last part of the training all w are 1: what is seen last is then the data as they are, and
the minimum found that of the mean loss, rare bins aside. A training without an end in sight, such as one with nothing
but `max_time`, has no last part, and one that stops early may not come to it. The draws are shuffled strata
(:mod:`lightning_as.core.points`): where all w are 1 and no bin is lifted, a pass is random reshuffling.

Source: Ranks with exponential pressure are those of Loshchilov and Hutter, "Online Batch Selection for Faster Training
of Neural Networks" (2015). Closeness is the gradient norm of the generalised cross-entropy of Zhang and Sabuncu
(NeurIPS 2018, there q = γ); with γ = 1 it is the "threshold closeness" v (1 − v) of Chang, Learned-Miller and McCallum,
"Active Bias" (NeurIPS 2017). Bins and smoothing are those of Avalos's thesis (2021), all of the data in the end is
InfoBatch's (Qin et al., ICLR 2024). New here are their composition, strata for the draws, and the γ that follows.

Cost per step: No extra forward pass; O(batch · log N) for the draw, O(batch) for the update. New ranks, eight times a
pass, are O(N), at once up to 500,000 instances, and above in parts of O(batch) over many steps, after which they are
taken over: less than a sixteenth of a pass later. 10 bytes of memory per instance, 12 if it goes by gradients, and up
to a quarter of a million instances 4 more.

Verified: The distribution and γ against a transcription of the above; gains and losses by `benchmarks/budget.py`.

When to use it: Labelled data, losses of the order of 1; what counts is the accuracy after some time.

When not: The rare is to stay rare (`smallest_bin=0`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_positive, check_ranks, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.chunk_order import ChunkOrder
from lightning_as.core.chunk_points import ChunkPoints
from lightning_as.core.doubts import Doubts
from lightning_as.core.draw import Draw, to_device
from lightning_as.core.execution import loops
from lightning_as.core.level_distribution import LevelDistribution
from lightning_as.core.levels import LEVELS, doubts_of_levels, levels_at, moved, numbers_of_levels, weights_of_levels
from lightning_as.core.persistence import Persistence
from lightning_as.core.points import Kind, Points
from lightning_as.core.state import require
from lightning_as.core.tree_in_bins import last_occurrence
from lightning_as.strategies._score_schedule import Score, ScoreSchedule, Scoring, check_scoring
from lightning_as.strategies.base import Strategy

SCORES: tuple[Score, ...] = get_args(Score)
_RANKINGS = 8  # in a pass


class ClosenessSampling(Strategy):
    """More of what is neither known nor hopeless, and of rare bins; in the end all alike.

    Args:
        pressure: s, how much more likely the first rank is than the last, at least 1. Default: 10.
        gamma: γ, at least 0: the larger, the sooner something counts as hopeless; ``"follow"``: it follows what the
            data say, up to ½. Default: ``"follow"``.
        floor: ε in [0, 1): the share of the draws that is uniform over all instances. Default: 0.1.
        smoothing: α in [0, 1), the share of its old doubt that a visit leaves an instance. Default: 0.7.
        smallest_bin: φ in [0, 1]: a bin counts as if it had at least this share of the instances of the largest.
            Default: 0.2.
        warm_up: Passes of N drawn instances before the first ranks, at least 0. Default: 1.
        relaxation: Share of the training, in [0, 1], that ends it without ranks. Default: 0.3.
        score: ``"closeness"``; ``"loss"``, the doubt alone; ``"gradient"``, the root of the bound, smoothed too; or
            several, as of :class:`AdaptiveSampling`. Default: ``"closeness"``.
        points: ``"strata"`` or ``"independent"``, see :mod:`lightning_as.core.points`. Default: ``"strata"``.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range; at the first draw, if `score` goes by shares of a training that
            has no end.
    """

    reads = frozenset({"losses", "bounds"})  # of an object, only what its scores ask for
    any_device = True
    by_chunks = True
    by_shards = True
    samples_by_loss = True

    def __init__(
        self,
        pressure: float = 10.0,
        gamma: float | Literal["follow"] = "follow",
        floor: float = 0.1,
        smoothing: float = 0.7,
        smallest_bin: float = 0.2,
        warm_up: float = 1.0,
        relaxation: float = 0.3,
        score: Scoring = "closeness",
        points: Kind = "strata",
    ) -> None:
        check_ranks(pressure, gamma)
        for name, share in (("floor", floor), ("smoothing", smoothing)):
            check_share(name, share)
        check_share("smallest_bin", smallest_bin, with_one=True)
        check_positive("warm_up", warm_up, with_zero=True)
        check_share("relaxation", relaxation, with_one=True)
        check_choice("points", points, get_args(Kind))
        by_gradient = "gradient" in check_scoring(score)
        self.reads = frozenset({"losses", "bounds"} if by_gradient else {"losses"})
        self.pressure = pressure
        self.gamma: float | Literal["follow"] = gamma
        self.floor = floor
        self.smoothing = smoothing
        self.smallest_bin = smallest_bin
        self.warm_up = warm_up
        self.relaxation = relaxation
        self.score: Scoring = score
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        loops(bins.device)  # which takes a while the first time, and not amid a step
        size, device = len(bins), bins.device
        self._points = Points(size, self.points) if bins.chunks is None else ChunkPoints(bins.chunks, self.points)
        self._schedule = ScoreSchedule(self.score, 0.0, bins, rescores=False)  # γ is for those alone
        self._doubts = Doubts(size, self.smoothing, device)
        self._norms = torch.zeros(size if "bounds" in self.reads else 0, dtype=torch.int16, device=device)
        self._doubts_of_levels, self._norms_of_levels = doubts_of_levels(device), numbers_of_levels(device)
        least = self.smallest_bin * max(bins.sizes if bins.shard is None else bins.shard.sizes)
        own, whole = (
            torch.tensor(sizes, dtype=torch.float64, device=device) for sizes in (bins.sizes, bins.whole_sizes)
        )
        p = own * (whole.clamp(min=least) / whole)
        self._distribution = LevelDistribution(bins, p / p.sum(), self.floor)
        self._persistence = Persistence(size, device)
        self._begin()

    def _begin(self) -> None:
        """The first pass of a training; what is known of the instances stays."""
        self._drawn = self._since = 0  # instances, in all and since the last ranking
        self._persistence.begin()
        self._distribution.flatten()
        nothing = torch.zeros((), dtype=torch.float64, device=self.bins.device)
        self._ranks = self._next_ranks = _Ranks(0, nothing)

    def schedule(self) -> tuple[str, str] | None:
        return self._schedule.needs_end()

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        self._schedule.begin_epoch(self.progress)
        if self.progress.epoch == 0 and self._drawn:  # of another training: its first pass is uniform, too
            self._begin()

    @torch.inference_mode()
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        due, warm = self._since * _RANKINGS >= len(self.bins), self._drawn >= self.warm_up * len(self.bins)
        ranked = warm and not self._is_last_part()
        if due:
            self._since = 0
            self._persistence.estimate(first=not warm)
        if ranked == self._distribution.flat or (due and ranked):
            self._next_ranks = _Ranks(SCORES.index(self._schedule.present), self.present_gamma)
            self._distribution.begin(flat=not ranked)
        if self._distribution.busy:
            by_norm, weigh = SCORES[self._next_ranks.score] == "gradient", partial(self._weights, self._next_ranks)
            self._distribution.advance(size, self._norms if by_norm else self._doubts.levels, weigh)
            if not self._distribution.busy:
                self._ranks = self._next_ranks
        self._drawn += size
        self._since += size
        return self._distribution.draw(to_device(self._next_points(size, generator), self.bins.device))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self._doubts.learn(draw.indices, losses, draw.probabilities, self._persistence)
        if len(self._norms):
            self._smooth_norms(draw.indices, bounds.sqrt(), losses.isfinite())
        self._schedule.learn(draw, losses, bounds, self.progress)

    @property
    def present_gamma(self) -> Tensor:
        """γ in force, () float64."""
        caution = self._persistence.caution
        return caution / 2 if self.gamma == "follow" else torch.full_like(caution, self.gamma)

    def probabilities(self) -> Tensor:
        return self._distribution.probabilities()

    @property
    def bin_probabilities(self) -> Tensor:
        """P with the floor in it, (k,) float64."""
        return self._distribution.bin_probabilities

    @property
    def chunk_order(self) -> ChunkOrder | None:
        return self._points.order if isinstance(self._points, ChunkPoints) else None

    def metrics(self) -> dict[str, float]:
        """γ, the shares h that seems hopeless and k that stays so; over how many instances draws effectively go."""
        return {
            "gamma": float(self.present_gamma),
            "hopeless": float(self._persistence.share),
            "staying": float(self._persistence.staying),
            "effective_size": float(self._distribution.effective_size),
        } | self._schedule.metrics()

    def state_dict(self) -> dict[str, Any]:
        ranks = self._ranks, self._next_ranks
        return {
            "doubts": self._doubts.levels.cpu().clone(),
            "norms": self._norms.cpu().clone(),
            "distribution": self._distribution.state_dict(),
            "gammas": torch.stack([each.gamma for each in ranks]).cpu(),
            "scores": [each.score for each in ranks],
            "persistence": self._persistence.state_dict(),
            "size": len(self.bins),
            "drawn": self._drawn,
            "since": self._since,
            "points": self._points.state_dict(),
        } | self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device, gammas, scores = self.bins.device, state["gammas"], state["scores"]
        require((state["norms"] < LEVELS).all(), "`norms` has entries that are no levels")
        require(len(gammas) == 2 and (gammas >= 0).all(), "`gammas` are not two numbers of at least 0")
        require(all(0 <= score < len(SCORES) for score in scores), "`scores` are none")
        self._persistence.load_state_dict(state["persistence"])
        self._schedule.load_state_dict(state)
        self._doubts.levels = state["doubts"].to(device, copy=True)
        self._norms = state["norms"].to(device, copy=True)
        self._ranks, self._next_ranks = map(_Ranks, scores, gammas.to(device).unbind())
        weigh = (partial(self._weights, each) for each in (self._ranks, self._next_ranks))
        self._distribution.load_state_dict(state["distribution"], *weigh)
        self._drawn, self._since = state["drawn"], state["since"]
        self._points.load_state_dict(state["points"])

    def recut(self, state: dict[str, Any]) -> dict[str, Any]:
        points = Points(len(self.bins), self.points).state_dict()  # of a new pass
        size, drawn = len(self.bins), round(state["drawn"] * len(self.bins) / state["size"])  # as many passes
        new = {"drawn": drawn, "since": size, "size": size}  # ranks come with the next draw
        return state | {"distribution": self._distribution.state_dict(), "points": points} | new

    def _smooth_norms(self, indices: Tensor, norms: Tensor, known: Tensor) -> None:
        """Move norms towards the known ones; those that were not known become them."""
        old = self._norms.index_select(0, indices)
        before = self._norms_of_levels.index_select(0, old.long())
        smoothed = torch.where(old == 0, norms, torch.lerp(norms, before, self.smoothing))
        to, found = levels_at(torch.stack([smoothed, norms]).log())
        new = torch.where(known, moved(old, to, found), old)
        self._norms.index_copy_(0, indices, new.index_select(0, last_occurrence(indices, known)))

    def _next_points(self, size: int, generator: torch.Generator) -> Tensor:
        if isinstance(self._points, ChunkPoints):
            ends = self._distribution.ends_at(self._points.lasts.to(self.bins.device))
            return self._points.take(size, generator, ends, self.processes)
        return self._points.take(size, generator)

    def _is_last_part(self) -> bool:
        return self.progress.total is not None and 1 - self.progress.share <= self.relaxation > 0

    def _weights(self, ranks: _Ranks, counts: Tensor) -> Tensor:
        """The w of each level, (levels,) float64."""
        doubts, rest = self._doubts_of_levels
        others = {"loss": doubts, "gradient": self._norms_of_levels}
        scores = others.get(SCORES[ranks.score], doubts * rest.pow(ranks.gamma))
        return weights_of_levels(counts, scores, self.pressure)


class _Ranks(NamedTuple):
    """What instances are ranked by: which of the scores, and γ of closeness, () float64."""

    score: int
    gamma: Tensor
