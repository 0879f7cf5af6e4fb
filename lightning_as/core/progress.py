"""How far a training has come, as a strategy sees it that has a schedule."""

from __future__ import annotations

import math


class Progress:
    """Counts epochs that were started, and batches drawn within the present one, against the training's length.

    Epochs count as whole ones, so that neither an epoch that is cut short nor batches that were drawn ahead and thrown
    away move a schedule.

    Example:
        >>> progress = Progress()
        >>> progress.plan(10, 5)
        >>> for _ in range(2):
        ...     progress.start_epoch()
        >>> progress.step()
        >>> progress.epoch, progress.batch, progress.done, progress.share
        (1, 1, 6, 0.6)
    """

    def __init__(self) -> None:
        self.total: int | None = None
        """Number of batches of the training in all, None if there is no end in sight."""
        self.per_epoch = 1
        """Number of batches in an epoch."""
        self.reset()

    def reset(self) -> None:
        """Back to the first batch, of a training of the same length."""
        self._started = 0
        self._batch = 0

    def plan(self, total: int | None, epoch: int) -> None:
        """Be told the number of batches of the training in all, None for no end in sight, and of an epoch."""
        self.total, self.per_epoch = total, max(epoch, 1)

    def start_epoch(self) -> None:
        """Note that an epoch begins."""
        self._started += 1
        self._batch = 0

    def step(self) -> None:
        """Note that a batch was drawn."""
        self._batch += 1

    @property
    def epoch(self) -> int:
        """Number of the present epoch, from 0; 0 before the first as well."""
        return max(self._started - 1, 0)

    @property
    def epochs(self) -> int | None:
        """Number of epochs in all, the last of which may be cut short; None if there is no end in sight."""
        return None if self.total is None else math.ceil(self.total / self.per_epoch)

    @property
    def batch(self) -> int:
        """Batches of the present epoch that were drawn."""
        return self._batch

    @property
    def done(self) -> int:
        """Batches of the training that came before the one that is drawn next."""
        return self.epoch * self.per_epoch + self._batch

    @property
    def share(self) -> float:
        """Share of the training that is done, in [0, 1]; 0 if there is no end in sight."""
        return 0.0 if self.total is None else min(1.0, self.done / max(self.total, 1))

    def state_dict(self) -> dict[str, int]:
        """The counts; the plan is told anew."""
        return {"epochs": self._started, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over a state."""
        self._started, self._batch = state["epochs"], state["batch"]
