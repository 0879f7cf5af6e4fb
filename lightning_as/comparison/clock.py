"""How long the steps of a fit take, without its validations."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_STRETCHES = 5
_WARM_UP = 10  # steps at most that are left out at the beginning, where memory is found and kernels are chosen


class Clock(Callback):
    """Reads the time after each step. It must be the last of the Trainer's callbacks, and :attr:`beginning` the first.

    A step is all that comes between two batches: loading, drawing, training, what the callbacks do after it. What comes
    between the last batch before a validation and the end of that validation is left out.

    The time is that of the wall; but where a single thread does all the work, on a CPU and without loader processes,
    that of the processor, on which it does not show what else the machine has to do.

    Args:
        on_step: Called after each step. Default: nothing is.
    """

    def __init__(self, on_step: Callable[[], Any] | None = None) -> None:
        self._on_step = on_step
        self._now = time.perf_counter
        self._marks = array("d")  # seconds of training, after each step
        self._zero = 0.0  # moved on by what does not count
        self._begun = False
        self._last = 0.0
        self.start_seconds = 0.0
        """From the beginning of the training to its first step: what a strategy does before it can draw."""
        self.beginning: Callback = _Beginning(self)
        """Starts the clock."""

    @property
    def steps(self) -> int:
        """Number of batches that were trained on."""
        return len(self._marks)

    def step_seconds(self) -> float:
        """Seconds for a step: the median of the means over five equal stretches of the fit, after a warm-up.

        What disturbs the machine now and then is left out so, and what a method does once in an epoch is counted.
        """
        return step_seconds(self._marks)

    def begin(self, trainer: Trainer) -> None:
        """Start."""
        processes = getattr(trainer.train_dataloader, "num_workers", 0)
        if trainer.strategy.root_device.type == "cpu" and torch.get_num_threads() == 1 and processes == 0:
            self._now = time.process_time
        self._zero = self._last = self._now()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._begun:
            now = self._now()
            self.start_seconds, self._zero, self._begun = now - self._zero, now, True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._last = self._now()
        self._marks.append(self._last - self._zero)
        if self._on_step is not None:
            self._on_step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._begun:  # and no check before it
            now = self._now()
            self._zero, self._last = self._zero + now - self._last, now


class _Beginning(Callback):
    """Starts a clock before any other callback does anything."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock.begin(trainer)


def step_seconds(marks: array[float]) -> float:
    """As :meth:`Clock.step_seconds`, of the seconds after each step, (n,), of which there is one at least."""
    count = len(marks)
    first = min(_WARM_UP, count // 10)
    stretches = min(_STRETCHES, count - 1 - first)
    if stretches < 1:
        return marks[-1] / count
    borders = [first + (count - 1 - first) * part // stretches for part in range(stretches + 1)]
    return statistics.median((marks[end] - marks[begin]) / (end - begin) for begin, end in pairwise(borders))
