"""InfoBatch: half of the instances with a loss below the mean are left out of each pass, and the others count twice.

Training goes over the data in passes without replacement. When a pass begins, the instances whose score, the last
known loss, is below the mean of all scores are candidates; of those a random share r is pruned. The ones that are kept
stand for the ones that are not, with the weight 1/(1 − r), so that the sum of the weighted losses over a pass has the
sum over the whole data set as its expectation. All scores are 3 at first, hence the first pass prunes nothing. After a
share δ of the training nothing is pruned any more and all weights are 1: a pruned pass that is under way is dropped for
a whole one.

An epoch has as many batches as ever; what is saved by pruning is spent on more passes. For the savings that the source
reports, plan fewer epochs. A pass goes on where an epoch or a batch ends.

Source: Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning" (ICLR 2024,
arXiv:2303.04947), and the authors' code.

Cost per step: No extra forward pass; O(batch) for the draw and the update, and O(N) once per pass; 36 bytes of memory
per instance.

Verified: The abstract, and the authors' code line by line. Of its faults none is inherited: weights that stay on to the
end where δ times the number of epochs is not whole, reseeded global generators, a patched DataLoader, losses filed
under the next batch's instances. As there, ⌊(1 − r) n⌋ of n candidates are kept with weights of 1/(1 − r), so that the
weights of a pass can fall short of N by less than 1/(1 − r). The probability of a draw is the chance to be in the pass
over the pass's length, with which ``weights="unbiased"`` makes the mean over a batch unbiased, not the sum over a pass.

When to use it: Many instances are soon learned, and the gradient must stay that of the mean loss. It is the modern
baseline with the smallest weights: they are at most 1/(1 − r).

When not: The loss hardly differs between instances, or a scheduler or the validation counts passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.arguments import check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.passes import Passes
from lightning_as.core.tree_in_bins import last_occurrence
from lightning_as.strategies.base import Strategy

_FIRST_SCORE = 3.0


class InfoBatch(Strategy):
    """Passes that leave out some instances of low loss, at random, and let the rest of them count more.

    Args:
        prune_share: r in [0, 1), the share of the candidates that a pass leaves out. Default: 0.5, the source's.
        delta: δ in [0, 1], the share of the training in which passes are pruned. Below 1 the training must have an end.
            Default: 0.875, the source's.

    Raises:
        ValueError: If an option is out of its range; before training, if it has no end and `delta` is below 1.
    """

    weighted = True

    def __init__(self, prune_share: float = 0.5, delta: float = 0.875) -> None:
        check_share("prune_share", prune_share)
        check_share("delta", delta, with_one=True)
        self.prune_share = prune_share
        self.delta = delta

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._scores = torch.full((len(bins),), _FIRST_SCORE, dtype=torch.float64, device="cpu")
        self._passes = Passes(len(bins))
        self._pruned = False  # whether the present pass leaves anything out

    def schedule(self) -> tuple[str, str] | None:
        return (f"`delta={self.delta}` of InfoBatch", "use `delta=1`") if self.delta < 1 else None

    @property
    def pruning(self) -> bool:
        """Whether a pass that began now would be pruned."""
        total = self.progress.total
        return total is None or self.progress.done < int(self.delta * total)

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        if self._pruned and not self.pruning:
            self._passes.begin(self._new(generator))
        indices, weights, probabilities = self._passes.take(size, lambda: self._new(generator))
        return Draw(indices, self.bins.of(indices), probabilities, weights=weights)

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self._scores[draw.indices] = losses[last_occurrence(draw.indices)]

    def probabilities(self) -> Tensor:
        """The distribution of any one draw of a pass that began now."""
        candidates = self._candidates()
        kept = self._kept(int(candidates.sum()))
        return self._chances(candidates, kept)

    def metrics(self) -> dict[str, float]:
        """Share of the instances that the next pass would leave out; mean of the scores."""
        count = int(self._candidates().sum())
        return {"pruned": (count - self._kept(count)) / len(self.bins), "mean_score": float(self._scores.mean())}

    def state_dict(self) -> dict[str, Any]:
        return {
            "scores": self._scores.clone(),
            "passes": self._passes.state_dict(),
            "pruned": int(self._pruned),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scores = state["scores"].clone()
        self._passes.load_state_dict(state["passes"])
        self._pruned = bool(state["pruned"])

    def _candidates(self) -> Tensor:
        """The instances that may be pruned, (N,) bool."""
        if not self.pruning:
            return torch.zeros(len(self.bins), dtype=torch.bool, device="cpu")
        # Equal scores are not below their mean, but rounding can put them there.
        return self._scores < torch.minimum(self._scores.mean(), self._scores.max())

    def _kept(self, count: int) -> int:
        """How many of so many candidates a pass keeps."""
        return int((1 - self.prune_share) * count + 1e-9)  # 0.1 · 10 is 1, not 0.99…

    def _chances(self, candidates: Tensor, kept: int) -> Tensor:
        """The chance of each instance to be in a pass, over the pass's length."""
        count = int(candidates.sum())
        length = len(candidates) - count + kept
        chances = torch.full((len(candidates),), 1 / length, dtype=torch.float64, device="cpu")
        chances[candidates] *= kept / max(count, 1)
        return chances

    def _new(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A pass: its instances in random order, their weights and probabilities."""
        candidates = self._candidates()
        able, sure = candidates.nonzero()[:, 0], (~candidates).nonzero()[:, 0]
        kept = able[torch.randperm(len(able), generator=generator, device="cpu")[: self._kept(len(able))]]
        self._pruned = len(kept) < len(able)
        indices = torch.cat([sure, kept])
        indices = indices[torch.randperm(len(indices), generator=generator, device="cpu")]
        weights = torch.ones(len(indices), dtype=torch.float64, device="cpu")
        weights[candidates[indices]] = 1 / (1 - self.prune_share)
        return indices, weights, self._chances(candidates, len(kept))[indices]
