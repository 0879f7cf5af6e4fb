"""What a training step shows of its batch: what the strategy reads, and more for the record and the figures.

No forward pass is made for the latter: it takes the losses and logits that are at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_as.core.record import BOUND, LABEL, LOSS, OTHER
from lightning_as.losses import CrossEntropy, look_at
from lightning_as.losses.cross_entropy import IGNORED
from lightning_as.losses.entries import is_labelled, rows
from lightning_as.plugin.comparison import refuse_one_logit
from lightning_as.plugin.criterion import SampleLosses
from lightning_as.plugin.rows import Rows
from lightning_as.plugin.targets import class_indices

_FEW = 2**14  # logits that a CPU is soon through with; a judgement, not measured
_MOST = 2**31 - 1  # what the record has for labels ends there


class Observation(NamedTuple):
    """What is known of a batch that was trained on; no tensor has a gradient."""

    losses: Tensor
    """The loss of each instance, (B,); zeros if nobody reads them."""
    bounds: Tensor
    """The squared norm of the gradient of each loss, (B,); zeros if nobody reads them."""
    labels: Tensor | None
    """The targets, (B,) integers; None if they were not asked for, or are no class indices."""
    look: Tensor
    """All that is known of it, (6, B), see :data:`lightning_as.core.record.LOSS`."""


class Looks:
    """Puts together what is known of each sample of a batch.

    Args:
        losses: The loss of each sample, as the callback was given it.
    """

    def __init__(self, losses: SampleLosses) -> None:
        self._losses = losses
        self._fits = True  # whether it takes the logits at hand, which a strategy that reads no losses has never tried

    def brought(self, logits: Tensor | None, targets: object, wanted: bool) -> tuple[Tensor | None, Any]:
        """Logits and targets of a batch; on the CPU, if that is `wanted`, and they are few and of a loss of our own.

        The loops there need less time than a GPU does to be told of some thirty operations.
        """
        if not wanted or logits is None or logits.device.type == "cpu" or not isinstance(targets, Tensor):
            return logits, targets
        if logits.numel() > _FEW or not self._losses.is_ready:
            return logits, targets
        return logits.detach().cpu(), targets.cpu()

    def of(
        self, losses: Tensor | None, bounds: Tensor | None, logits: Tensor | None, targets: object, size: int
    ) -> Tensor:
        """The look at a batch, see :data:`lightning_as.core.record.LOSS`, (6, B).

        Args:
            losses: Its losses, (B,); None if nobody has asked for them, and the step has not shown them.
            bounds: Its squared gradient bounds, (B,); None if nobody has asked for them.
            logits: Its logits, (B, …), if they are at hand.
            targets: Its targets, if they are.
            size: B.
        """
        look, loss = None, self._losses.loss
        if logits is not None and targets is not None and not self._losses.takes_batch:
            if losses is None and self._fits:
                losses = self._try(logits, targets)
            look = look_at(loss, logits, targets, losses)
        if look is None:
            look = _without_logits(losses, class_indices(targets, size), size, _ignored(loss))
        if bounds is not None:
            look[BOUND] = bounds
        elif not _is_plain(loss):
            look[BOUND] = torch.nan
        return look

    def _try(self, logits: Tensor, targets: object) -> Tensor | None:
        """The losses, NaN of what has no class; or None, now and from now on, if the loss is one of something else."""
        try:
            outside = _outside(self._losses.loss, logits, targets)
            if outside is None:
                return self._losses.of_logits(logits, targets)
            targets = outside.numbers.masked_fill(outside.which, _ignored(self._losses.loss))
            return self._losses.of_logits(logits, targets).masked_fill(rows(outside.which).all(1), torch.nan)
        except MisconfigurationException as error:
            self._fits = False
            rank_zero_warn(f"The table of the examples and `adaptive/loss` will know no losses. {error}")
            return None


class _Outside(NamedTuple):
    """Targets, (B, …) int64, and which are neither classes nor ignored, (B, …)."""

    numbers: Tensor
    which: Tensor


def _outside(loss: Callable[..., Any], logits: Tensor, targets: object) -> _Outside | None:
    """The targets that are no classes, as the module's own loss may know; None if it is not a loss of classes.

    On a GPU the training would end over one. They are not looked for, which would be to wait for it.
    """
    if not isinstance(loss, CrossEntropy) or not isinstance(targets, Tensor):
        return None
    try:
        arranged, indices = loss.arrange(logits, targets)
    except (TypeError, ValueError):
        return None  # to be said by the loss itself
    refuse_one_logit(arranged)
    if indices.shape == arranged.shape:
        return None
    numbers = targets.long()
    which = (numbers < 0) | (numbers >= arranged.shape[1])
    return _Outside(numbers, which & is_labelled(targets, loss.ignore_index))


def _without_logits(losses: Tensor | None, labels: Tensor | None, size: int, ignored: int) -> Tensor:
    """A look at a batch of which losses, (B,), and labels, (B,) integers, are known at most."""
    device = next((one.device for one in (losses, labels) if one is not None), torch.device("cpu"))
    wide = torch.float32 if device.type == "mps" else torch.float64
    look = torch.full((6, size), torch.nan, dtype=wide, device=device)
    if losses is not None:
        look[LOSS] = losses
    if labels is not None:
        labels = labels.long()
        unknown = (labels < 0) | (labels >= _MOST) | (labels == ignored)
        look[LABEL] = labels.to(wide).masked_fill(unknown, torch.nan)
    return look


def merged(look: Tensor, rows: Rows) -> Tensor:
    """What is known of the samples, by what their rows have shown: the mean of numbers, the last row's class."""
    if rows.owners is None:
        return look
    return torch.stack([rows.last(part) if at in (LABEL, OTHER) else rows.merge(part) for at, part in enumerate(look)])


def _is_plain(loss: Callable[..., Any]) -> bool:
    """Whether the gradient of a loss is that of the cross-entropy of logits and labels alone."""
    return isinstance(loss, CrossEntropy) and not loss.label_smoothing and loss.class_weights is None


def _ignored(loss: Callable[..., Any]) -> int:
    """The class index that marks what has no label."""
    return loss.ignore_index if isinstance(loss, CrossEntropy) else IGNORED
