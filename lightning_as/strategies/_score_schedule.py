"""What an instance is scored by, loss, gradient norm or closeness, and when the score changes in a training.

With v = exp(−l), under cross-entropy the probability of the given label, the scores are

    loss: l,        gradient: √Ĝ,        closeness: (1 − v) v^γ.

Closeness is the gradient norm of the generalised cross-entropy (1 − v^γ)/γ with respect to the margin of the label: it
is small for what is learned, and small again for what is hopeless, such as a wrong label. With γ = 0 it is 1 − v, with
γ = 1 the v (1 − v) of Active Bias.

To change the score is what the thesis leaves to future work: loss first, gradient norm later. When it does, the scores
of all seen instances are made anew from their last losses and bounds, as if the new score had been in force from the
start; without that, losses and gradient norms would be added up in one Z. The distribution does not jump: an instance
moves when it is drawn.

Source: Avalos, master's thesis (2021), chapter 5 and annex D, section 6. Zhang and Sabuncu, "Generalized Cross Entropy
Loss for Training Deep Neural Networks with Noisy Labels" (NeurIPS 2018), whose q is γ here; Chang, Learned-Miller and
McCallum, "Active Bias" (NeurIPS 2017).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, importance_weights
from lightning_as.core.progress import Progress
from lightning_as.core.state import require
from lightning_as.core.tree_in_bins import last_occurrence

Score = Literal["loss", "gradient", "closeness"]
Scoring: TypeAlias = Score | list[Score] | dict[float, Score]
"""One score for all the training; several, of which the next comes with a signal; or the share of the training at which
each begins."""

_FALL = 0.1  # by less than this share of itself a training loss has stopped to fall


def closeness(losses: Tensor, gamma: float) -> Tensor:
    """(1 − v) v^γ with v = exp(−l), for losses l ≥ 0 of any shape."""
    return torch.expm1(-losses).neg_().mul_(torch.exp(-gamma * losses))


def check_scoring(score: Scoring) -> tuple[Score, ...]:
    """The scores that an option names, in their order.

    Raises:
        TypeError: If a share is no number.
        ValueError: If there is none, one is not known, or the shares do not begin at 0 and end below 1.
    """
    if isinstance(score, dict):
        starts = _starts(score)
        if min(starts, default=1) != 0 or not all(0 <= start < 1 for start in starts):
            raise ValueError(
                "`score` must map shares of the training, from 0 and below 1, to scores, such as "
                f"{{0: 'loss', 0.5: 'gradient'}}; got {score!r}."
            )
        scores = tuple(starts.values())
    else:
        scores = tuple(score) if isinstance(score, list) else (score,)
    if not scores:
        raise ValueError("`score` must name at least one score, got an empty list.")
    for one in scores:
        check_choice("score", one, get_args(Score))
    return scores


class ScoreSchedule:
    """The score in force, and if it may change, the last loss and bound of each instance, 16 bytes.

    A dict says at which shares of the training a score begins. In a list the next score begins with the epoch after one
    whose mean training loss is not at least a tenth below that of the epoch before, both under the present score: its
    draws no longer help much. This mean is estimated from what was trained on, without bias, as the mean of l / (N r),
    which a floor keeps from being noisy. A GPU is waited for as an epoch begins, to look at it, and at a change.

    Args:
        score: As of :data:`Scoring`.
        gamma: γ of closeness.
        bins: The partition of the data set.
        rescores: Whether the last losses and bounds are kept, to score all anew at a change. Default: True.

    Raises:
        TypeError: As of :func:`check_scoring`.
        ValueError: As of :func:`check_scoring`.
    """

    def __init__(self, score: Scoring, gamma: float, bins: Bins, rescores: bool = True) -> None:
        self._scores = check_scoring(score)
        self._starts = sorted(_starts(score)) if isinstance(score, dict) else None
        if bins.shard is not None and self._starts is None and self.changes:
            raise ValueError(
                f"`score={score!r}` changes by the mean loss of what is drawn, but with `sharded=True` each process "
                "knows that of its own part: give the shares of the training at which a score begins, as a dict."
            )
        self._score = score
        self._gamma = gamma
        self._size = len(bins)
        self._stage = 0
        self._batches = 0  # that were learned from in this epoch: those drawn may be some more
        # Of this epoch Σ l/(N r) and their number; the mean of the one before, -1 if it was under another score.
        self._nothing = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64, device=bins.device)
        self._epoch = self._nothing.clone()
        self._last = torch.zeros(
            len(bins) if self.changes and rescores else 0, 2, dtype=torch.float64, device=bins.device
        )

    @property
    def changes(self) -> bool:
        """Whether there is more than one score."""
        return len(self._scores) > 1

    @property
    def present(self) -> Score:
        """The score in force."""
        return self._scores[self._stage]

    def scores(self, losses: Tensor, bounds: Tensor) -> Tensor:
        """The score in force of instances with these losses and squared gradient bounds, (B,) float64 all."""
        if self.present == "loss":
            return losses
        return bounds.sqrt() if self.present == "gradient" else closeness(losses, self._gamma)

    def needs_end(self) -> tuple[str, str] | None:
        """What :meth:`Strategy.schedule` says of it."""
        if self._starts is None or not self.changes:
            return None
        return f"`score={self._score}`", "name the scores in a list, of which the next one comes with a signal"

    def metrics(self) -> dict[str, float]:
        """The number of the score in force, if it may change."""
        return {"score": float(self._stage)} if self.changes else {}

    def begin_epoch(self, progress: Progress) -> Tensor | None:
        """Note that an epoch begins, of which `progress` knows.

        Returns:
            As of :meth:`learn`.
        """
        self._batches = 0
        if self._starts is not None:
            return self._go_to(self._stage_at(progress))
        if not self.changes:
            return None
        if progress.epoch == 0:  # of another training
            self._epoch.copy_(self._nothing)
            return self._go_to(0)
        return self._go_to(min(self._stage + self._has_stopped(), len(self._scores) - 1))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor, progress: Progress) -> Tensor | None:
        """Note a batch that was trained on; off the CPU with NaN for what is not known.

        Returns:
            If the score has changed with it, the new one of every instance, in the data set's order, (N,) float64; of
            no meaning where an instance has not been seen. Otherwise None.
        """
        self._batches += 1
        if not self.changes:
            return None
        known = losses.isfinite()
        if len(self._last):
            last = last_occurrence(draw.indices, known)
            values = torch.stack([losses, bounds], dim=1).index_select(0, last)
            there = known.index_select(0, last).unsqueeze(1)
            values = torch.where(there, values, self._last.index_select(0, draw.indices))
            self._last.index_copy_(0, draw.indices, values)
        if self._starts is not None:
            return self._go_to(self._stage_at(progress))
        weighted = losses * importance_weights(draw.probabilities, self._size)
        self._epoch[0] += weighted.nansum()
        self._epoch[1] += known.sum()
        return None

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU, and ints; nothing if there is but one score."""
        if not self.changes:
            return {}
        named = list(self._scores) if self._starts is None else dict(zip(self._starts, self._scores, strict=True))
        state = {"score": str(named), "stage": self._stage, "batches": self._batches}
        return {"schedule": state | {"epoch": self._epoch.cpu().clone(), "last": self._last.cpu().clone()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same scores."""
        if not self.changes:
            return
        state = state["schedule"]
        require(state["stage"] < len(self._scores), f"`schedule.stage` is {state['stage']}")
        require((state["last"] >= 0).all(), "`schedule.last` has negative entries")
        self._stage, self._batches = state["stage"], state["batches"]
        self._epoch = state["epoch"].to(self._epoch.device, copy=True)
        self._last = state["last"].to(self._last.device, copy=True)

    def _stage_at(self, progress: Progress) -> int:
        """Number of the score that its share of the training has come to."""
        assert self._starts is not None, "only asked of shares"
        done = progress.epoch * progress.per_epoch + self._batches
        share = 0.0 if progress.total is None else done / max(progress.total, 1)
        return sum(start <= share for start in self._starts) - 1

    def _has_stopped(self) -> bool:
        """Whether the training loss of the epoch that is over is not much below that of the one before."""
        total, count, before = self._epoch.tolist()
        if count == 0:
            return False
        self._epoch[0], self._epoch[1], self._epoch[2] = 0.0, 0.0, total / count
        return 0 <= before * (1 - _FALL) <= total / count

    def _go_to(self, stage: int) -> Tensor | None:
        if stage == self._stage:
            return None
        self._stage = stage
        self._epoch[2] = -1.0
        return self.scores(*self._last.unbind(1)) if len(self._last) else None


def _starts(score: dict[float, Score]) -> dict[float, Score]:
    """The same by ascending shares, which a JSON text has as strings."""
    try:
        return dict(sorted((float(share), one) for share, one in score.items()))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`score` must map shares of the training, such as 0.5, to scores; got {score!r}.") from error
