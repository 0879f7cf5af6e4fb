"""What a training step shows of its batch: what the strategy reads, and more for the record and the figures.

No forward pass is made for the latter: it takes the losses that are known, and the logits that are at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.core.record import BOUND, LABEL, LOSS, OTHER
from lightning_as.losses import CrossEntropy, look_at
from lightning_as.plugin.criterion import SampleLosses
from lightning_as.plugin.rows import Rows


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

    def of(
        self, losses: Tensor | None, bounds: Tensor | None, logits: Tensor | None, targets: object, size: int
    ) -> Tensor:
        """The look at a batch, see :data:`lightning_as.core.record.LOSS`, (6, B).

        Args:
            losses: Its losses, (B,); None if nobody has asked for them.
            bounds: Its squared gradient bounds, (B,); None likewise.
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
            device = torch.device("cpu") if losses is None else losses.device
            wide = torch.float32 if device.type == "mps" else torch.float64
            look = torch.full((6, size), torch.nan, dtype=wide, device=device)
            if losses is not None:
                look[LOSS] = losses
        if bounds is not None:
            look[BOUND] = bounds
        elif not _is_plain(loss):
            look[BOUND] = torch.nan
        return look

    def _try(self, logits: Tensor, targets: object) -> Tensor | None:
        """The losses, or None, now and from now on, if the loss is one of something else."""
        try:
            return self._losses.of_logits(logits, targets)
        except MisconfigurationException:
            self._fits = False
            return None


def merged(look: Tensor, rows: Rows) -> Tensor:
    """What is known of the samples, by what their rows have shown: the mean of numbers, the last row's class."""
    if rows.owners is None:
        return look
    return torch.stack([rows.last(part) if at in (LABEL, OTHER) else rows.merge(part) for at, part in enumerate(look)])


def _is_plain(loss: Callable[..., Any]) -> bool:
    """Whether the gradient of a loss is that of the cross-entropy of logits and labels alone."""
    return isinstance(loss, CrossEntropy) and not loss.label_smoothing and loss.class_weights is None
