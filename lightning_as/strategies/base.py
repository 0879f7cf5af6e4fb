"""What the sampler and the callback ask of a selective-sampling method.

There are two kinds. An *index sampler*, :class:`Strategy`, decides which instances are loaded. A *batch selector*,
:class:`lightning_as.strategies.batch_selector.BatchSelector`, has a larger candidate batch loaded, has it scored by a
forward pass, and trains on a part.

A method has to say how it draws, what its distribution is and what its state is; all else has a default.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.chunk_order import ChunkOrder
from lightning_as.core.draw import Draw
from lightning_as.core.progress import Progress
from lightning_as.core.record import Record
from lightning_as.strategies._parts import check_parts
from lightning_as.strategies.scores import Reading, Scores

_logger = logging.getLogger(__name__)

# What is learned from stays below, so that no sum over a data set overflows.
LARGEST = 1e100


class Strategy(ABC):
    """An index sampler: a distribution over the instances of a data set that training moves.

    The constructor takes and checks the options; :meth:`start` makes the state. One object serves one
    sampler: started again, it begins anew.
    """

    reads: frozenset[Reading] = frozenset({"losses"})
    """What it wants to know: of trained batches ``losses`` and one kind of bounds, of the forward passes that it asks
    for by :meth:`wanted` any of the :class:`Scores`. It may become less in :meth:`start`. Default: the losses."""
    knows_probabilities: bool = True
    """Whether the probabilities of its draws are those of what is trained on, as unbiased weights need them. Default:
    True, but False of a :class:`BatchSelector`."""
    weighted: bool = False
    """Whether its source weights the losses, so that its draws have weights. Default: False."""
    samples_by_loss: bool = False
    """Whether it draws by losses in a way for which they must not be negative. Default: False."""
    any_device: bool = False
    """Whether it can keep its state where the model is trained, and draw there, without the CPU waiting for either.
    Default: False."""
    by_chunks: bool = False
    """Whether it can draw from a few chunks of the data at a time (:mod:`lightning_as.core.chunk_points`). Default:
    False."""

    by_shards: bool = False
    """Whether it can work on a part of the data, of which each process has one (:mod:`lightning_as.core.shards`), and
    what it has learnt of parts can be put together for others. Default: False."""

    processes: int = 1
    """How many processes share a batch. Whoever draws says it. Default: 1."""
    progress: Progress
    """How far the training has come. Whoever draws keeps it up to date, and saves it."""
    record: Record | None = None
    """What training has shown of each instance. Whoever trains keeps it up, and saves it; None if nobody asks."""
    _recording: bool = False
    _bins: Bins | None = None
    _skipped: int = 0
    _unusable: Tensor | None = None

    @property
    def bins(self) -> Bins:
        """The partition of the data set at work.

        Raises:
            RuntimeError: Before :meth:`start`.
        """
        if self._bins is None:
            raise RuntimeError(f"{type(self).__name__} has no bins before it is started: call `start(bins)`.")
        return self._bins

    @abstractmethod
    def start(self, bins: Bins) -> None:
        """Make the initial state for a data set that is partitioned into `bins`; extend this.

        Raises:
            ValueError: If the data lie in chunks, and it draws from all of them at a time; or likewise of shards.
        """
        check_parts(type(self).__name__, bins, self.by_chunks, self.by_shards)
        self._bins = bins
        self._skipped = 0
        self._unusable = None
        self.progress = Progress()
        self.record = Record(len(bins), bins.device) if self._recording else None

    def keep_record(self, kept: bool) -> None:
        """Keep a record of the instances, empty at first, from now on and whenever it is started; or have none."""
        if kept != self._recording:
            self._recording = kept
            self.record = Record(len(self._bins), self._bins.device) if kept and self._bins is not None else None

    def work_on(self, bins: Bins) -> None:
        """Start, unless it is at work on these bins already. On a copy of them on another device it goes on."""
        if self._bins is bins:
            return
        if self._bins is None or not self._bins.is_copy_of(bins):
            self.start_anew(bins)
            return
        state, skipped, progress, record = self.state_dict(), self.skipped, self.progress, self.record
        self.start(bins)
        self.load_state_dict(state)
        self.skipped, self.progress = skipped, progress
        self.record = None if record is None else record.to(bins.device)

    def start_anew(self, bins: Bins) -> None:
        """Start; if that is refused, it is as if it had not been started before."""
        try:
            self.start(bins)
        except Exception:
            self._bins = None
            raise

    def fresh(self) -> Strategy:
        """A copy that has learned nothing yet, on the same bins, in the same training."""
        copied = copy(self)
        copied.start(self.bins)
        copied.progress = copy(self.progress)
        return copied

    def plan(self, total: int | None, epoch: int) -> None:
        """Be told the length of the training, after :meth:`start` and before the first draw of each epoch.

        Args:
            total: Number of batches in all, counted from the very first; None if there is no end in sight.
            epoch: Number of batches in an epoch. The last epoch may be cut short.

        Raises:
            ValueError: If there is no end in sight, and a :meth:`schedule` depends on it.
        """
        if total is None and (schedule := self.schedule()) is not None:
            what, instead = schedule
            raise ValueError(
                f"{what} goes by the share of the training that is done, but the training has no end: give the Trainer "
                f"`max_epochs` or `max_steps`, or {instead}."
            )
        self.progress.plan(total, epoch)

    def schedule(self) -> tuple[str, str] | None:
        """What depends on the length of the training, and what to use without one, for a message.

        Returns:
            Both as parts of a sentence. Default: None, nothing depends on it.
        """
        return None

    def start_epoch(self, generator: torch.Generator) -> None:
        """Begin an epoch: called before its first draw; extend this. In epoch 0 a schedule begins again."""
        self.progress.start_epoch()

    @abstractmethod
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        """Draw a batch of `size` instances from the present distribution. `generator` is of the CPU."""

    @property
    def skipped(self) -> int:
        """Losses and bounds that were not finite; off the CPU also losses that were negative and must not be."""
        if self._unusable is not None:  # found on another device, and not looked at yet
            count, self._unusable = int(self._unusable), None
            self._note_skipped(count)
        return self._skipped

    @skipped.setter
    def skipped(self, count: int) -> None:
        self._skipped, self._unusable = count, None

    # Inference mode spares a fifth of the time that a few dozen small operations take.
    @torch.inference_mode()
    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        """Learn from a batch that has been trained on. Losses and bounds that are not finite are left out, and counted.

        Args:
            draw: The batch, as it was drawn.
            losses: Its losses, (B,) float64, where the draw is.
            bounds: Its squared gradient bounds, (B,) float64; zeros if they are not among :attr:`reads`.

        Raises:
            ValueError: If a loss is negative, and the method needs them not to be. Off the CPU it counts as one that is
                not finite instead, since nobody looks.
        """
        if self.any_device and not self.bins.on_host:
            self.learn(draw, *self._usable(losses, bounds))
            return
        values = losses.tolist()  # a third of the time of looking with torch; NaN and infinity show in the sum
        if not (min(values, default=0) >= 0 and sum(values) < LARGEST and sum(bounds.tolist()) < LARGEST):
            finite = (losses.isfinite() & bounds.isfinite()).nonzero()[:, 0]
            self._note_skipped(len(losses) - len(finite))
            draw = draw.select(finite)
            losses, bounds = (part[finite].clamp_(-LARGEST, LARGEST) for part in (losses, bounds))
            if self.samples_by_loss and len(losses) and float(losses.min()) < 0:
                raise ValueError(
                    f"`losses` must not be negative to sample by them, got {float(losses.min())}: add a constant, so "
                    "that the least that they can be is 0; or use a strategy that goes by ranks or gradients, such as "
                    "OnlineBatchSelection() or AdaptiveSampling(score='gradient')."
                )
        self.learn(draw, losses, bounds)

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:  # noqa: B027 (some learn nothing)
        """Learn from the part of a batch that is finite, which may be empty. Default: nothing is learned.

        Off the CPU, for methods of :attr:`any_device`, it is given the whole batch, with NaN for what is not finite.

        Args:
            draw: The batch, or that part of it, as it was drawn.
            losses: As of :meth:`update`.
            bounds: As of :meth:`update`.
        """

    def wanted(self) -> Tensor | None:
        """Instances to be scored before the next draw, by a forward pass in evaluation mode, (M,) int64.

        Asked before each epoch and after each batch. The answer comes to :meth:`refresh`. Default: None, no instances.
        """
        return None

    @property
    def scoring(self) -> bool:
        """Whether it may ever ask for scores, which is then tried before training; extend this with its options."""
        return type(self).wanted is not Strategy.wanted

    def refresh(self, indices: Tensor, scores: Scores) -> None:  # noqa: B027 (most want none)
        """Take over the scores of the instances that were :meth:`wanted`."""

    def validated(self, metrics: dict[str, float]) -> None:  # noqa: B027 (most do not listen)
        """Be told what a validation in the training found: everything that was logged so far, by name."""

    @abstractmethod
    def probabilities(self) -> Tensor:
        """The present distribution over all instances, in the data set's order, (N,) float64. O(N)."""

    @property
    def bin_probabilities(self) -> Tensor:
        """P: the probability that a place of a batch goes to a bin, (k,) float64. O(N), unless a method has it."""
        return torch.bincount(self.bins.tags, self.probabilities(), len(self.bins.sizes))

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, ints and strings; copies, not views."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, after :meth:`start` with the same bins."""

    def portable(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the shard at work that can be cut: rows in the order of the instances. Default: as it is."""
        return state

    def recut(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state made of parts of :meth:`portable` ones, as the shard at work has it. Default: as it is."""
        return state

    @property
    def chunk_order(self) -> ChunkOrder | None:
        """The order in which it opens the chunks that the data lie in. Default: None, it does not go by chunks."""
        return None

    def metrics(self) -> dict[str, float]:
        """Figures that describe the present distribution, for the logger. Default: none."""
        return {}

    def _uniform(self, count: int) -> Tensor:
        """1/N, as the probability of each of `count` instances: (count,) float64."""
        return torch.full((count,), 1 / len(self.bins), dtype=torch.float64, device=self.bins.device)

    def _drawn_uniformly(self, indices: Tensor) -> Draw:
        """The draw of these instances, (B,) int64, each of which had the probability 1/N."""
        return Draw(indices, self.bins.of(indices), self._uniform(len(indices)))

    def _usable(self, losses: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
        """The same with NaN for both where one is of no use; these are counted, without looking."""
        usable = losses.isfinite() & bounds.isfinite()
        if self.samples_by_loss:
            usable &= losses >= 0
        unusable = (~usable).sum()
        self._unusable = unusable if self._unusable is None else self._unusable + unusable
        losses, bounds = (torch.where(usable, part.clamp(-LARGEST, LARGEST), math.nan) for part in (losses, bounds))
        return losses, bounds

    def _note_skipped(self, count: int) -> None:
        if count and self._skipped == 0:
            _logger.warning(
                "%d losses are not finite (or negative, on a GPU): their instances keep the scores they had. "
                "Further ones are counted as `adaptive/skipped`, without a warning.",
                count,
            )
        self._skipped += count
