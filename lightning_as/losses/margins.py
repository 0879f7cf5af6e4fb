"""How far the logits of a sample speak for its label: the margin, the probability, and what speaks against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_as.core.execution import loops
from lightning_as.losses.criterion import is_binary
from lightning_as.losses.cross_entropy import CrossEntropy

_FEW = 1024  # classes that a loop on the CPU goes through as fast as torch does


class Margins(NamedTuple):
    """Of samples with one label each; NaN, or −1 of classes, for those without a label."""

    labels: Tensor
    """(B,) int64."""
    others: Tensor
    """The class of the largest logit but the label's, (B,) int64."""
    margins: Tensor
    """The logit of the label minus the largest other one, (B,) float64."""
    confidences: Tensor
    """The probability of the label, (B,) float64."""
    bounds: Tensor
    """The squared norm of the gradient of the cross-entropy with respect to the logits, (B,) float64."""


def margins_of(loss: Callable[..., Any], logits: Tensor, targets: Any) -> Margins | None:
    """The margins of a batch of classification with one label per sample, or None if it is something else.

    Args:
        loss: What the samples' losses are computed by. Of a sigmoid cross-entropy, one logit per sample, 0 is the other
            one; a `CrossEntropy` knows which targets are no labels.
        logits: (B, C), or (B,) or (B, 1) of a sigmoid.
        targets: (B,) or (B, 1): indices of classes, or zeros and ones of any type.
    """
    if not isinstance(targets, Tensor) or targets.numel() != len(logits) or targets.is_complex():
        return None
    labels, binary = targets.reshape(-1), is_binary(loss)
    if binary and logits.numel() == len(logits):
        labels = torch.where((labels == 0) | (labels == 1), labels, -1)  # of shares of both there is no margin
        flat = logits.reshape(-1, 1)
        logits = torch.cat([torch.zeros_like(flat), flat], 1)
    elif binary or logits.dim() != 2 or logits.shape[1] < 2 or labels.is_floating_point() or labels.dtype == torch.bool:
        return None
    labels = labels.long()
    if isinstance(loss, CrossEntropy):
        labels = labels.masked_fill(labels == loss.ignore_index, -1)
    found = _loop(logits, labels) if logits.device.type == "cpu" and logits.shape[1] <= _FEW else None
    found = _torch(logits, labels) if found is None else found
    return found._replace(bounds=found.bounds / 2) if binary else found


def _loop(logits: Tensor, labels: Tensor) -> Margins | None:
    if (compiled := loops(logits.device)) is None:
        return None
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    others = torch.full_like(labels, -1)
    numbers = torch.full((3, len(labels)), torch.nan, dtype=torch.float64, device="cpu")
    compiled.look_at_logits(*(part.numpy() for part in (logits.detach(), labels, others, *numbers)))
    return Margins(labels.masked_fill(others < 0, -1), others, *numbers)


def _torch(logits: Tensor, labels: Tensor) -> Margins:
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    known = (labels >= 0) & (labels < logits.shape[1])
    index = labels.masked_fill(~known, 0)[:, None]
    logits = logits.detach().to(wide)
    given = logits.gather(1, index)
    best, other = logits.scatter(1, index, -torch.inf).max(1, keepdim=True)
    shares = logits.softmax(1)
    squares = shares.square().scatter(1, index, 0.0).sum(1)
    rest = shares.scatter(1, index, 0.0).sum(1)
    numbers = ((given - best)[:, 0], shares.gather(1, index)[:, 0], squares + rest.square())
    numbers = (part.masked_fill(~known, torch.nan) for part in numbers)
    return Margins(labels.masked_fill(~known, -1), other[:, 0].masked_fill(~known, -1), *numbers)
