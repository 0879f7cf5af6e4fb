"""The table of the examples: what training has shown of each, as a data frame or a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_as.strategies import Strategy
from lightning_as.strategies.stream_filter import StreamFilter

Table = Any
"""A `pandas.DataFrame`, or without pandas a dict of numpy arrays; neither is a type that is always there."""
_FORMATS = (".csv", ".parquet")
COLUMNS = {
    "index": "position in the data set",
    "bin": "its bin",
    "label": "its label, if the bins are classes or the batches have had it",
    "drawn": "times trained on",
    "share": "share of all draws",
    "loss": "the last loss",
    "smoothed_loss": "the loss, of which each visit keeps 0.7 of what it was",
    "confidence": "the probability of the label, smoothed likewise",
    "variability": "the standard deviation of that probability over the visits, the last ones most",
    "margin": "the mean over all visits of the label's logit minus the largest other one",
    "other": "the class of that largest other logit, at the last visit",
    "learnt": "times that the prediction turned right",
    "forgotten": "times that it turned wrong",
    "probability": "that of the next draw",
    "age": "batches since it was trained on",
}
"""The columns of the table, in their order, and what they are; sources are in :mod:`lightning_as.core.record`."""


def columns_of(strategy: Strategy) -> dict[str, np.ndarray]:
    """The columns of the table, (N,) each, in the data set's order; see `AdaptiveSamplingCallback.examples`.

    Raises:
        RuntimeError: If there is no record, or nothing was trained on.
    """
    found = known_of(strategy)
    classes = strategy.bins.labels is not None  # all of which are known, and may be negative
    return {name: found[name] if name == "label" and classes else _known(found[name]) for name in COLUMNS}


def known_of(strategy: Strategy) -> dict[str, np.ndarray]:
    """All that is known, (N,) each, in the data set's order: the columns, with -1 for unknown integers, and more.

    The labels of bins that are classes are all known, though they may be -1.

    Raises:
        RuntimeError: If there is no record, or nothing was trained on.
    """
    if isinstance(strategy, StreamFilter):
        raise RuntimeError(
            f"{type(strategy).__name__} keeps no record of the examples of a stream, which have no positions: have "
            "`training_step` note the losses with the keys of the batch."
        )
    if (record := strategy.record) is None or not record.batches:
        raise RuntimeError(
            "Nothing is known of the examples yet: ask for them in a fit or after it, with a callback that keeps a "
            "record of them, which `AdaptiveSamplingCallback(examples=False)` does not."
        )
    found, bins = record.columns(), strategy.bins
    if bins.labels is not None:
        found["label"] = bins.labels[bins.tags.long()]
    found |= {"index": torch.arange(len(bins), device="cpu"), "bin": bins.tags, "probability": strategy.probabilities()}
    if (shard := bins.shard) is not None:
        whole = {"bin": shard.whole_bins[bins.tags.cpu().long()], "probability": found["probability"] / shard.shards}
        order = shard.positions.argsort()
        found = {name: column.cpu()[order] for name, column in (found | whole | {"index": shard.positions}).items()}
    return {name: column.cpu().numpy() for name, column in found.items()}


def as_table(columns: Mapping[str, np.ndarray]) -> Table:
    """The columns as a data frame where pandas is installed, and else as they are."""
    if find_spec("pandas") is None:
        return dict(columns)
    import pandas  # which takes a while, and not all have it

    return pandas.DataFrame(dict(columns))


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a table to be written, if it is one.

    Raises:
        TypeError: If it is no path.
        ValueError: If its name says no format, or one that needs what is not installed.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`examples` must be True, False or a path, got {path!r}.")
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"`examples={str(path)!r}` must end in {' or '.join(_FORMATS)}.")
    if path.suffix == ".parquet" and (find_spec("pandas") is None or find_spec("pyarrow") is None):
        raise ValueError(f"`examples={str(path)!r}` needs pandas and pyarrow: `pip install pandas pyarrow`, or a .csv.")
    return path


def can_write(path: Path) -> bool:
    """Whether :func:`write` finds a folder on this machine in which it can make files."""
    return not path.is_dir() and os.access(path.resolve().parent, os.W_OK | os.X_OK)


def write(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the table to a file, which is whole or as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".parquet":
            as_table(columns).to_parquet(part, index=False)
        else:
            with part.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(columns)
                rows.writerows(zip(*(_cells(column) for column in columns.values()), strict=True))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _known(column: np.ndarray) -> np.ndarray:
    """Integers, if all are known, and else numbers with NaN."""
    if column.dtype.kind == "i" and (column < 0).any():
        return np.where(column < 0, np.nan, column)
    return column


def _cells(column: np.ndarray) -> list[Any]:
    return ["" if isinstance(value, float) and value != value else value for value in column.tolist()]
