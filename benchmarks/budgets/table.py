"""The table of results: a line per cell, added when it is done; what stands there is not run again."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.budgets.rivals import specification
from benchmarks.budgets.tasks import Task

PROTOCOL = 2
"""Goes up when cells of then and now are not to be compared."""
METRICS = ("accuracy", "balanced_accuracy", "average_precision", "cost")
"""What is measured of the test set: shares of 1, and the mean cross-entropy in nats."""
FIELDS: tuple[str, ...] = (
    "task",
    "budget",
    "seed",
    "rival",
    "session",
    "steps",
    "seconds",
    *METRICS,
    "config",
    "version",
)
"""The columns. Seconds are of the processor; a session is what ran in one process, one after the other; the version is
the repository's commit, which a rival that has changed since does not tell from its name."""
Row = Mapping[str, str]


class Cell(NamedTuple):
    """One training."""

    task: str
    budget: str
    """Share of the converged budget, as text."""
    seed: int
    rival: str
    config: str
    """A checksum of all that the names do not say."""


def cell_of(task: Task, budget: float, seed: int, rival: str) -> Cell:
    """The cell of these settings."""
    settings = {**task._asdict(), "network": task.network.__name__, "seeds": None, "figure": None, "metrics": None}
    described = repr((PROTOCOL, sorted(settings.items()), specification(rival)))
    return Cell(task.name, f"{budget:g}", seed, rival, hashlib.sha256(described.encode()).hexdigest()[:12])


def cell(row: Row) -> Cell:
    """The cell that a line is of."""
    return Cell(row["task"], row["budget"], int(row["seed"]), row["rival"], row["config"])


def read(path: Path, fields: Sequence[str] = FIELDS) -> list[dict[str, str]]:
    """The lines of a table, none if there is none; one that was cut off is left out.

    Args:
        path: The table.
        fields: Its columns, with those that make a :class:`Cell`. Default: :data:`FIELDS`.

    Raises:
        ValueError: If it has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if list(reader.fieldnames or fields) != list(fields):
            raise ValueError(f"{path} has other columns than {', '.join(fields)}: give another `--results`.")
        return [row for row in reader if None not in row and None not in row.values() and row["config"]]


def version() -> str:
    """The repository's commit, with a mark if files have changed since; nothing outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def append(path: Path, rows: Iterable[Mapping[str, object]], fields: Sequence[str] = FIELDS) -> None:
    """Add lines, all at once, beside other processes that may do so too; on the disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        text = io.StringIO()
        size = stream.seek(0, os.SEEK_END)
        if size == 0:
            csv.writer(text, lineterminator="\n").writerow(fields)
        else:
            stream.seek(size - 1)
            text.write("" if stream.read(1) == b"\n" else "\n")  # after a line that was cut off
        csv.DictWriter(text, fields, lineterminator="\n").writerows(rows)
        stream.write(text.getvalue().encode())
        stream.flush()
        os.fsync(stream.fileno())
