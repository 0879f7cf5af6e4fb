"""Losses and logits as a training step returns them: converted where that is safe, else refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor


def as_losses(value: Any, size: int) -> Tensor:
    """The `losses` of a training step as real numbers, (B,), without a gradient.

    Raises:
        TypeError: If they are nothing of the kind.
        MisconfigurationException: If they are not one for each of the `size` rows.
    """
    losses = _tensor(value)
    if losses is None or losses.is_complex() or losses.dtype == torch.bool:
        raise TypeError(
            f"`losses` that `training_step` returned must be one real number for each sample, ({size},), got "
            f"{_describe(value)}: return those of `reduction='none'`, or call what this is by another name."
        )
    return check_losses(losses.flatten() if losses.shape == (size, 1) else losses, size)


def losses_at_hand(found: Mapping[str, Any], size: int) -> Tensor | None:
    """The `losses` of a training step, (B,), if they are there and one for each row, though nobody has asked for them.

    By that name a module may return something else.
    """
    try:
        return as_losses(found["losses"], size) if "losses" in found else None
    except (TypeError, MisconfigurationException):
        return None


def as_logits(value: Any, size: int) -> Tensor:
    """The `logits` of a training step as floating numbers with a row for each sample, (B, …), without a gradient.

    Raises:
        TypeError: If they are nothing of the kind.
        MisconfigurationException: If they have not as many rows as `size` says.
    """
    logits = _tensor(value)
    if logits is None or not logits.is_floating_point():
        raise TypeError(
            f"`logits` that `training_step` returned must be a floating tensor with a row for each sample, got "
            f"{_describe(value)}: return what goes into the loss, and not classes made of it; of several outputs the "
            "one that is sampled by; or call what this is by another name."
        )
    return check_logits(logits, size)


def check_losses(losses: Tensor, size: int) -> Tensor:
    """The losses, if they are one for each row.

    Raises:
        MisconfigurationException: If they are not.
    """
    if losses.shape != (size,):
        raise MisconfigurationException(
            f"The losses must be one for each of the {size} instances drawn, got the shape {tuple(losses.shape)}: "
            "use `reduction='none'`, and the mean over anything that is not the batch."
        )
    return losses


def check_logits(logits: Tensor, size: int) -> Tensor:
    """The logits, if they have as many rows.

    Raises:
        MisconfigurationException: If they have not.
    """
    if logits.dim() == 0 or len(logits) != size:
        raise MisconfigurationException(
            f"The logits must have one row for each of the {size} instances drawn, got {tuple(logits.shape)}."
        )
    return logits


def _tensor(value: Any) -> Tensor | None:
    """A tensor, an array, or a list of numbers, tensors or rows as a tensor; None if it is none of these."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, (list, np.ndarray)):
        return None
    try:
        if isinstance(value, list) and value and all(isinstance(one, Tensor) for one in value):
            return torch.stack([one.detach() for one in value])
        return torch.as_tensor(np.asarray(value), device="cpu")
    except (TypeError, ValueError, RuntimeError):  # of strings, or rows of unequal length
        return None


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if value is None:
        return "None"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (dict, list, tuple)) else "")
