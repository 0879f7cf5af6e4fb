"""Keep or skip: closeness sampling for a stream, of which nobody can choose what comes next.

An instance comes when the stream brings it, and is known by its key. Once the loss l of a visit is known, its doubt d
is that of `ClosenessSampling`: 1 − exp(−l), smoothed over the visits, d ← α d + (1 − α)(1 − exp(−l)). After every
eighth of a pass the M instances whose doubts are known are ranked by their closeness d (1 − d)^γ, largest first, and
until the next time the one at rank i = 0 … M − 1 is kept with the probability

    w = max(s^(−i/M), ε),

where s is the selection pressure and ε the floor; else it is skipped. One that has been trained on since has the w of
the rank at which its doubt would have stood. What is not known, since it is new or its loss
was not finite, is kept. Where a pass brings each instance once, it is trained on in proportion to its w: these are the
probabilities that `ClosenessSampling` has inside a bin, and γ follows the data in the same way. Unbiased weights are
w̄/w, with w̄ the mean of the w over what the stream brings.

Of the candidates that come together as many are kept as their w sum to, rounded up or down at random: with one uniform
number u, candidate j is kept if there is an integer in (u + W, u + W + w_j], W the sum of the w before it, which has
the probability w_j for any W. That is systematic sampling.

In the first pass, and in the last part of the training, all are kept. Passes are counted by instances, for of a stream
nobody knows how long one is: it is over when as many have come as are known, which those that are kept tell, since each
stands for 1/w. The first goes on as long as more than 1/e of what comes is new, over the last 1/32 of a pass or so;
with replacement N draws bring that.

Doubts are kept as levels, to 0.15 % (:mod:`lightning_as.core.levels`), so that ranks are made of a histogram and not by
sorting.

What is lost against `ClosenessSampling`: what is skipped has been read and decoded; an instance comes as often as the
stream brings it at most; classes are not lifted.

Source: Thinning is rejection sampling (von Neumann, 1951), here by the ranks of Loshchilov and Hutter (2015) and the
closeness of `ClosenessSampling`; systematic sampling is Madow and Madow (1944). New here is their composition.

Cost per step: No extra forward pass; with s = 10 some 2.6 candidates are read for each that is trained on, 39 %.
O(candidates) for the decision, O(batch) for the update, and eight times a pass O(16384) for the ranks. 15 to 29 bytes
of memory for each key (:mod:`lightning_as.core.key_table`), 10 in a checkpoint.

Verified: Decisions by enumeration, ranks and γ against a transcription of the above; `benchmarks/iterable.py`.

When to use it: An `IterableDataset` that cannot be read by position, whose training step costs more than to read three
samples.

When not: Wherever there are positions; where reading is what takes the time.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_as.core.arguments import check_ranks, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.key_table import KeyTable
from lightning_as.core.levels import LEVELS, doubts_of_levels, levels_at, moved, weights_of_levels
from lightning_as.core.persistence import HOPELESS, Persistence
from lightning_as.core.state import require
from lightning_as.strategies.stream_filter import StreamFilter

_RANKINGS = 8  # in a pass
_NEW = math.exp(-1)  # share of new ones, above which a first pass goes on
_LATELY = 32  # of a pass, what that share is of
_SEEMED = LEVELS  # added to a level: that the instance seemed hopeless at its last visit


class KeepOrSkip(StreamFilter):
    """Of a stream what is neither known nor hopeless more often than the rest; in the end all.

    Args:
        pressure: s, how much more likely the first rank is kept than the last, at least 1. Default: 10.
        gamma: γ, at least 0: the larger, the sooner something counts as hopeless; ``"follow"``: it follows what the
            data say, up to ½. Default: ``"follow"``.
        floor: ε in [0, 1]: nothing is kept with a smaller probability. Default: 0.1, below which the default pressure
            does not go.
        smoothing: α in [0, 1), the share of its old doubt that a visit leaves an instance. Default: 0.7.
        relaxation: Share of the training, in [0, 1], that ends it with all that comes. Default: 0.3.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range.
    """

    samples_by_loss = True

    def __init__(
        self,
        pressure: float = 10.0,
        gamma: float | Literal["follow"] = "follow",
        floor: float = 0.1,
        smoothing: float = 0.7,
        relaxation: float = 0.3,
    ) -> None:
        check_ranks(pressure, gamma)
        check_share("floor", floor, with_one=True)
        check_share("smoothing", smoothing)
        check_share("relaxation", relaxation, with_one=True)
        self.pressure = pressure
        self.gamma: float | Literal["follow"] = gamma
        self.floor = floor
        self.smoothing = smoothing
        self.relaxation = relaxation

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._table = KeyTable()
        self._of_levels = doubts_of_levels(bins.device)
        self._counts = np.zeros(LEVELS)  # of the known instances, by level, as float64 for the product with weights
        self._known = 0
        self._persistence = Persistence(0, bins.device)  # which keeps the sums; what seemed hopeless is in the table
        self._begin()

    def _begin(self) -> None:
        """The first pass of a training; what is known of the instances stays."""
        self._came = self._since = 0.0  # candidates, in all and since the last ranking
        self._new = 1.0  # the share of new ones among the last
        self._warm = False
        self._weights = np.ones(LEVELS)
        self._persistence.begin()

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        if self.progress.epoch == 0 and self._came:  # of another training
            self._begin()

    @property
    def known(self) -> int:
        """M, the number of instances whose doubts are known."""
        return self._known

    @property
    def present_gamma(self) -> float:
        """γ in force."""
        return float(self._persistence.caution) / 2 if self.gamma == "follow" else self.gamma

    def chances(self, keys: Tensor) -> Tensor:
        """The w of candidates, (C,) float64."""
        return torch.from_numpy(self._chances(keys.numpy()))

    @torch.inference_mode()
    def keep(self, keys: Tensor, uniform: float) -> tuple[Tensor, Draw]:
        weights = self._chances(keys.numpy())
        passed = np.floor(np.cumsum(weights) + uniform)
        kept = (np.diff(passed, prepend=0.0) > 0) | (weights == 1)  # whatever the rounding of sums makes of these
        positions = torch.from_numpy(np.flatnonzero(kept))
        within = torch.from_numpy(weights[kept])
        bins = torch.zeros(len(positions), dtype=torch.int64, device="cpu")
        return positions, Draw(keys[positions], bins, within / self._mean, within)

    def repeated(self, keys: Tensor) -> Tensor:
        return torch.from_numpy(self._table.mark(keys.numpy()))

    def begin_pass(self) -> None:
        self._table.begin_pass()

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if len(draw.indices) == 0:
            return
        assert draw.within is not None, "a stream's draws have the chances"
        places = self._table.insert(draw.indices.numpy())
        values = self._table.values[places]
        levels, seemed = values % LEVELS, values >= _SEEMED
        found = np.stack([-np.expm1(-losses.numpy()), np.exp(-losses.numpy())])  # the doubt and what is left of 1
        smoothed = self.smoothing * self._of_levels.numpy()[:, levels] + (1 - self.smoothing) * found
        with np.errstate(divide="ignore"):
            doubts, rest = torch.from_numpy(np.log([np.where(levels > 0, smoothed, found), found])).unbind(1)
        new, seems = moved(torch.from_numpy(levels), *levels_at(doubts - rest)).numpy(), found[0] > 1 - HOPELESS
        self._note(seems, seemed, draw.probabilities.numpy())
        last = len(places) - 1 - np.unique(places[::-1], return_index=True)[1]  # of equal keys it counts
        fresh = levels[last] == 0
        np.subtract.at(self._counts, levels[last][~fresh], 1)
        np.add.at(self._counts, new[last], 1)
        self._table.values[places[last]] = (new + _SEEMED * seems.astype(np.int16))[last]
        self._known += int(fresh.sum())
        self._count(float((1 / draw.within).sum()), int(fresh.sum()))

    def metrics(self) -> dict[str, float]:
        """γ, the shares h that seems hopeless and k that stays so; the share that is kept; how many are known."""
        return {
            "gamma": self.present_gamma,
            "hopeless": float(self._persistence.share),
            "staying": float(self._persistence.staying),
            "kept": self._mean,
            "known": float(self.known),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "table": self._table.state_dict(),
            "weights": torch.from_numpy(self._weights.copy()),
            "came": self._came,
            "since": self._since,
            "new": self._new,
            "warm": int(self._warm),
            "persistence": self._persistence.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        weights, values = state["weights"], state["table"]["values"]
        require(((weights > 0) & (weights <= 1)).all(), "`weights` are not from 0 to 1")
        require((values % LEVELS > 0).all(), "`values` are on no level")
        self._persistence.load_state_dict(state["persistence"])
        self._table.load_state_dict(state["table"])
        self._counts = np.bincount(values.numpy() % LEVELS, minlength=LEVELS).astype(np.float64)
        self._known = int(self._counts.sum())
        self._weights = weights.numpy().copy()
        self._came, self._since, self._new = state["came"], state["since"], state["new"]
        self._warm = bool(state["warm"])

    @property
    def _mean(self) -> float:
        """w̄, over what the stream brings, which are new ones as well."""
        if not self._thins:
            return 1.0
        return self._new + (1 - self._new) * float(self._weights @ self._counts) / self._known

    @property
    def _thins(self) -> bool:
        return self._warm and not self._is_last_part()

    def _is_last_part(self) -> bool:
        return self.progress.total is not None and 1 - self.progress.share <= self.relaxation > 0

    def _chances(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        if not self._thins:
            return np.ones(len(keys))
        places = self._table.find(keys)
        return self._weights[np.where(places < 0, 0, self._table.values[places] % LEVELS)]

    def _note(self, seems: NDArray[np.bool_], seemed: NDArray[np.bool_], shares: NDArray[np.float64]) -> None:
        """Add visits to what tells how much of the data stays hopeless; `shares` are N r."""
        sums = [np.sum(seems / shares), len(seems), np.sum(seemed / shares), np.sum((seems & seemed) / shares)]
        self._persistence.window = self._persistence.window + torch.tensor(sums, dtype=torch.float64, device="cpu")

    def _count(self, came: float, new: int) -> None:
        """Count candidates of which some were kept, and of these the new ones; rank if it is time."""
        self._came, self._since = self._came + came, self._since + came
        left = math.exp(-_LATELY * came / self._known)
        self._new = left * self._new + (1 - left) * new / came
        over = not self._warm and self._new < _NEW and self._came >= self._known
        if over or self._since * _RANKINGS >= self._known:
            self._persistence.estimate(first=not self._warm)
            self._warm, self._since = self._warm or over, 0.0
            self._weights = self._ranked()

    def _ranked(self) -> NDArray[np.float64]:
        """The w of each level, (levels,); 1 of level 0, where the unknown are."""
        if self._known == 0:
            return np.ones(LEVELS)
        doubts, rest = self._of_levels
        counts, scores = torch.from_numpy(self._counts).long(), doubts * rest.pow(self.present_gamma)
        weights = weights_of_levels(counts, scores, self.pressure).clamp_(min=self.floor, max=1)
        weights[0] = 1.0
        return weights.numpy()
