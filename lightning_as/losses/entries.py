"""The entries of a sample, such as its pixels, tokens or labels, which together have one loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rows(entries: Tensor) -> Tensor:
    """(B, ...) as (B, entries of a sample), with one entry for (B,)."""
    return entries.unsqueeze(-1).flatten(1)


def widen(logits: Tensor) -> Tensor:
    """In float32 at least: narrower types lose digits in a loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def drop_label(shape: torch.Size) -> torch.Size:
    """The shape without its dimension of labels, if there is just one label."""
    return shape[:1] + shape[2:] if shape[1:2] == (1,) else shape


def is_labelled(targets: Tensor, ignored: int) -> Tensor:
    """Whether an entry has another target than the ignored one, which to narrow integers may be another number."""
    return (targets if targets.is_floating_point() else targets.long()) != ignored


def mean_of_labelled(entries: Tensor, labelled: Tensor) -> Tensor:
    """The mean over the entries of each sample that have a label, and 0 if none has.

    Args:
        entries: Losses, (B, ...), zeros where there is no label.
        labelled: Whether an entry counts, a tensor of that shape.

    Returns:
        The means, (B,).
    """
    return rows(entries).sum(1) / rows(labelled).sum(1).clamp(min=1)


def check_weights(name: str, weights: list[float]) -> list[float]:
    """A copy of the weights of an argument.

    Raises:
        ValueError: If one is negative or not finite.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"`{name}` must be finite and not negative, got {weights}.")
    return list(weights)


def per_class(name: str, weights: list[float], logits: Tensor) -> Tensor:
    """The weights as a tensor, one for each of the classes or labels of logits (B, C, ...).

    Raises:
        ValueError: If they are not that many.
    """
    count = logits.shape[1] if logits.dim() > 1 else 1
    if len(weights) != count:
        raise ValueError(f"`{name}` has {len(weights)} entries, but `logits` of {tuple(logits.shape)} need {count}.")
    return logits.new_tensor(weights)
