"""How far the logits of a sample speak for its label: the margin, the probability, and what speaks against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_as.core.execution import loops
from lightning_as.core.record import BOUND, LOSS
from lightning_as.losses.criterion import is_binary
from lightning_as.losses.cross_entropy import IGNORED, CrossEntropy

_FEW = 1024  # classes that a loop on the CPU goes through as fast as torch does


def look_at(loss: Callable[..., Any], logits: Tensor, targets: Any, losses: Tensor | None = None) -> Tensor | None:
    """What logits say of samples with one label each; None if the samples are something else.

    Args:
        loss: What the samples' losses are computed by. Of a sigmoid cross-entropy, one logit per sample, 0 is the other
            one; a `CrossEntropy` knows which targets are no labels.
        logits: (B, C), or (B,) or (B, 1) of a sigmoid.
        targets: (B,) or (B, 1): indices of classes, or zeros and ones of any type.
        losses: The losses, (B,), without a gradient. Default: they are not known.

    Returns:
        The rows of a look, see :data:`lightning_as.core.record.LOSS`, (6, B) float64, on a device without it float32;
        of a sample without a label all but the loss are unknown. The bounds are those of the cross-entropy of labels
        and logits alone.
    """
    if not isinstance(targets, Tensor) or targets.numel() != len(logits) or targets.is_complex():
        return None
    logits, labels, binary = logits.detach(), targets if targets.dim() == 1 else targets.reshape(-1), is_binary(loss)
    if binary and logits.numel() == len(logits):
        labels = torch.where((labels == 0) | (labels == 1), labels, -1).long()  # of shares of both there is no margin
        flat = logits.reshape(-1, 1)
        logits = torch.cat([torch.zeros_like(flat), flat], 1)
    elif binary or logits.dim() != 2 or logits.shape[1] < 2 or labels.is_floating_point() or labels.dtype == torch.bool:
        return None
    ignored = loss.ignore_index if isinstance(loss, CrossEntropy) else IGNORED
    compiled = loops(logits.device) if logits.shape[1] <= _FEW else None
    if compiled is None:
        look: Any = _in_torch(logits, labels.to(logits.device, torch.int64), ignored)
    else:  # on an array, whose rows are set in a tenth of the time
        look = np.full((6, len(labels)), np.nan)
        compiled.look_at_logits(_array(logits), labels.cpu().numpy(), ignored, look)
    if losses is not None:
        look[LOSS] = losses if compiled is None else _array(losses)
    if binary:
        look[BOUND] /= 2  # one logit in place of two
    return look if compiled is None else torch.from_numpy(look)


def _array(numbers: Tensor) -> Any:
    """The same for numpy, which lacks the narrow types."""
    return (numbers if numbers.dtype in (torch.float32, torch.float64) else numbers.float()).cpu().numpy()


def _in_torch(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    logits = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    known = (labels >= 0) & (labels < logits.shape[1]) & (labels != ignored)
    index = labels.masked_fill(~known, 0)[:, None]
    best, other = logits.scatter(1, index, -torch.inf).max(1, keepdim=True)
    shares = logits.softmax(1)
    others = shares.scatter(1, index, 0.0)
    bounds = others.square().sum(1, keepdim=True) + others.sum(1, keepdim=True).square()
    own = (bounds, shares.gather(1, index), logits.gather(1, index) - best, index, other)
    look = torch.cat([torch.full_like(bounds, torch.nan), *(part.to(logits.dtype) for part in own)], 1)
    return look.masked_fill(~known[:, None], torch.nan).T.contiguous()
