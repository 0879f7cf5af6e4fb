"""The partition of a data set, from what its user says of it or from its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lightning_as.core.bins import Bins
from lightning_as.core.chunk_order import Chunks
from lightning_as.data.classes import NotClassesError, classes_of, encode, nearly_all_differ
from lightning_as.data.labels import NAMES, Found, find_labels

BinsLike = Bins | Tensor | Sequence[int] | Callable[[Dataset[Any]], Bins | Tensor | Sequence[int]] | str | None
"""What bins can be made from: see :func:`make_bins`."""


def make_bins(dataset: Dataset[Any], bins: BinsLike) -> Bins:
    """The partition of a data set.

    Args:
        dataset: The data set.
        bins: A `Bins`; the bin of each instance, N whole numbers or strings, as a tensor, a sequence, an array or a
            column of a table; a function from the data set to any of these; ``"label"``, one bin per class, of the
            labels that the data set keeps (see :func:`lightning_as.data.labels.find_labels`), or one bin and a warning
            if it keeps none; the name of another attribute or column to partition by; ``"chunk"``, of data in chunks:
            one bin per chunk; ``"single"`` or None: one bin.
            Bins of whole numbers or strings are in ascending order.

    Returns:
        The partition, on the CPU.

    Raises:
        MisconfigurationException: If the data set is an `IterableDataset` or has no length.
        TypeError: If the bins of the instances are neither whole numbers nor strings.
        ValueError: If an attribute or column is not to be found, or the bins are of another number of instances.
    """
    size = size_of(dataset)
    if bins is None or (isinstance(bins, str) and bins == "single"):
        return Bins.single(size)
    if isinstance(bins, str) and bins == "chunk" and hasattr(dataset, "chunk_sizes"):
        return Bins(Chunks.of(dataset.chunk_sizes, 1).tags())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(bins, str):
        found = find_labels(dataset, None if bins == "label" else bins)
        if found.values is None and bins == "label":
            rank_zero_warn(
                f"`bins='label'` {_nothing(dataset, NAMES, found)}, so all instances are in one bin. Bins of instances "
                "that are learned alike, such as classes or sources, let the sampling adapt sooner: give `bins=` the "
                "bin of each instance, a column's name or a function `lambda dataset: …`; of a measure to predict "
                "`Bins.from_quantiles(measure, 10)`; or None, which is one bin without this warning."
            )
            return Bins.single(size)
        if found.values is None:
            raise ValueError(
                f"`bins={bins!r}` {_nothing(dataset, (bins,), found)}. Give the bin of each instance, `bins=tensor`, a "
                "function `bins=lambda dataset: …`, or `bins=None` for one bin."
            )
        tags, classes = encode(found.values)
        # Of strings nobody knows which numbers the data set makes of them.
        yielded = bins == "label" and classes.dtype.kind != "U"
        made = Bins(tags, torch.from_numpy(classes) if yielded else None)
    else:
        given = bins(dataset) if callable(bins) else bins
        if isinstance(given, Bins):
            return _check_size(given, size)
        made = _check_size(_by_values(given), size)
    if nearly_all_differ(len(made.sizes), size):
        rank_zero_warn(
            f"There are {len(made.sizes)} bins for {size} instances: of hardly two instances nothing is learned that "
            "could be of use for others. Along a measure use `bins=Bins.from_quantiles(measure, 10)`, and without "
            "kinds of instances `bins=None`."
        )
    return made


def _by_values(values: Any) -> Bins:
    try:
        return Bins(encode(classes_of(values, len(values) if hasattr(values, "__len__") else 0))[0])
    except NotClassesError as error:
        raise TypeError(
            f"What is given as `bins` {error}: it must be a whole number (integer) or a string (str) for each "
            "instance. For bins along a measure use `Bins.from_quantiles(measure, 10)`."
        ) from error


def _check_size(bins: Bins, size: int) -> Bins:
    if len(bins) != size:
        raise ValueError(f"`bins` are of {len(bins)} instances, but the data set has {size}: give one bin for each.")
    return bins


def _nothing(dataset: Any, names: tuple[str, ...], found: Found) -> str:
    """That nothing was found, and what was instead, as a part of a sentence."""
    looked_for = " or ".join(f"`{name}`" for name in names)
    instead = "; ".join(found.remarks) or f"it has no attribute or column {looked_for}"
    return f"found no whole number or string per instance in the {type(dataset).__name__}: {instead}"


def size_of(dataset: Dataset[Any]) -> int:
    """Number of instances.

    Raises:
        MisconfigurationException: If there are no positions to draw from.
    """
    if isinstance(dataset, IterableDataset):
        raise MisconfigurationException(
            f"The {type(dataset).__name__} is an IterableDataset, which has no positions to draw from: use a map-style "
            "data set, with `__len__` and `__getitem__`, or a litdata.StreamingDataset; or an AdaptiveIterableLoader, "
            "which keeps or skips what comes."
        )
    try:
        return len(dataset)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise MisconfigurationException(
            f"The {type(dataset).__name__} has no length: give it a `__len__`, so that there are positions to draw."
        ) from error
