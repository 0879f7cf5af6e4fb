"""Values in any of the forms in which people keep labels, as one class per instance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = npt.NDArray[Any]
"""A whole number (int64) or a string for each instance, (N,)."""


class NotClassesError(ValueError):
    """What was looked at is no class for each instance. The message goes on after its name: "holds floats"."""


def classes_of(values: Any, size: int) -> Values:
    """The class of each instance.

    Args:
        values: Whole numbers of any type, truth values, strings, or one-hot rows; as a tensor, an array, a sequence, a
            column of a table (pandas and others with `to_numpy`; by position, whatever its index), or a mapping from
            positions.
        size: Number of instances N.

    Returns:
        (N,) int64, or strings as they are. One-hot rows become the position of the one.

    Raises:
        NotClassesError: If it is anything else; it says what.
    """
    if isinstance(values, Mapping):
        values = _by_position(values, size)
    array = _as_array(values, size)
    if array.ndim == 0 or len(array) != size:
        many = "1 entry" if array.ndim == 0 else f"{len(array)} entries" if len(array) <= size else "more entries"
        raise NotClassesError(f"holds {many} for {size} instances")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "O":
        array = _of_one_kind(array)
    if array.dtype.kind in "US" and array.ndim == 1:
        return array.astype(str)
    if array.dtype.kind not in "biuf":
        raise NotClassesError(f"holds {array.dtype.name} numbers")
    if array.ndim == 2 and _is_one_hot(array):
        return array.argmax(1)
    if array.ndim != 1:
        raise NotClassesError(f"has the shape {array.shape}, more than a number per instance, and is not one-hot")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise NotClassesError("has missing values")
        if not (np.isfinite(array) & (array == np.floor(array))).all():
            raise NotClassesError("holds floats")
        if nearly_all_differ(different := len(np.unique(array)), size):
            raise NotClassesError(f"holds floats, {different} different ones for {size} instances")
    return array.astype(np.int64)


def nearly_all_differ(different: int, size: int) -> bool:
    """Whether values have hardly two instances each, as measures or names of files do; of a few values nobody knows."""
    return different > 10 and 2 * different > size


def encode(values: Values) -> tuple[Tensor, Values]:
    """The classes as 0 … k - 1 in ascending order, (N,) int64, and what each of these was, (k,)."""
    if values.dtype.kind != "U" and len(values) and values.min() >= 0 and values.max() <= 2 * len(values):
        present = np.bincount(values) > 0  # without the sorting below
        codes, classes = (np.cumsum(present) - 1)[values], np.flatnonzero(present)
    else:
        classes, codes = np.unique(values, return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64, copy=False)), classes


def _as_array(values: Any, size: int) -> Values:
    """Any values as an array; of a sequence no more is looked at than shows that it is too long."""
    if isinstance(values, Tensor):
        return values.detach().cpu().to(torch.float64 if values.is_floating_point() else values.dtype).numpy()
    if values is None or isinstance(values, (str, bytes)) or callable(values):
        raise NotClassesError(f"is {values!r:.40}, and no sequence")
    try:
        if hasattr(values, "to_numpy"):
            return np.asarray(values.to_numpy())
        if hasattr(values, "__array__"):
            return np.asarray(values)
        entries = islice(iter(values), size + 1)
        return np.asarray(
            [entry.item() if isinstance(entry, Tensor) and entry.numel() == 1 else entry for entry in entries]
        )
    except (TypeError, ValueError, RuntimeError, OverflowError):  # ragged, or no sequence at all
        raise NotClassesError(f"is a {type(values).__name__} that is no row of numbers or strings") from None


def _is_one_hot(array: Values) -> bool:
    """Whether each row of an (N, C) array is 1 in one place and 0 elsewhere."""
    return bool(((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all())


def _by_position(values: Mapping[Any, Any], size: int) -> list[Any]:
    """The values of a mapping from positions, in their order; its keys are nobody's labels."""
    if len(values) != size or any(position not in values for position in range(size)):
        raise NotClassesError(f"is a mapping from {len(values)} keys that are not the positions 0 … {size - 1}")
    return [values[position] for position in range(size)]


def _of_one_kind(array: Values) -> Values:
    """An array of objects as one of numbers or strings."""
    entries = array.tolist()
    if array.ndim == 1 and all(isinstance(entry, (str, bytes)) for entry in entries):
        return np.asarray(entries)
    if array.ndim == 1 and any(_is_missing(entry) for entry in entries):
        raise NotClassesError("has missing values")
    if all(isinstance(entry, (bool, int, float, np.generic)) for entry in array.flat):
        converted = np.asarray(entries)
        if converted.dtype.kind != "O":
            return converted
    kinds = sorted({type(entry).__name__ for entry in array.flat})
    raise NotClassesError(f"holds objects that are neither whole numbers nor strings ({', '.join(kinds[:3])})")


def _is_missing(entry: Any) -> bool:
    """Whether an entry is what tables have for nothing: None, NaN, or pandas' own."""
    nothing = entry is None or (isinstance(entry, float) and entry != entry)
    return nothing or type(entry).__name__ in ("NAType", "NaTType")
