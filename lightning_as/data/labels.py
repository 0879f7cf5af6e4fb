"""Class labels of a data set, found where it keeps them, without loading a single sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

NAMES = ("targets", "labels", "label", "y", "_labels")
"""Attributes and columns that are looked for: those of torchvision, Hugging Face, and of most data sets written at
home."""


def find_labels(dataset: Dataset[Any], name: str | None = None) -> Tensor | None:
    """The label of each instance, (N,) integers, or None if the data set keeps none where they are looked for.

    Understood are attributes and columns (Hugging Face's ``column_names``) with one of the names, the last tensor of a
    `TensorDataset`, and `Subset` and `ConcatDataset` of what is understood, to any depth.

    Args:
        dataset: Any map-style data set.
        name: The attribute or column to look for, instead of :data:`NAMES`.
    """
    if isinstance(dataset, Subset):
        labels = find_labels(dataset.dataset, name)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64, device="cpu")]
    if isinstance(dataset, ConcatDataset):
        parts = [find_labels(part, name) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset) and name is None:
        return _as_labels(dataset.tensors[-1], len(dataset))
    size = len(dataset)  # pyright: ignore[reportArgumentType]
    for candidate in NAMES if name is None else (name,):
        if candidate in (getattr(dataset, "column_names", None) or ()):
            # A transform may want all columns, or make others of them.
            plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset  # pyright: ignore
            values = plain[candidate]
        else:
            values = getattr(dataset, candidate, None)
        labels = _as_labels(values, size)
        if labels is not None:
            return labels
    return None


def _as_labels(values: Any, size: int) -> Tensor | None:
    """The values as (N,) integers, if that is what they are."""
    if values is None or callable(values):
        return None
    try:
        labels = torch.as_tensor(values if hasattr(values, "__array__") else list(values), device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.shape == (size, 1):
        labels = labels[:, 0]
    if labels.shape != (size,) or labels.is_floating_point() or labels.is_complex():
        return None
    return labels.long()
