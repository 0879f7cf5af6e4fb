"""Class labels of a data set, found where it keeps them, without loading a single sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

from lightning_as.data.classes import NotClassesError, Values, classes_of, nearly_all_differ

NAMES = ("targets", "target", "labels", "label", "y", "_labels")
"""Attributes and columns that are looked for: those of torchvision, Hugging Face, PyTorch Geometric, and of most data
sets written at home."""
_ROWS = ("samples", "_samples", "imgs", "_imgs", "items")
"""Lists of tuples that end in the label, as torchvision keeps them."""


class Found(NamedTuple):
    """What a data set keeps under the names that were looked for."""

    values: Values | None
    """The class of each instance, (N,) whole numbers or strings; None if there is none."""
    remarks: tuple[str, ...] = ()
    """What was found, but is not that, such as "`targets` holds floats"."""


def find_labels(dataset: Any, name: str | None = None) -> Found:
    """The label of each instance, where the data set keeps it.

    Understood are attributes and columns (of Hugging Face, of a table or a mapping that the data set holds, of its rows
    if it is a list) with one of the names; of a `TensorDataset` the last tensor, or else the only one of whole numbers;
    a Hugging Face `ClassLabel`; and `Subset`, `ConcatDataset`, `StackDataset` and wrappers of one data set of the same
    length, of what is understood, to any depth. In what form the labels may be there, :func:`classes_of` says.

    Args:
        dataset: Any map-style data set.
        name: The attribute or column to look for, instead of :data:`NAMES`.
    """
    if isinstance(dataset, Subset):
        return _chosen(find_labels(dataset.dataset, name), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return _joined([find_labels(part, name) for part in dataset.datasets])
    size, remarks = len(dataset), list[str]()
    for place, values in _kept(dataset, (name,) if name else NAMES, name is None):
        try:
            classes = classes_of(values, size)
            if classes.dtype.kind == "U" and nearly_all_differ(different := len(np.unique(classes)), size):
                raise NotClassesError(f"holds {different} different strings for {size} instances")
            return Found(classes)
        except NotClassesError as error:
            remarks.append(f"`{place}` {error}")
    inner = _inner(dataset, size)
    if inner is None:
        return Found(None, tuple(remarks))
    part, positions = inner
    values, more = _chosen(find_labels(part, name), positions)
    return Found(values, (*remarks, *more))


def _chosen(found: Found, positions: Any) -> Found:
    """What was found, at these positions; None for all."""
    if found.values is None or positions is None:
        return found
    return Found(found.values[np.asarray(positions, dtype=np.int64)], found.remarks)


def _joined(parts: list[Found]) -> Found:
    """The labels of data sets one after the other, if all have some of the same kind."""
    values = [part.values for part in parts if part.values is not None]
    remarks = dict.fromkeys(remark for part in parts for remark in part.remarks)
    if len(values) < len(parts):
        return Found(None, tuple(remarks))
    if len({part.dtype.kind for part in values}) > 1:
        return Found(None, ("some parts have strings and some have numbers",))
    return Found(np.concatenate(values))


def _inner(dataset: Any, size: int) -> tuple[Any, Any] | None:
    """The one data set that a wrapper written at home holds, and the positions in it if not all in their order."""
    if isinstance(dataset, StackDataset):
        return None
    held = _attributes(dataset).values()
    parts = [part for part in held if (isinstance(part, Dataset) or _has_columns(part)) and hasattr(part, "__len__")]
    positions = getattr(dataset, "indices", None)
    if positions is not None:
        return (parts[0], positions) if len(parts) == 1 and len(positions) == size else None
    parts = [part for part in parts if len(part) == size]
    return (parts[0], None) if len(parts) == 1 else None


def _kept(dataset: Any, names: tuple[str, ...], default: bool) -> Iterator[tuple[str, Any]]:
    """Whatever may be the labels, the likeliest first, and where it is."""
    yield from ((name, values) for name in names if (values := _column(dataset, name)) is not None)
    if isinstance(dataset, StackDataset):
        yield from _stacked(dataset.datasets, names, default)
    if default and isinstance(dataset, TensorDataset):
        yield from _tensors(dataset.tensors)
    if default:
        features = getattr(dataset, "features", None)
        marked = [key for key, kind in features.items() if type(kind).__name__ == "ClassLabel"] if features else []
        if len(marked) == 1:
            yield marked[0], _column(dataset, marked[0])
    yield from _of_rows("its rows", dataset, names, default)
    for attribute, held in _attributes(dataset).items():
        yield from ((f"{attribute}[{name!r}]", held[name]) for name in names if _has_key(held, name))
        yield from _of_rows(attribute, held, names, default and attribute in _ROWS)


def _column(dataset: Any, name: str) -> Any:
    """An attribute or a column, or None."""
    if name in (getattr(dataset, "column_names", None) or ()):
        # A transform may want all columns, or make others of them.
        plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
        column = plain[name]
        return column[:] if type(column).__name__ == "Column" else column  # Hugging Face's, which reads entry by entry
    values = None if isinstance(dataset, (list, tuple)) else getattr(dataset, name, None)
    return None if callable(values) else values


def _stacked(parts: Any, names: tuple[str, ...], default: bool) -> Iterator[tuple[str, Any]]:
    """What a `StackDataset` has under one of the names, or its last part."""
    if isinstance(parts, Mapping):
        chosen = [(name, parts[name]) for name in names if name in parts]
    else:
        chosen = [(f"datasets[{len(parts) - 1}]", parts[-1])] if default else []
    for place, part in chosen:
        inner = find_labels(part).values if isinstance(part, Dataset) else None
        yield place, part if inner is None else inner


def _tensors(tensors: tuple[Tensor, ...]) -> Iterator[tuple[str, Any]]:
    """The last tensor, or else the only other one of whole numbers, if that does not just number the instances."""
    *others, last = tensors
    yield f"tensors[{len(others)}]", last
    whole = [at for at, one in enumerate(others) if one[0].numel() == 1 and not one.is_floating_point()]
    if len(whole) == 1 and not nearly_all_differ(len(others[whole[0]].unique()), len(last)):
        yield f"tensors[{whole[0]}]", others[whole[0]]


def _of_rows(place: str, rows: Any, names: tuple[str, ...], ends: bool) -> Iterator[tuple[str, Any]]:
    """Of a list of mappings or objects what each has under one of the names; of tuples the last, if they end in it."""
    if not isinstance(rows, (list, tuple)) or not rows:
        return
    first = rows[0]
    for name in names:
        if _has_key(first, name):
            yield f"{name} of {place}", [row[name] for row in rows]
        elif hasattr(first, name):
            yield f"{name} of {place}", [getattr(row, name) for row in rows]
    if ends and isinstance(first, (tuple, list)) and len(first) > 1:
        yield f"the last of {place}", [row[-1] for row in rows]


def _has_key(held: Any, name: str) -> bool:
    """Whether a mapping or a table has that key or column."""
    table = hasattr(held, "columns") and hasattr(held, "to_numpy")
    return name in (held if isinstance(held, Mapping) else held.columns if table else ())


def _attributes(dataset: Any) -> dict[str, Any]:
    """What it holds itself; of a table nothing, for what is inside may have its rows in another order."""
    return {} if _has_columns(dataset) else getattr(dataset, "__dict__", {})


def _has_columns(dataset: Any) -> bool:
    """Whether it is a table as of Hugging Face or Arrow."""
    return not isinstance(dataset, type) and hasattr(dataset, "column_names")
