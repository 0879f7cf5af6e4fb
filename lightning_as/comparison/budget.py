"""How long a run is: as the Trainer's options have it, or a share of that."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Budget = Literal["steps", "time"]
"""What two runs have in common: the number of steps, or the seconds that they take."""

Times = tuple[float, float]
"""Seconds of a run: before its first step, and for all of its steps."""

NOISE = 0.01
"""Budgets that differ by a smaller share count as the same: no clock tells them apart."""


class Length(NamedTuple):
    """What ends a training, in batches. A step is a batch that is trained on."""

    total: int
    """Number of steps in all."""
    epoch: int
    """Number of batches in an epoch."""
    epochs: int
    """The Trainer's `max_epochs`; -1 for no end."""
    max_steps: int
    """The Trainer's `max_steps`, of the optimizer; -1 for no end."""

    def scaled(self, share: float) -> dict[str, Any]:
        """Options of a Trainer that trains for a share of this length.

        Where epochs end the training, there are as many as before, each of them shorter, so that what goes by epochs,
        such as a learning-rate schedule of so many, ends when it did. Where that is too coarse for epochs of a few
        batches, there are up to a tenth more or fewer. `estimated_stepping_batches` follows in any case.

        Args:
            share: Of the steps, in (0, 1].
        """
        if self._ends_by_steps:
            return {"max_steps": max(1, round(share * self.max_steps))}
        epochs, epoch = _divided(max(1, round(share * self.total)), self.epochs, self.epoch)
        return {"max_epochs": epochs, "limit_train_batches": epoch}

    @property
    def _ends_by_steps(self) -> bool:
        return self.epochs < 0 or self.epochs * self.epoch > self.total


def equal_time_share(uniform: Sequence[Times], other: Sequence[Times], steps: int) -> float:
    """The share of the steps for which a strategy takes the time that uniform sampling takes for all of them.

    It is the median over the seeds, since the clock of a single run shows what else the machine had to do.

    Args:
        uniform: Of uniform sampling, seed by seed.
        other: Of the strategy, for the same seeds.
        steps: How many steps these were.

    Returns:
        The share, of one step at least and never more than 1, though the steps of a strategy may be shorter; and 1
        where it is so by less than :data:`NOISE`.
    """
    shares = [
        (start + all_steps - own) / its_steps
        for (start, all_steps), (own, its_steps) in zip(uniform, other, strict=True)
    ]
    share = max(statistics.median(shares), 1 / steps)
    return 1.0 if share > 1 - NOISE else share


def _divided(steps: int, epochs: int, longest: int) -> tuple[int, int]:
    """Number and length of epochs that together have about so many steps: the same number if that comes close."""
    counts = range(math.ceil(max(0.9 * epochs, steps / longest)), math.floor(1.1 * epochs) + 1)
    found = [(count, min(longest, round(steps / count))) for count in counts if count <= steps] or [(steps, 1)]
    return min(found, key=lambda one: (max(abs(one[0] * one[1] - steps), NOISE * steps), abs(one[0] - epochs)))
