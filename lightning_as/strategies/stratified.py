"""Stratified sampling: each batch has a fixed number of instances of each cluster of similar ones.

Strata c_j are the k-means clusters inside each bin, found once from the inputs. A batch of b has n_j instances of
stratum j, drawn uniformly with replacement, by Neyman's allocation

    n_j = b · |c_j| σ_j / Σ_l |c_l| σ_l,    at least 1,

and an instance of stratum j weighs (|c_j| / N) · (b / n_j), so that the mean of the weighted losses is an unbiased
estimate of the mean over the data. That the numbers n_j are not random takes the variance between strata away; the
allocation spends the batch where the variance inside is.

σ_j is the standard deviation of the inputs inside the stratum (a proxy of that of the gradients that costs nothing), or
the root of the running mean of the squared gradient bounds of its drawn instances (not less than it, up to staleness).
Shares are rounded by largest remainder: strata whose share is below 1 get 1, and the others share the rest; ties go to
the first. If all σ_j are 0 the shares are the sizes. Before the clusters are known, which is at most for the batches
that loader workers draw ahead of the first step, the strata are the bins, and the shares their sizes.

Inside a stratum the draws of a batch are independent of each other, as the source's: what could be spread evenly over a
batch is, by the fixed numbers, so that there is no choice of points here.

Source: Zhao and Zhang, "Accelerating Minibatch Stochastic Gradient Descent using Stratified Sampling" (2014,
arXiv:1405.3080), the estimator and the allocation; the allocation is Neyman's (1934).
Cost per step: None but the draw, O(batch + strata). Before training once k-means over all inputs, which are loaded
together for it: about 5 s on one core for MNIST with ten clusters a digit, 20 iterations on at most 10,000 instances of
a bin. No forward pass, but with clusters and ``deviation="gradients"`` one over the data before training. 20 bytes of
memory per instance, and all inputs during k-means.
Verified: The abstract, and secondary summaries that speak of k-means, also inside each class, and of allocating the
batch to clusters. NOT verified, as the body was not read: how the paper makes its clusters and estimates σ_j, the
number of clusters, and its results; the rounding and the two estimates of σ_j are this package's. That the weights are
unbiased is tested by enumeration.
When to use it: Redundant data whose inputs cluster; where an unbiased estimate of the plain mean is wanted with less
variance and no extra passes.
When not: Inputs whose Euclidean distances say nothing, or that do not fit into memory together; batches smaller than
the number of strata.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import require, require_indices
from lightning_as.strategies._k_means import k_means, means
from lightning_as.strategies.base import Strategy
from lightning_as.strategies.scores import Scores

Deviation = Literal["inputs", "gradients"]


class StratifiedSampling(Strategy):
    """A fixed number of each cluster of similar inputs in each batch, by Neyman's allocation.

    Args:
        clusters_per_bin: Largest number of strata that k-means makes of each bin; 1 for the bins themselves. There are
            at most as many strata as a batch has instances. Default: 2; the source's number is not known.
        deviation: What σ_j is. ``"inputs"``: the standard deviation of the inputs in the stratum. ``"gradients"``: the
            root of the running mean of the squared gradient bounds Ĝ of what was drawn from it. Default: ``"inputs"``.
        momentum: In [0, 1), the share of the old mean of Ĝ that each batch leaves; for ``deviation="gradients"``.
            Default: 0.9, this package's.
        seed: Seed of k-means. Default: 0.

    Raises:
        TypeError: If `clusters_per_bin` or `seed` is not an integer.
        ValueError: If an option is out of its range; at the first draw, if the batch is smaller than the number of
            strata; after k-means, if an input is not finite.
    """

    reads = frozenset({"bounds", "inputs"})  # of an object, only what its options ask for
    weighted = True

    def __init__(
        self, clusters_per_bin: int = 2, deviation: Deviation = "inputs", momentum: float = 0.9, seed: int = 0
    ) -> None:
        check_integer("clusters_per_bin", clusters_per_bin)
        check_integer("seed", seed, least=-(2**63))
        check_choice("deviation", deviation, get_args(Deviation))
        check_share("momentum", momentum)
        # With the bins as strata, σ from gradients needs no inputs.
        self._of_bins = clusters_per_bin == 1 and deviation == "gradients"
        self.reads = frozenset({"inputs"} if deviation == "inputs" else {"bounds"} if self._of_bins else self.reads)
        self.clusters_per_bin = clusters_per_bin
        self.deviation: Deviation = deviation
        self.momentum = momentum
        self.seed = seed

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._number = sum(min(self.clusters_per_bin, size) for size in bins.sizes)  # there may be fewer in the end
        self._stratified = self._of_bins
        self._size = 0  # of the batch last drawn
        self._set_strata(bins.tags.long())

    @property
    def scoring(self) -> bool:
        return not self._stratified

    def wanted(self) -> Tensor | None:
        return None if self._stratified else torch.arange(len(self.bins), device="cpu")

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.inputs is not None, "`reads` asks for them"
        inputs = torch.empty_like(scores.inputs)
        inputs[indices] = scores.inputs
        if not bool(torch.isfinite(inputs).all()):
            raise ValueError(
                "An input is not finite, and k-means cannot place it: correct the data, or use the bins as strata, "
                "StratifiedSampling(clusters_per_bin=1, deviation='gradients')."
            )
        generator = torch.Generator().manual_seed(self.seed)
        strata = torch.empty(len(self.bins), dtype=torch.int64, device="cpu")
        deviations: list[Tensor] = []
        known = 0
        for members in self.bins.order().split(self.bins.sizes):
            points = inputs[members].to(torch.promote_types(inputs.dtype, torch.float32))
            clusters = k_means(points, self.clusters_per_bin, generator)
            strata[members] = clusters + known
            number = int(clusters.max()) + 1
            known += number
            deviations.append(_deviations(points, clusters, number))
        self._set_strata(strata)
        self._stratified = True
        if self.deviation == "inputs":
            self._squares = torch.cat(deviations).square_()

    @property
    def strata(self) -> Tensor:
        """The stratum of each instance, in the data set's order, (N,) int64."""
        return self._strata.clone()

    @property
    def deviations(self) -> Tensor:
        """σ of each stratum, (strata,) float64; the mean square of the known ones where it is not known, 1 if none."""
        known = self._squares[~self._squares.isnan()]
        return self._squares.nan_to_num(float(known.mean()) if len(known) else 1.0).sqrt()

    def allocation(self, size: int) -> Tensor:
        """n: the number of instances of each stratum in a batch of `size`, (strata,) int64.

        Raises:
            ValueError: If there are more strata than that.
        """
        strata = max(self._number, len(self._sizes))
        if size < strata:
            raise ValueError(
                f"A batch of {size} cannot have an instance of each of {strata} strata: use batches of {strata} or "
                f"more, fewer `clusters_per_bin` (here {self.clusters_per_bin}), or fewer bins (here "
                f"{len(self.bins.sizes)})."
            )
        return allocate(size, self._sizes * self.deviations, self._sizes)

    def probabilities(self) -> Tensor:
        if self._size:
            shares = self.allocation(self._size).to(torch.float64) / self._size
        else:
            shares = _shares(self._sizes * self.deviations, self._sizes)
        return (shares / self._sizes)[self._strata]

    @torch.inference_mode()
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        counts = self.allocation(size)
        self._size = size
        strata = torch.repeat_interleave(counts)
        members = self._sizes[strata]
        uniforms = torch.rand(size, dtype=torch.float64, generator=generator, device="cpu")
        indices = self._order[self._starts[strata] + (uniforms * members).long()]
        probabilities = counts[strata] / (size * members)
        weights = (len(self.bins) * probabilities).reciprocal_()
        return Draw(indices, self.bins.of(indices), probabilities, weights=weights)

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if self.deviation == "inputs":
            return
        strata = self._strata[draw.indices]
        counts = torch.bincount(strata, minlength=len(self._squares))
        sums = torch.zeros_like(self._squares).index_add_(0, strata, bounds)
        new = sums / counts  # NaN where none was drawn
        smoothed = self.momentum * self._squares + (1 - self.momentum) * new
        self._squares = torch.where(counts == 0, self._squares, torch.where(self._squares.isnan(), new, smoothed))

    def metrics(self) -> dict[str, float]:
        """Number of strata; smallest and largest σ."""
        deviations = self.deviations
        return {
            "strata": float(len(deviations)),
            "deviation_min": float(deviations.min()),
            "deviation_max": float(deviations.max()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "strata": self._strata.to(torch.int32),
            # As long as there can be strata, so that equal options give equal shapes.
            "squares": torch.nn.functional.pad(self._squares, (0, self._number - len(self._squares)), value=torch.nan),
            "stratified": self._stratified,
            "size": self._size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        strata = state["strata"].long()
        require_indices("strata", strata, self._number)
        require(torch.bincount(strata).min() > 0, "`strata` has a gap")
        require(not (state["squares"] < 0).any(), "`squares` has negative entries")
        self._set_strata(strata)
        self._squares = state["squares"][: len(self._squares)].clone()
        self._stratified, self._size = state["stratified"], state["size"]

    def _set_strata(self, strata: Tensor) -> None:
        self._strata = strata
        sizes = torch.bincount(strata)
        self._order = strata.argsort(stable=True)
        self._starts = sizes.cumsum(0) - sizes
        self._sizes = sizes.to(torch.float64)
        self._squares = torch.full_like(self._sizes, torch.nan)  # σ², or the mean of Ĝ


def allocate(size: int, shares: Tensor, fallback: Tensor) -> Tensor:
    """Split `size` in proportion to `shares`, (S,) float64, into whole numbers of at least 1, by largest remainder.

    Args:
        size: At least S.
        shares: Not negative.
        fallback: The shares to use if all are 0.
    """
    shares = _shares(shares, fallback)
    free = torch.ones_like(shares, dtype=torch.bool)  # whose share of what the others leave is 1 or more
    ideal = shares
    while bool(free.any()):
        ideal = shares * ((size - int((~free).sum())) / shares[free].sum())
        small = free & (ideal < 1)
        if not bool(small.any()):
            break
        free &= ~small
    floors = torch.where(free, ideal.floor(), 1.0)
    remainders = torch.where(free, ideal - floors, -1.0)
    floors[remainders.argsort(descending=True, stable=True)[: size - int(floors.sum())]] += 1
    return floors.long()


def _shares(shares: Tensor, fallback: Tensor) -> Tensor:
    total = shares.sum()
    return shares / total if float(total) > 0 else fallback / fallback.sum()


def _deviations(points: Tensor, clusters: Tensor, number: int) -> Tensor:
    """The root of the mean squared distance from the mean, of the points of each cluster: (number,) float64."""
    centres = means(points, clusters, number)
    squares = (points - centres[clusters]).square_().sum(1, dtype=torch.float64)
    sums = torch.zeros(number, dtype=torch.float64, device="cpu").index_add_(0, clusters, squares)
    return (sums / torch.bincount(clusters, minlength=number)).sqrt_()
