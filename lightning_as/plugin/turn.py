"""Who asks the train loader for batches: the fit, or somebody who looks at it from a hook."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


class Turn:
    """Tells whether it is the fit's turn to ask for the first batch of an epoch, from Lightning's public counts.

    The callback says when training and an epoch begin. Between them and the first batch run the same hooks of other
    callbacks and of the module, after which Lightning counts the epoch as started, unless the fit is resumed amid one.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._turn: tuple[int, int] | None = None  # epochs started and processed when it is the fit's turn

    def begin(self) -> None:
        """Note that training begins. Amid an epoch that is resumed, no other hook is called."""
        self._turn = self._epochs() if self._trainer.fit_loop.restarting else None

    def begin_epoch(self) -> None:
        """Note that an epoch begins."""
        started, processed = self._epochs()
        self._turn = started + 1, processed

    def __call__(self) -> bool:
        """Whether who asks for a first batch now is the fit. An epoch has one."""
        loop = self._trainer.fit_loop.epoch_loop
        batches = loop.batch_progress.current
        taken = (
            self._trainer.training
            and self._turn == self._epochs()
            and batches.ready == batches.completed  # no batch is being trained on
            and not loop.val_loop.restarting  # which is over right before the first batch
        )
        if taken:
            self._turn = None
        return taken

    def _epochs(self) -> tuple[int, int]:
        """Number of epochs started, and processed."""
        epochs: Any = self._trainer.fit_loop.epoch_progress.current
        return epochs.started, epochs.processed
