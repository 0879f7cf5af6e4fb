"""Online batch selection: instances by the rank of their last loss, with an exponential distribution over the ranks.

The instances are sorted by their last known loss, in descending order. The one at rank i = 1 … N is drawn with
probability

    p_i = (1 − ρ) ρ^(i − 1) / (1 − ρ^N),  ρ = s^(−1/N),

with replacement, so that the first is about s times as likely as the last: s is the selection pressure. With s = 10⁸
the top tenth gets 84 % of the draws and the lower half next to none. A draw inverts the cumulative distribution in
closed form. The pressure moves from `s_start` at epoch 0 towards `s_end`, s_e = s_start · (s_end / s_start)^(e/E). In
epoch 0 there are no losses to go by: it is a pass over the data. Losses are those of training batches, before the step.
The order is that of the last sort: a new one is due once `sort_period` instances have been evaluated. Once
`recompute_every` · N were trained on, the losses of the first `recompute_ratio` of the order are computed anew, by
forward passes.

Source: Loshchilov and Hutter, "Online Batch Selection for Faster Training of Neural Networks" (2015, arXiv:1511.06343),
after the script that is known as theirs, a Lasagne one for MNIST; the thesis compares itself with its scenario 9, the
defaults: s = 10⁸ from start to end, everything computed anew every 2 epochs, which the script has as a frequency
of 0.5. Its draws are independent, `points="independent"` and the preset; by default they are spread evenly.

Cost per step: No extra forward pass but for N every `recompute_every` epochs, half a pass of the data per epoch by
default. Draw and update: O(√(N · batch)), a millisecond or two with a million instances; nothing sorts all of them
(`benchmarks/online_batch_selection.py`); 33 bytes of memory per instance.

Verified: All of the above in the script, line by line. The paper's text could not be read, nor could it be verified
that the script is the authors' own. The script weights the losses of a batch by the mean of its p over p_i, which the
ports of it do not: `reweight`. Departures: the recomputation is in evaluation mode, where the script has dropout on and
batch statistics; equal losses are ordered by instance, there by the sort's whim; unseen ones have the loss ∞, there
10¹⁰; an epoch is a fixed number of whole batches; the batch size stays. With s = 1 this draws uniformly with
replacement, where the script shuffles, and learns no losses: for that, use :class:`Uniform`.

When to use it: Most instances are soon easy, and ranks are stable from one epoch to the next.

When not: Noisy labels stay at the top of the order and are drawn again and again; a module whose loss must stay the
uniform mean.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.points import Kind, Points
from lightning_as.core.ranking import Ranking
from lightning_as.core.state import require, require_indices
from lightning_as.strategies.base import Strategy
from lightning_as.strategies.scores import Scores

FirstPass = Literal["sequential", "shuffled"]


class OnlineBatchSelection(Strategy):
    """Instances by the rank of their last loss, with an exponential distribution over the ranks.

    Args:
        s_start: Selection pressure at the first epoch, at least 1. Default: 1e8, the thesis; the script also has 1e2.
        s_end: Selection pressure that the last epoch comes near, at least 1. Default: 1e8, the thesis; the script also
            has 1.01.
        sort_period: Instances that are evaluated between two sorts, at least 1. Default: 100, the script.
        recompute_every: Epochs, in passes of N trained instances, between two recomputations of the losses by forward
            passes; 0 for never. Default: 2, the thesis and the script, which has the inverse, 0.5.
        recompute_ratio: Which part of the instances is recomputed, those with the largest losses, in (0, 1]. Default:
            1, the thesis and the script.
        reweight: Weight each loss by the mean of the batch's probabilities over its own, as the script does. With a
            pressure of 1e8 the weights of a batch may span eight orders. Default: False, as in its ports.
        first_pass: Epoch 0. ``"sequential"``: in the data set's order, as the script, whose data is shuffled.
            ``"shuffled"``: for data that is sorted, by class for example. Default: ``"sequential"``.
        points: As in :class:`AdaptiveSampling`, after epoch 0; the script's are independent. Default: ``"strata"``.

    Raises:
        TypeError: If `sort_period` is not an integer.
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        s_start: float = 1e8,
        s_end: float = 1e8,
        sort_period: int = 100,
        recompute_every: float = 2.0,
        recompute_ratio: float = 1.0,
        reweight: bool = False,
        first_pass: FirstPass = "sequential",
        points: Kind = "strata",
    ) -> None:
        for name, pressure in (("s_start", s_start), ("s_end", s_end)):
            if not 1 <= pressure < math.inf:
                raise ValueError(f"`{name}` must be a finite selection pressure of at least 1, got {pressure}.")
        check_integer("sort_period", sort_period, unit="instances")
        if not 0 <= recompute_every < math.inf:
            raise ValueError(f"`recompute_every` must be a number of epochs, or 0 for never, got {recompute_every}.")
        if not 0 < recompute_ratio <= 1:
            raise ValueError(
                f"`recompute_ratio` must be in (0, 1], got {recompute_ratio}: for none, use `recompute_every=0`."
            )
        check_choice("first_pass", first_pass, get_args(FirstPass))
        check_choice("points", points, get_args(Kind))
        self.s_start = s_start
        self.s_end = s_end
        self.sort_period = sort_period
        self.recompute_every = recompute_every
        self.recompute_ratio = recompute_ratio
        self.reweight = reweight
        self.weighted = reweight
        self.first_pass: FirstPass = first_pass
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._size = len(bins)
        self._ranking = Ranking(self._size)  # by the losses as they were at the last sort
        self._updates: list[tuple[Tensor, Tensor]] = []  # instances and losses since
        self._since_sort = 2 * self.sort_period  # so that the first epoch with ranks begins with a sort
        self._evaluated = 0  # instances, by training
        self._recomputed_at = 0  # what that was at the last recomputation
        self._shuffled = torch.empty(0, dtype=torch.int64, device="cpu")
        self._position = 0
        self._points = Points(self._size, self.points)

    def schedule(self) -> tuple[str, str] | None:
        if self.s_start == self.s_end:
            return None
        return f"The selection pressure from `s_start` = {self.s_start} to `s_end` = {self.s_end}", "set both equal"

    def start_epoch(self, generator: torch.Generator) -> None:
        super().start_epoch(generator)
        if self.progress.epoch == 0:  # a pass over the data, which brings all losses up to date
            self._position = 0
        first = self.progress.epoch == 0 and self.first_pass == "shuffled"
        self._shuffled = torch.randperm(self._size if first else 0, generator=generator, device="cpu")

    @property
    def selection_pressure(self) -> float:
        """The selection pressure s of the present epoch."""
        epochs = self.progress.epochs
        done = min(1.0, self.progress.epoch / epochs) if epochs else 0.0
        return self.s_start * (self.s_end / self.s_start) ** done

    @torch.inference_mode()
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        if self.progress.epoch == 0:
            return self._draw_first_pass(size)
        if self._since_sort >= self.sort_period:
            self._since_sort = 0
            _apply(self._updates, self._ranking)
            self._updates = []
        ranks = self._ranks(self._points.take(size, generator))
        indices, probabilities = self._ranking.at(ranks), self._probabilities(ranks)
        weights = probabilities.mean() / probabilities if self.reweight else None
        return Draw(indices, self.bins.of(indices), probabilities, weights=weights)

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if len(losses):
            self._updates.append((draw.indices, losses))
        self._since_sort += len(losses)
        self._evaluated += len(losses)

    @property
    def scoring(self) -> bool:
        return self.recompute_every > 0

    def wanted(self) -> Tensor | None:
        due = self._evaluated - self._recomputed_at > self._size * self.recompute_every
        if not due or self.recompute_every == 0:
            return None
        return self._ranking.at(torch.arange(max(1, int(self._size * self.recompute_ratio)), device="cpu"))

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.losses is not None, "they are what this strategy reads"
        finite = scores.losses.isfinite()
        self._note_skipped(len(finite) - int(finite.sum()))
        self._updates.append((indices[finite], scores.losses[finite]))
        self._recomputed_at = self._evaluated

    def probabilities(self) -> Tensor:
        """The present distribution over all instances, in the data set's order, (N,) float64. O(N log N)."""
        if self.progress.epoch == 0:
            return self._uniform(self._size)
        # In a ranking of its own: to be looked at must not change when the next sort is due.
        ranking = Ranking(self._size)
        ranking.load(self._ranking.values)
        if self._since_sort >= self.sort_period:
            _apply(self._updates, ranking)
        probabilities = torch.empty(self._size, dtype=torch.float64, device="cpu")
        probabilities[ranking.order()] = self._probabilities(torch.arange(self._size, device="cpu"))
        return probabilities

    def metrics(self) -> dict[str, float]:
        """The selection pressure, and how long ago the losses were recomputed (epochs)."""
        age = (self._evaluated - self._recomputed_at) / self._size
        return {"selection_pressure": self.selection_pressure, "recomputed_ago": age}

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": self._ranking.values.clone(),
            "updated": torch.cat([self._shuffled[:0], *(indices for indices, _ in self._updates)]),
            "updates": torch.cat([self._ranking.values[:0], *(losses for _, losses in self._updates)]),
            "since_sort": self._since_sort,
            "evaluated": self._evaluated,
            "recomputed_at": self._recomputed_at,
            "shuffled": self._shuffled.clone(),
            "position": self._position,
            "drawn": self._points.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("updated", "shuffled"):
            require_indices(name, state[name], self._size)
        require(len(state["updated"]) == len(state["updates"]), "`updates` are not one for each of `updated`")
        self._ranking.load(state["losses"])
        self._updates = [(state["updated"].clone(), state["updates"].clone())]
        self._since_sort = state["since_sort"]
        self._evaluated, self._recomputed_at = state["evaluated"], state["recomputed_at"]
        self._position, self._shuffled = state["position"], state["shuffled"].clone()
        self._points.load_state_dict(state["drawn"])

    def _draw_first_pass(self, size: int) -> Draw:
        """What is next of the pass, and from its beginning again where it ends."""
        indices = torch.arange(self._position, self._position + size, device="cpu") % self._size
        self._position = (self._position + size) % self._size
        if len(self._shuffled):
            indices = self._shuffled.index_select(0, indices)
        draw = self._drawn_uniformly(indices)
        return draw._replace(weights=torch.ones_like(draw.probabilities)) if self.reweight else draw

    def _ranks(self, uniforms: Tensor) -> Tensor:
        """The smallest rank, from 0, whose cumulative probability exceeds the uniform."""
        logarithm = math.log(self.selection_pressure)
        if logarithm == 0:
            ranks = uniforms * self._size
        else:
            ranks = torch.log1p(uniforms * math.expm1(-logarithm)) * (-self._size / logarithm)
        return ranks.long().clamp_(max=self._size - 1)

    def _probabilities(self, ranks: Tensor) -> Tensor:
        """The probabilities of ranks, which count from 0."""
        logarithm = math.log(self.selection_pressure)
        if logarithm == 0:
            return self._uniform(len(ranks))
        first = math.expm1(-logarithm / self._size) / math.expm1(-logarithm)
        return torch.exp(ranks.double() * (-logarithm / self._size)).mul_(first)


def _apply(updates: list[tuple[Tensor, Tensor]], ranking: Ranking) -> None:
    """Sort by what has been evaluated since the last sort; of several losses of an instance the last counts."""
    if updates:
        indices, losses = (torch.cat(column) for column in zip(*updates, strict=True))
        ranking.set(indices, losses)
