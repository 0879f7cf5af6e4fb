"""What is logged while it trains, and said at the end.

Of the last 50 batches that were trained on, with r the probability of each drawn instance, l its loss and b the squared
bound of its gradient, and with w = 1 / (N r):

- ``adaptive/loss``, the mean of w l: an unbiased estimate of the mean loss of the data, at the parameters of these
  batches. The loss of what was drawn alone is larger by design, the more so the better hard examples are found.
- ``adaptive/gain``, Σ b / Σ w b: how many times the squared gradient of an instance that was drawn is that of one drawn
  uniformly, which the same batch tells. 1 is uniform sampling; above it less is drawn of what is known already.
- ``adaptive/variance_ratio``, Σ w² b / Σ w b: the second moment of the gradient estimate with the weights w over that
  of uniform sampling, of one draw. Below 1 weighted steps have less noise than uniform ones, above more; of a training
  without weights it says how far the draws are from those that suit weights. Cf. Kutsuna, arXiv 2501.13296 (2025).
- ``adaptive/ess``: the number of instances that the draws are effectively spread over, 1 / Σ r², as a share of N.

The first three go by w, whose mean is 1 over many draws. Where r is next to nothing for much of the data, few draws are
not many: those instances are not drawn, then the mean falls short, or a single one is, which counts for all of them.
Self-normalising, by Σ w in place of their number, would give the figure of the part that is drawn. So the three are NaN
where the mean is out of :data:`MEANS`, or the w are effectively fewer than :data:`LEAST` of the draws, Σ² w / Σ w²
(Kish, "Survey Sampling", 1965), as with `OnlineBatchSelection` and its pressure of 10⁸: with 60,000 instances the mean
of 50 batches of 256 was 0.62 in the median.

Losses and bounds are those that the strategy reads, or that the step has shown, by its losses or by logits at hand.
What is not known is left out: bounds of a loss that is not the plain cross-entropy, for a strategy that reads none; and
all but ess, which is that of the candidates, for batch selectors, whose probabilities of what is trained on nobody
knows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.draw import Draw, importance_weights
from lightning_as.core.record import BOUND, LOSS
from lightning_as.strategies import Strategy

WINDOW = 50
"""Batches that the figures are of."""
MEANS = (0.8, 1.25)
"""Within which the mean of the weights must be for the draws to stand for the data."""
LEAST = 0.02
"""The share of the draws that their weights must effectively be."""


class Figures:
    """Keeps the last batches of a fit; what is computed is computed when it is logged.

    Args:
        strategy: The method, which may be started later.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._new: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=WINDOW)  # batches that are not summed up yet
        self.forget()

    def forget(self) -> None:
        """Begin anew, as with other data."""
        self._new.clear()
        self._sums: Tensor | None = None  # of those before, (9, up to 50), see `batch_sums`
        self._gain = self._spread = 0.0  # sums of what was logged
        self._times = self._untold = 0

    def add(self, draw: Draw, look: Tensor) -> None:
        """Keep a batch that was trained on, and the look at it, (6, B)."""
        self._new.append((draw.probabilities, look[LOSS], look[BOUND]))

    def sums(self) -> Tensor:
        """The sums over the last batches, (9,), see :func:`batch_sums`; zeros before there are any."""
        if (sums := self._settled()) is None:
            return torch.zeros(9, dtype=torch.float64, device="cpu")
        return sums.sum(dim=1)

    def log(self, sums: Tensor | None = None) -> dict[str, float]:
        """What is logged now, of the last batches; nothing before there are any.

        Args:
            sums: Those of :meth:`sums`, of all processes if each knows its own alone. Default: its own.
        """
        sums = self.sums() if sums is None else sums
        if not float(sums[1]):
            return {}
        figures = estimates(sums)
        if not self._strategy.knows_probabilities:
            figures = {"ess": figures["ess"]}
        if math.isnan(gain := figures.get("gain", math.nan)):
            self._untold += "gain" in figures
        else:
            self._gain += gain
            self._spread += figures["ess"]
            self._times += 1
        return figures

    def state_dict(self) -> dict[str, Any]:
        """The sums of the last batches, and of what was logged."""
        sums = self._settled()
        logged = {"gain": self._gain, "spread": self._spread, "times": self._times, "untold": self._untold}
        return logged if sums is None else {**logged, "sums": sums.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.forget()
        self._sums = state.get("sums")
        self._gain, self._spread = state["gain"], state["spread"]
        self._times, self._untold = state["times"], state["untold"]

    def _settled(self) -> Tensor | None:
        """The sums of the last batches, (9, up to 50); None if there are none yet."""
        if self._new:
            sums = batch_sums(list(self._new), self._strategy.bins.mean_size)
            self._sums = sums if self._sums is None else torch.cat([self._sums.to(sums.device), sums], dim=1)
            self._sums = self._sums[:, -WINDOW:]
            self._new.clear()
        return self._sums

    def summary(self) -> str | None:
        """A few lines about a training that is over; None if there is nothing to say, or nobody keeps a record."""
        if (record := self._strategy.record) is None or not record.batches:
            return None
        drawn = record.columns()["drawn"]
        size, draws = len(drawn), int(drawn.sum())
        lines = [
            f"{self._who()} drew {draws:,} times from {size:,} examples, in {record.batches:,} "
            f"batches: the most drawn example {int(drawn.max())} times, the most drawn tenth {top_share(drawn):.0%} of "
            f"the draws, and {int((drawn == 0).sum()) / size:.1%} of the examples never."
        ]
        if self._untold > self._times:
            lines.append(
                "It drew from so little of the data that `adaptive/loss`, `gain` and `variance_ratio` are mostly not "
                "known: see `docs/watching.md`."
            )
        elif self._times:
            gain, spread = self._gain / self._times, self._spread / self._times
            lines.append(
                f"On average what it drew had {gain:.3g} times the squared gradient of a uniform draw, and was spread "
                f"over effectively {spread:.0%} of the examples."
            )
        return "\n".join([*lines, "Example by example: `callback.examples()`."])

    def _who(self) -> str:
        """Who drew, where a process knows of its own part of the data alone."""
        shard, name = self._strategy.bins.shard, type(self._strategy).__name__
        return name if shard is None or shard.shards == 1 else f"In the first of {shard.shards} processes {name}"


def top_share(drawn: Tensor) -> float:
    """The share of all draws that the most drawn tenth of the examples has, of the times each was drawn, (N,)."""
    most = drawn.sort(descending=True).values[: math.ceil(len(drawn) / 10)]
    return int(most.sum()) / max(int(drawn.sum()), 1)


def batch_sums(batches: Sequence[tuple[Tensor, Tensor, Tensor]], size: float) -> Tensor:
    """Of each batch that of which the estimates are made.

    Args:
        batches: The probabilities r of the drawn instances, their losses and their squared gradient bounds, (B,) each;
            NaN where one is not known.
        size: Number of instances in the data set, N.

    Returns:
        A column for each batch, (9, batches): the sums of N r; of 1, w and w²; of 1 and of w l where the loss is
        known; of b, w b and w² b where the bound is.
    """
    probabilities, losses, bounds = (torch.cat(parts) for parts in zip(*batches, strict=True))
    weights = importance_weights(probabilities, size)
    known, bounds = losses.isfinite(), torch.where(bounds.isfinite(), bounds, 0.0)
    parts = (
        probabilities * size,
        torch.ones_like(weights),
        weights,
        weights.square(),
        known.to(weights.dtype),
        torch.where(known, weights * losses, 0.0),
        bounds,
        weights * bounds,
        weights.square() * bounds,
    )
    lengths = torch.tensor([len(batch[0]) for batch in batches], dtype=torch.int64, device=weights.device)
    owners = torch.arange(len(batches), device=weights.device).repeat_interleave(lengths)
    return weights.new_zeros(len(parts), len(batches)).index_add_(1, owners, torch.stack(parts))


def estimates(sums: Tensor) -> dict[str, float]:
    """The estimates, see the module, of the sums over all drawn instances, (9,), see :func:`batch_sums`.

    Returns:
        ``ess``, and ``loss``, ``gain`` and ``variance_ratio`` as far as anything is known: NaN if the draws do not
        stand for the data.
    """
    shares, drawn, weights, squares, known, losses, of_drawn, of_data, weighted = sums
    of_weights = [weights / drawn, weights.square() / squares / drawn]
    mean, spread, *numbers = torch.stack(
        [*of_weights, drawn / shares, losses / known, of_drawn / of_data, weighted / of_data]
    ).tolist()
    told = MEANS[0] <= mean <= MEANS[1] and spread >= LEAST
    found = zip(("ess", "loss", "gain", "variance_ratio"), numbers, strict=True)
    # Not left out: Lightning would log the number of before again.
    return {name: number if told or name == "ess" else math.nan for name, number in found if number == number}
