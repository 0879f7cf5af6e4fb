"""Adaptive sampling over bins that are no classes: they are made anew from the model as it learns.

After every `every` epochs the data set is partitioned again,

* by the entropy of the predicted classes, U(x) = −Σ_y P(y | x) log P(y | x), into `count` bins of equal size;
* by the last known losses, into `count` bins of equal size, an instance without a loss having their mean; or
* by what goes into the last linear layer, into at most `count` clusters by k-means.

Until then the bins are those of the data set. What is known of an instance, its score and its probability, moves with
it into its new bin. With m_i = P_j q_i of the old bins the new ones begin with

    P_j = Σ m_i over the new bin,        q_i = m_i / P_j,

so that making bins anew changes no probability: the two levels only go on to move otherwise, since P compares other
groups, and a score counts relative to the mean of others. The window of β batches begins again. Bins are exchanged as
an epoch begins, when no drawn batch waits to be trained on. The draws tell the data set's own bins, as labels need.

Source: Avalos, master's thesis (2021): bins by something other than the class are future work of chapter 5 and of annex
D, section 6; section 4.3 names as side information the entropy of its eq. (60), which is that of Joseph, Singh and
Balasubramanian, "Submodular Batch Selection for Training Deep Neural Networks" (2019, arXiv:1906.08771). How to re-bin,
how often, and losses and features to do it by, are this package's.

Cost per step: As `AdaptiveSampling`. To re-bin, by entropy and by features a forward pass over the data, which is
about a third of an epoch's training, by loss none; O(N log N) for the new trees; for features k-means as well, with all
of them in memory. 42 bytes of memory per instance, by loss 46; on the CPU.

Verified: That no probability changes with the bins; P and Q after it against a transcription of Algorithm 1 over the
bins of the time; resume at any batch. The thesis has no results to compare with; by `benchmarks/bins.py`, one
seed, such bins are no better than classes.

When to use it: Data without classes or sources, or with so many that a bin is hardly ever drawn.

When not: Classes are at hand, few, and of unequal difficulty, and their bins are free; by loss, labels that are wrong,
which then have a bin of their own.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_as.core.arguments import check_choice, check_integer
from lightning_as.core.bin_distribution import BinStatistic, Smoothing
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.points import Kind
from lightning_as.core.state import require
from lightning_as.core.tree_in_bins import last_occurrence
from lightning_as.strategies._k_means import k_means
from lightning_as.strategies._score_schedule import Scoring
from lightning_as.strategies.adaptive import AdaptiveSampling
from lightning_as.strategies.scores import Reading, Scores

By = Literal["entropy", "loss", "features"]
_MEASURES: dict[By, Reading] = {"entropy": "entropies", "loss": "losses", "features": "features"}
_NONE = torch.empty(0, dtype=torch.int32, device="cpu")


class RebinnedSampling(AdaptiveSampling):
    """Adaptive sampling whose bins are made anew by entropy, loss or features.

    Args:
        by: What the bins are made by, from 0, the smallest: ``"entropy"`` of the predicted classes; the last known
            ``"loss"``; clusters of ``"features"``. Default: ``"entropy"``, the thesis's eq. (60).
        count: Number of bins, from 2 to N; of clusters the largest. Default: 10.
        every: Epochs between two partitions. Default: 1.
        beta: As in :class:`AdaptiveSampling`, and so are all below.
        delta_p: δp.
        delta_q: δq.
        bin_statistic: What P is the root of.
        score: What Q follows.
        smoothing: What δp mixes the new P with.
        floor: ε.
        gamma: γ of closeness.
        points: How the draws are spread.

    Raises:
        TypeError: If `count`, `every` or `beta` is not an integer, or a share is not a number.
        ValueError: If an option is out of its range; at the start, if `count` is more than the instances.
    """

    reads = frozenset({"losses", "bounds", "entropies", "features"})  # of an object, only what its options ask for
    any_device = False
    by_chunks = by_shards = False

    def __init__(
        self,
        by: By = "entropy",
        count: int = 10,
        every: int = 1,
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
        check_choice("by", by, get_args(By))
        check_integer("count", count, least=2, unit="bins")
        check_integer("every", every, unit="epochs")
        super().__init__(beta, delta_p, delta_q, bin_statistic, score, smoothing, floor, gamma, points)
        self.by: By = by
        self.count = count
        self.every = every
        self.reads = self._needed()

    def start(self, bins: Bins) -> None:
        if self.count > len(bins):
            raise ValueError(f"`count` must be at most the {len(bins)} instances, got {self.count}: use fewer bins.")
        super().start(bins)
        self.reads = self._needed()  # also with a single bin, which will become more
        self._next = _NONE  # tags of the bins that the next epoch begins with, once they are known
        self._losses = torch.full(
            (len(bins) if self.by == "loss" else 0,),
            -1.0,
            dtype=torch.float64,
            device="cpu",  # -1: none is known
        )

    @property
    def present_bins(self) -> Bins:
        """The partition that P and Q are of at present; :attr:`bins` stays the data set's own."""
        return self._levels.bins

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        tags, self._next = self._next, _NONE
        if self.progress.epoch == 0 or self.progress.epoch % self.every:
            return
        if self.by == "loss":
            tags = self._quantiles(self._losses.masked_fill(self._losses < 0, torch.nan))
        if len(tags):
            self._move_to(Bins(tags))

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        draw = super().draw(size, generator)
        return draw._replace(bins=self.bins.of(draw.indices))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        super().learn(draw._replace(bins=self.present_bins.of(draw.indices)), losses, bounds)
        if self.by == "loss":
            self._losses.index_copy_(0, draw.indices, losses.index_select(0, last_occurrence(draw.indices)))

    @property
    def scoring(self) -> bool:
        return self.by != "loss"

    def wanted(self) -> Tensor | None:
        # The last batches of the epoch may still be under way.
        ends = self.progress.batch >= self.progress.per_epoch and self.progress.share < 1
        if not self.scoring or len(self._next) or not ends or (self.progress.epoch + 1) % self.every:
            return None
        return torch.arange(len(self.bins), device="cpu")

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        if self.by == "features":
            assert scores.features is not None, "`reads` asks for them"
            features = torch.empty_like(scores.features)
            features[indices] = scores.features
            self._next = self._clusters(features)
        else:
            assert scores.entropies is not None, "`reads` asks for them"
            entropies = torch.empty_like(scores.entropies)
            entropies[indices] = scores.entropies
            self._note_skipped(int(entropies.isnan().sum()))
            self._next = self._quantiles(entropies)

    def metrics(self) -> dict[str, float]:
        """As of :class:`AdaptiveSampling`; and the number of bins."""
        return super().metrics() | {"bins": float(len(self.present_bins.sizes))}

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        # As long as there can be bins, so that equal options give equal shapes.
        most = max(self.count, len(self.bins.sizes))
        state["over_bins"] = {
            name: pad(part, (0, most - len(part))) if isinstance(part, Tensor) else part
            for name, part in state["over_bins"].items()
        }
        own = {"by": self.by, "tags": self.present_bins.tags.to(torch.int32, copy=True), "next": self._next.clone()}
        return state | own | {"losses": self._losses.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("tags", "next"):
            tags = state[name]
            require(len(tags) in (0, len(self.bins)), f"`{name}` is not of each instance")
            require(not len(tags) or bool((torch.bincount(tags) > 0).all()), f"`{name}` has a bin without instances")
        bins = Bins(state["tags"])
        most = len(state["over_bins"]["probabilities"])
        require(len(bins.sizes) <= most, f"`tags` has {len(bins.sizes)} bins, more than {most}")
        self._lay_out(bins)
        require(((state["losses"] >= 0) | (state["losses"] == -1)).all(), "`losses` has negative entries")
        beyond = [part[len(bins.sizes) :] for part in state["over_bins"].values() if isinstance(part, Tensor)]
        require(not any(bool(part.any()) for part in beyond), "`over_bins` is of more bins than there are")
        over_bins = {
            name: part[: len(bins.sizes)] if isinstance(part, Tensor) else part
            for name, part in state["over_bins"].items()
        }
        super().load_state_dict(state | {"over_bins": over_bins})
        self._next, self._losses = state["next"].clone(), state["losses"].clone()

    def _needed(self) -> frozenset[Reading]:
        """What the options ask for: P the bounds, Q its scores, and the bins their measure."""
        scored: set[Reading] = {"losses"} if self.samples_by_loss else set()
        return frozenset({"bounds", _MEASURES[self.by], *scored})

    def _quantiles(self, measure: Tensor) -> Tensor:
        """Tags of bins of equal size along a measure, (N,), with the mean of the known for NaN."""
        known = ~measure.isnan()
        if not bool(known.any()):
            return self.present_bins.tags.int()
        return Bins.from_quantiles(torch.where(known, measure, measure[known].mean()), self.count).tags.int()

    def _clusters(self, features: Tensor) -> Tensor:
        """Tags of the clusters of features, (N, d); one with an entry that is not finite counts as the mean."""
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        finite = features.isfinite().all(1)
        self._note_skipped(len(finite) - int(finite.sum()))
        if not bool(finite.any()):
            return self.present_bins.tags.int()
        features[~finite] = features[finite].mean(0)
        generator = torch.Generator().manual_seed(self.progress.epoch)  # which resumes as well, and needs no option
        return k_means(features, self.count, generator).to(torch.int32)

    def _move_to(self, bins: Bins) -> None:
        """Go on with other bins, with the probabilities and scores that the instances have."""
        before, inside = self.present_bins, self._inside.state_dict()
        leaves = torch.empty_like(inside["leaves"])
        leaves[before.order()] = inside["leaves"]
        tags, sizes = bins.tags.long(), torch.tensor(bins.sizes, dtype=torch.float64, device="cpu")
        mass = self.bin_probabilities[before.tags.long()] * self.instance_probabilities()
        p = torch.zeros_like(sizes).index_add_(0, tags, mass)
        # Times the size, for weights about 1; a bin that nothing is left of begins uniform.
        leaves[:, 0] = torch.where(p[tags] > 0, mass / p[tags] * sizes[tags], 1.0)
        self._lay_out(bins)
        self._over_bins.set(p / p.sum())
        self._inside.load_state_dict({"leaves": leaves[bins.order()]})
