"""Selective-Backprop: score several batches, and train on the instances that chance keeps by the rank of their losses.

Candidates come from shuffled passes over the data and are scored by a forward pass. In the ``"percentile"`` form, the
source's, the loss of a candidate has the percentile π among the last 1,024 losses of candidates, those of its own batch
included: the share that is strictly smaller. It is to be kept with the probability P = max(s_min, π^β). The first epoch
keeps everything and scores nothing. The source lets each candidate toss a coin, u < P with u uniform in [0, 1), and
trains as soon as a batch is full. A Lightning step has a batch of b at any rate, so that of M candidates the b with
the smallest u/P are trained on (sequential Poisson sampling): exactly those that the coins keep if these are b; if they
are more, those that are kept most clearly, where the source would leave the rest to the next batch; if they are fewer,
the nearest misses fill the batch up, where the source would wait for more.

The ``"composer"`` form is that of the Composer library. Of M candidates b are chosen without replacement, one after the
other, with probabilities ∝ ((rank + ½)/M)^(1/keep − 1), rank 0 the smallest loss; only between the shares `start` and
`end` of the training, and never in every `interrupt`-th batch of an epoch. Composer takes the M from one batch and
trains on fewer; this package always trains on b.

Source: Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers" (2019, arXiv:1910.00762), and
Composer's `SelectiveBackprop`.

Cost per step: In the steps that choose 1/keep forward passes of the batch beside the training, and O(M log M) for the
choice. The source's saving, fewer backward passes, is had by planning fewer epochs. 12 bytes of memory per instance.

Verified: The authors' code (calculator, history, selectors) and Composer's line by line; its README for the defaults.
Not verified: the paper's own text. As in the authors' code, all losses of a batch enter the history before its
percentiles are taken, and the priming epoch enters none. Composer's share of the training counts whole epochs if its
duration is given in epochs, this one batches; its optional smaller inputs for scoring are left out, and so is the
source's reuse of stale losses. No closed form is known for the chance to be chosen: draws keep the uniform
probabilities of their candidates, and weights that go by them are refused. With several processes each chooses from its
own share, and they have one history, so that another number of them chooses otherwise.

When to use it: Backward passes are the cost that matters, and many instances are easy.

When not: Labels are noisy, since the largest losses are kept; or the gradient must stay that of the mean loss.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_positive, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.passes import Candidates, batches_of_candidates
from lightning_as.strategies.batch_selector import BatchSelector, Selection
from lightning_as.strategies.scores import Scores

Form = Literal["percentile", "composer"]

_SMALLEST = 1e-300  # so that a candidate that is never to be kept can still fill up a batch


class SelectiveBackprop(BatchSelector):
    """Candidates kept by chance, the more likely the higher their losses rank.

    Args:
        form: ``"percentile"``: the source's. ``"composer"``: Composer's. Default: ``"percentile"``.
        keep: Share of the candidates that is trained on, 1 over a whole number. Default: with ``"percentile"`` the
            share that it keeps on average, 1/(β + 1), rounded to such a one, 0.25 with the default β; with
            ``"composer"`` 0.5, Composer's.
        beta: β > 0, the power of ``"percentile"``. Default: 3, the authors' scripts'.
        minimum: s_min in [0, 1], the smallest probability of ``"percentile"``. Default: 0, the authors' scripts'.
        history: Losses that the percentile is taken among, of ``"percentile"``. Default: 1,024, the authors'.
        start: Share of the training before which ``"composer"`` chooses nothing. Default: 0.5, Composer's.
        end: Share of the training from which on it chooses nothing. Default: 0.9, Composer's.
        interrupt: Of so many batches ``"composer"`` leaves the last one plain; 0 for none. Default: 2, Composer's.

    Raises:
        TypeError: If `history` or `interrupt` is not an integer.
        ValueError: If an option is out of its range; before training, if ``"composer"`` has no end in sight.
    """

    def __init__(
        self,
        form: Form = "percentile",
        keep: float | None = None,
        beta: float = 3.0,
        minimum: float = 0.0,
        history: int = 1024,
        start: float = 0.5,
        end: float = 0.9,
        interrupt: int = 2,
    ) -> None:
        check_choice("form", form, get_args(Form))
        check_integer("history", history, unit="losses")
        check_integer("interrupt", interrupt, least=0, unit="batches")
        if interrupt == 1:
            raise ValueError("`interrupt` must be 0 or at least 2 batches, got 1: use 0 to leave none plain.")
        check_positive("beta", beta)
        check_share("minimum", minimum, with_one=True)
        if not 0 <= start < end <= 1:
            raise ValueError(f"`start` and `end` must be 0 <= start < end <= 1, got {start} and {end}.")
        if keep is not None:
            self.factor = batches_of_candidates(keep)
        else:
            self.factor = max(2, round(beta + 1)) if form == "percentile" else 2
        self.form: Form = form
        self.beta = beta
        self.minimum = minimum
        self.history = history
        self.first = start  # `start` is a method
        self.end = end
        self.interrupt = interrupt

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._candidates = Candidates(bins)
        self._history = torch.empty(0, dtype=torch.float64, device="cpu")

    def schedule(self) -> tuple[str, str] | None:
        return ("SelectiveBackprop(form='composer')", "use `form='percentile'`") if self.form == "composer" else None

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return self._candidates.draw(size * self.factor if self._choosing else size, generator)

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        assert scores.losses is not None, "they are read"
        losses = self._known(scores.losses)
        coins = torch.rand(len(losses), dtype=torch.float64, generator=generator, device="cpu")
        if self.form == "composer":
            coins = -torch.log1p(-coins)  # the smallest of exponential ones over p are draws without replacement
            chances = self._by_rank(losses)
        else:
            chances = self._by_percentile(losses)
        return Selection((coins / chances.clamp_(min=_SMALLEST)).argsort(stable=True)[:size])

    def metrics(self) -> dict[str, float]:
        """Whether the batch that is drawn next is chosen from candidates."""
        return {"choosing": float(self._choosing)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "candidates": self._candidates.state_dict(),
            "history": self._history.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._candidates.load_state_dict(state["candidates"])
        self._history = state["history"].clone()

    @property
    def _choosing(self) -> bool:
        """Whether the batch that is drawn next is chosen from candidates."""
        if self.form == "percentile":
            return self.progress.epoch > 0
        plain = self.interrupt > 0 and (self.progress.batch + 1) % self.interrupt == 0
        return self.first <= self.progress.share < self.end and not plain

    def _by_percentile(self, losses: Tensor) -> Tensor:
        """P of each of the candidates, whose losses enter the history."""
        self._history = torch.cat([self._history, losses])[-self.history :]
        smaller = torch.searchsorted(self._history.sort().values, losses)
        return (smaller.to(torch.float64) / len(self._history)).pow_(self.beta).clamp_(min=self.minimum)

    def _by_rank(self, losses: Tensor) -> Tensor:
        ranks = torch.empty_like(losses)
        ranks[losses.argsort(stable=True)] = torch.arange(len(losses), dtype=torch.float64, device="cpu")
        return ((ranks + 0.5) / len(losses)).pow_(self.factor - 1)
