"""Submodular batch selection: batches of uncertain instances that differ from each other and represent the data.

A batch S is picked greedily, each time the instance x with the largest gain in

    F(S) = Σ_{x∈S} ( λ1 H(x) + λ2 min_{s∈S∖x} ‖φ(x) − φ(s)‖ − λ3 ‖φ(x) − mean φ‖ ) + λ4 Σ_d √( Σ_{x∈S} a_d(x) )

with the entropy H of the predicted classes (uncertainty), the distance to what is already picked (redundancy), that to
the mean of the data (closeness), and the match of features a = softmax(relu(φ)); φ is what goes into the last linear
layer. The distances of what is already picked are not counted anew, as in the authors' code. Greedy is stochastic: each
pick is the best of |V|/b · log(1/ε) random instances of those that are left, V; first in each of ten random parts of
the data, and then among the picks of all parts. All φ and logits are computed anew every few epochs, and stay as they
are in between. Selection is without replacement: what was picked is not eligible until the pass is over, which is after
`share` of the data, or where less than a batch is left. While nothing is known, which is at most for the batches that
loader workers draw ahead of the first step, batches are random. Instances whose logits or features are not finite count
as certain and without features.

With ``normalise=True`` the terms are those of the code that was published: each is divided by its sum over the
instances that are compared. The λ then cancel, all but whether they are 0, and the term of the mean, negative like its
sum, turns positive: what is far from the mean is preferred. A term whose sum is 0 counts as 0; in that code it
makes every score NaN, and the first instance is picked. The match is then the value, not the gain.

Source: Joseph, Singh and Balasubramanian, "Submodular Batch Selection for Training Deep Neural Networks" (2019,
arXiv:1906.08771), and the authors' code, VamshiTeja/SMDL. The stochastic greedy algorithm is that of Mirzasoleiman et
al., "Lazier Than Lazy Greedy" (2015): with fresh random instances for each pick, where the authors' code draws them
once for all picks.
Cost per step: No forward pass but one over all data every `refresh_epochs` epochs. The selection itself is dear: N ·
log(1/ε) gains per batch, whatever its size, of O(batch · d) each. For N = 60,000 and d = 256 that is about 1 s of one
core for a batch of 256 and 0.6 s for one of 64, where the network's step takes 0.07 s. The features of all data are
kept in memory three times and in checkpoints once: 4 N d bytes each, 61 MB. Of the logits only the entropy of each
instance is kept, so that the number of classes does not matter. Weights that go by probabilities are refused, since the
choice has none.
Verified: The abstract and the introduction; the authors' code, of which two versions were read anew. In both the second
stage compares as many instances as it picks when batches are of 50 (ten times log(1/ε) = 50, drawn once), so it is
random; this one is not. In one version the distance to the mean is added, against its own comment. NOT verified: the
objective, λ and results in the paper's own text; the default λ are those of the code's configuration, which also ends
an epoch after a tenth of the data (`share`).
When to use it: Batches of a few dozen from data with many near-duplicates, when a step of the network costs seconds.
When not: Small networks, where the selection takes several times as long as the step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.arguments import check_integer, check_positive
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import require
from lightning_as.strategies.base import Strategy
from lightning_as.strategies.scores import Scores


class SubmodularBatchSelection(Strategy):
    """Greedily picked batches: uncertain, unlike each other, and close to the data as a whole.

    Args:
        uncertainty: λ1 of the entropy. Default: 0.2, the authors' configuration.
        redundancy: λ2 of the distance to the nearest that is picked. Default: 0.1, as there.
        closeness: λ3 of the distance to the mean, which is subtracted. Default: 0.5, as there.
        match: λ4 of the match of features. Default: 0.2, as there.
        normalise: Divide each term by its sum, as the published code does, with what that entails (above). Default:
            False.
        refresh_epochs: Epochs between two forward passes over the data. Default: 5, as there.
        partitions: Number of parts that are picked from first; 1 to pick from all at once. Default: 10, as there.
        epsilon: ε in (0, 1): more instances are compared if it is smaller, all of them if it is small enough. Default:
            exp(−5), as there.
        share: Share of the data, in (0, 1], that is selected before all are eligible again. With 1 every instance is
            trained on equally often, only in another order and company. Default: 1; the authors' configuration has 0.1.

    Raises:
        TypeError: If `refresh_epochs` or `partitions` is not an integer.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"features", "entropies"})
    knows_probabilities = False  # it chooses the best

    def __init__(
        self,
        uncertainty: float = 0.2,
        redundancy: float = 0.1,
        closeness: float = 0.5,
        match: float = 0.2,
        normalise: bool = False,
        refresh_epochs: int = 5,
        partitions: int = 10,
        epsilon: float = math.exp(-5),
        share: float = 1.0,
    ) -> None:
        lambdas = {"uncertainty": uncertainty, "redundancy": redundancy, "closeness": closeness, "match": match}
        for name, value in lambdas.items():
            check_positive(name, value, with_zero=True)
        check_integer("refresh_epochs", refresh_epochs)
        check_integer("partitions", partitions)
        if not 0 < epsilon < 1:
            raise ValueError(f"`epsilon` must be in (0, 1), got {epsilon}.")
        if not 0 < share <= 1:
            raise ValueError(f"`share` must be in (0, 1], got {share}.")
        self.uncertainty = uncertainty
        self.redundancy = redundancy
        self.closeness = closeness
        self.match = match
        self.normalise = normalise
        self.refresh_epochs = refresh_epochs
        self.partitions = partitions
        self.epsilon = epsilon
        self.share = share

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._left = torch.arange(len(bins), device="cpu")  # those that are eligible
        self._draws = self._refreshed = 0  # batches drawn; and at the last refresh
        self._features: Tensor | None = None

    def wanted(self) -> Tensor | None:
        if self._features is not None:
            period = self.refresh_epochs * self.progress.per_epoch
            if self._draws - self._refreshed < period or self.progress.share == 1:
                return None
        return torch.arange(len(self.bins), device="cpu")

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.features is not None, "`reads` asks for them"
        assert scores.entropies is not None, "`reads` asks for them"
        # In half precision squares overflow, and a CPU is slow.
        found = scores.features.to(torch.promote_types(scores.features.dtype, torch.float32))
        finite = found.isfinite().all(1) & scores.entropies.isfinite()
        self._note_skipped(len(finite) - int(finite.sum()))
        features, entropy = torch.zeros_like(found), torch.zeros(len(indices), dtype=torch.float64, device="cpu")
        features[indices[finite]] = found[finite]
        entropy[indices[finite]] = scores.entropies[finite]
        self._know(features, entropy)
        self._refreshed = self._draws

    @torch.inference_mode()
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        if size > len(self.bins):
            raise ValueError(f"A batch of {size} without replacement is more than all {len(self.bins)} instances.")
        if len(self._left) < size or len(self._left) <= (1 - self.share) * len(self.bins):
            self._left = torch.arange(len(self.bins), device="cpu")
        shuffled = self._left[torch.randperm(len(self._left), generator=generator, device="cpu")]
        indices = shuffled[:size] if self._features is None else self._select(shuffled, size, generator)
        eligible = self._eligible()
        eligible[indices] = False
        self._left = eligible.nonzero()[:, 0]
        self._draws += 1
        return self._drawn_uniformly(indices)

    def probabilities(self) -> Tensor:
        """1/N each: the choice is not random, but over a whole pass every instance is selected once."""
        return self._uniform(len(self.bins))

    def metrics(self) -> dict[str, float]:
        """Share of the data that is eligible; mean entropy (nats) of the data as it was last scored."""
        figures = {"eligible": len(self._left) / len(self.bins)}
        return figures if self._features is None else figures | {"entropy": float(self._entropy.mean())}

    def state_dict(self) -> dict[str, Any]:
        return {
            "eligible": self._eligible(),
            "draws": self._draws,
            "refreshed": self._refreshed,
            "features": None if self._features is None else self._features.clone(),
            "entropy": None if self._features is None else self._entropy.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._left = state["eligible"].nonzero()[:, 0]
        self._draws, self._refreshed = state["draws"], state["refreshed"]
        self._features = None
        if state["features"] is not None:
            for name, dimensions in (("features", 2), ("entropy", 1)):
                part = state[name]
                fits = isinstance(part, Tensor) and part.dim() == dimensions and len(part) == len(self.bins)
                fits = fits and part.dtype in (torch.float32, torch.float64) and part.isfinite().all()
                require(fits, f"`{name}` is not finite, or not of each instance")
            self._know(state["features"].clone(), state["entropy"].clone())

    def _eligible(self) -> Tensor:
        """Which instances are, (N,) bool."""
        return torch.zeros(len(self.bins), dtype=torch.bool, device="cpu").index_fill_(0, self._left, True)

    def _know(self, features: Tensor, entropy: Tensor) -> None:
        """Take over features, (N, d), and entropies, (N,), of all instances."""
        self._features, self._entropy = features, entropy
        centred = features - features.mean(0)  # distances lose fewer digits near the origin
        self._halves = centred.square().sum(1) / 2
        self._distances = (2 * self._halves).sqrt()  # from the mean
        self._uncertain = entropy.to(features.dtype)
        # φ − mean φ and a side by side, (N, 2d): most of the time goes into fetching rows.
        self._rows = torch.cat([centred, features.relu().softmax(1)], dim=1)

    def _select(self, shuffled: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Pick a batch of the instances that are eligible, which come in random order."""
        part = len(shuffled) // self.partitions
        if part >= size and self.partitions > 1:
            shuffled = self.greedy(shuffled[: part * self.partitions].view(-1, part), size, generator).flatten()
        return self.greedy(shuffled.unsqueeze(0), size, generator)[0]

    @torch.inference_mode()
    def greedy(self, pools: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Pick `size` instances of each of several pools by stochastic greedy, all pools side by side.

        Args:
            pools: Different instances, (P, M) int64.
            size: At most M.
            generator: For the instances that are compared.

        Returns:
            The picks in their order, (P, size) int64.
        """
        assert self._features is not None, "only called when they are known"
        pools = pools.clone()
        count, members = pools.shape
        compared = math.ceil(members / size * -math.log(self.epsilon))
        rows = torch.arange(count, device="cpu")
        picks = pools.new_empty(count, size)
        width = self._features.shape[1]
        picked = self._features.new_empty(count, size, width)
        total = self._features.new_zeros(count, 1, width)  # Σ a_d of the picks
        for step in range(size):
            left = members - step
            if compared < left:  # with repeats, which are as good as none
                uniforms = torch.rand(count, compared, dtype=torch.float64, generator=generator, device="cpu")
                places = uniforms.mul_(left).long()
            else:
                places = torch.arange(left, device="cpu").expand(count, left)
            candidates = pools.gather(1, places)
            best = self._scores(candidates, picked[:, :step], picks[:, :step], total).argmax(1)
            chosen, at = candidates[rows, best], places[rows, best]
            picks[:, step] = chosen
            picked[:, step] = self._rows[chosen, :width]
            total[:, 0] += self._rows[chosen, width:]
            pools[rows, at] = pools[:, left - 1].clone()
        return picks

    def _scores(self, candidates: Tensor, picked: Tensor, picks: Tensor, total: Tensor) -> Tensor:
        """What each candidate, (P, M), adds to F, given the picks, (P, S), and their features: (P, M)."""
        flat = candidates.flatten()
        terms = [
            self.uncertainty * self._uncertain[flat].view_as(candidates),
            -self.closeness * self._distances[flat].view_as(candidates),
        ]
        width = total.shape[2]
        rows = self._rows.index_select(0, flat).view(*candidates.shape, 2 * width)
        if self.match:
            terms.append(self.match * (rows[..., width:] + total).sqrt_().sum(2))
        if self.redundancy and picks.shape[1]:
            halves = self._halves[picks].unsqueeze(1)  # ‖x − s‖²/2 is ‖x‖²/2 + ‖s‖²/2 − x·s
            nearest = torch.baddbmm(halves, rows[..., :width], picked.transpose(1, 2), alpha=-1).amin(2)
            nearest += self._halves[flat].view_as(candidates)
            terms.append(self.redundancy * nearest.clamp_(min=0).mul_(2).sqrt_())
        if self.normalise:
            sums = [term.sum(1, keepdim=True) for term in terms]
            terms = [torch.where(whole != 0, term / whole, 0.0) for term, whole in zip(terms, sums, strict=True)]
        return torch.stack(terms).sum(0)
