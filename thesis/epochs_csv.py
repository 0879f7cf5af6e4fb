"""``epochs.csv``: one row for each epoch of each finished cell, what the report is made from."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from thesis.grid import Cell
from thesis.measurements import Row
from thesis.results import COLUMNS, NAMES

_OF_CELL = NAMES[:6]


def write(path: Path, finished: Iterable[tuple[Cell, list[Row]]]) -> None:
    """Write the file anew, in one step: whoever reads it finds the whole old or the whole new one.

    Args:
        path: The file.
        finished: Cells with their rows, in the order in which they are written.
    """
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, newline="", delete=False) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for cell, rows in finished:
            of_cell = {name: str(getattr(cell, name)) for name in _OF_CELL}
            deltas = {name: _optional(getattr(cell, name)) for name in ("delta_p", "delta_q")}
            writer.writerows([{**of_cell, **row, **deltas}[name] for name in COLUMNS] for row in rows)
    os.chmod(file.name, 0o644)  # a temporary file is its owner's alone
    os.replace(file.name, path)


def _optional(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
