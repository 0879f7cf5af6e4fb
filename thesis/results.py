"""What the experiments measured, read from ``epochs.csv``: one row per run and epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NAMES = ("experiment", "arm", "optimizer", "batch_size", "data", "seed", "delta_p", "delta_q")
MEASURED = (
    "training_cost_mean",
    "training_cost_median",
    "test_cost",
    "test_accuracy",
    "seconds",
    "ess",
    "variance_uniform",
    "variance_weighted",
    "variance_drawn",
)
COLUMNS = (*NAMES[:6], "epoch", *MEASURED, "delta_p", "delta_q", "p")
"""The columns of the file, in order."""

COLLAPSED = 1e-3
"""A smallest entry of P below this one, a hundredth of a bin's equal share on MNIST, is a collapse."""


class Cell(NamedTuple):
    """What is the same in all epochs of a run."""

    experiment: str
    arm: str
    optimizer: str
    batch_size: int
    data: str
    seed: int
    delta_p: float | None
    delta_q: float | None


class Run(NamedTuple):
    """One training."""

    cell: Cell
    epochs: NDArray[np.int64]
    """Epochs done at each measurement, rising, (E,); 0 is before the first step."""
    measured: dict[str, NDArray[np.float64]]
    """Of each column of :data:`MEASURED`, (E,); nats, shares of 1, seconds, numbers of instances, squared norms."""
    p: NDArray[np.float64]
    """The distribution over the bins, (E, K)."""

    def at(self, column: str, epoch: int) -> float:
        """A measured column after an epoch.

        Raises:
            KeyError: If the run has no such epoch.
        """
        return float(self.measured[column][self.row(epoch)])

    def row(self, epoch: int) -> int:
        """Where an epoch stands in the arrays.

        Raises:
            KeyError: If the run has no such epoch.
        """
        if epoch not in self.epochs:
            raise KeyError(f"the run {self.cell} has no epoch {epoch}.")
        return int(np.flatnonzero(self.epochs == epoch)[0])


def read(paths: Iterable[Path | str]) -> list[Run]:
    """All runs of some files.

    Args:
        paths: CSV files, or folders with a file ``epochs.csv``. A run that stands in several files counts once: the
            longest, or of equally long ones the first. One that has not been trained for an epoch yet is left out.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file has other columns or no rows, a value is no number, a file has an epoch of a run twice, or
            two files differ about one, in more than its seconds.
    """
    longest: dict[Cell, dict[int, list[str]]] = {}
    for path in paths:
        file = Path(path) / "epochs.csv" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}: give an epochs.csv, or the folder of one.")
        for cell, epochs in _epochs(file).items():
            before = longest.setdefault(cell, epochs)
            for epoch in before.keys() & epochs.keys():
                if _without_seconds(before[epoch]) != _without_seconds(epochs[epoch]):
                    raise ValueError(
                        f"{file}: epoch {epoch} of {cell} was read before, with other figures. Leave one out."
                    )
            if max(epochs) > max(before):
                longest[cell] = epochs
    ordered = sorted(longest.items(), key=lambda item: _order(item[0]))
    return [_run(cell, epochs) for cell, epochs in ordered if max(epochs) > 0]


def select(
    runs: Sequence[Run],
    experiment: str,
    optimizer: str,
    batch_size: int,
    arm: str | None = None,
    deltas: tuple[float, float] | None = None,
) -> list[Run]:
    """The runs of one cell, on the full data.

    Args:
        runs: To choose from.
        experiment: ``thesis``, ``grid-search``, ….
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
        arm: Default: any.
        deltas: The values (δp, δq). Default: any.
    """
    wanted = (experiment, optimizer, batch_size, "full")
    return [
        run
        for run in runs
        if (run.cell.experiment, run.cell.optimizer, run.cell.batch_size, run.cell.data) == wanted
        and arm in (None, run.cell.arm)
        and deltas in (None, (run.cell.delta_p, run.cell.delta_q))
    ]


def common_epochs(runs: Sequence[Run]) -> list[int]:
    """The epochs that all runs have, rising; none of no runs."""
    return sorted(set.intersection(*(set(run.epochs.tolist()) for run in runs))) if runs else []


def last_common_epoch(runs: Sequence[Run], at_most: int | None = None) -> int | None:
    """The last epoch that all runs have been trained for, or None.

    Args:
        runs: The runs that are to be compared.
        at_most: An epoch to stop at. Default: none.
    """
    found = [epoch for epoch in common_epochs(runs) if epoch > 0 and (at_most is None or epoch <= at_most)]
    return found[-1] if found else None


def _epochs(file: Path) -> dict[Cell, dict[int, list[str]]]:
    """What a file has of each run and epoch: the measured columns and p, as text."""
    found: dict[Cell, dict[int, list[str]]] = {}
    for place, row in _rows(file):
        epoch, cell = int(_number(row, "epoch", place, int)), _cell(row, place)
        for name in MEASURED:
            _number(row, name, place, float)
        epochs = found.setdefault(cell, {})
        if epoch in epochs:
            raise ValueError(f"{place}: epoch {epoch} of {cell} was read before in this file. Leave one out.")
        epochs[epoch] = [row[name] for name in (*MEASURED, "p")]
    return found


def _without_seconds(measured: list[str]) -> list[str]:
    """Only these differ where the same training was done twice."""
    at = MEASURED.index("seconds")
    return measured[:at] + measured[at + 1 :]


def _rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        try:
            header, rows = reader.fieldnames or [], list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not a CSV file: {error}.") from None
    missing, unknown = [c for c in COLUMNS if c not in header], [c for c in header if c not in COLUMNS]
    if missing or unknown:
        raise ValueError(
            f"{file} has not the columns of an epochs.csv: missing {missing}, unknown {unknown}. "
            "`lightning-as experiment` writes such a file."
        )
    if not rows:
        raise ValueError(f"{file} has no rows: nothing has been run yet.")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():  # DictReader's marks of too many and too few values
            raise ValueError(f"{file}, line {number} has not {len(COLUMNS)} values. Was it cut off? Leave it out.")
    return [(f"{file}, line {number}", row) for number, row in enumerate(rows, 2)]


def _number(row: dict[str, str], name: str, place: str, kind: type) -> float:
    try:
        return kind(row[name])
    except ValueError:
        raise ValueError(f"{place}: {name} is {row[name]!r}, which is not a number ({kind.__name__}).") from None


def _cell(row: dict[str, str], place: str) -> Cell:
    deltas = [_number(row, name, place, float) if row[name] else None for name in ("delta_p", "delta_q")]
    batch_size, seed = int(_number(row, "batch_size", place, int)), int(_number(row, "seed", place, int))
    return Cell(row["experiment"], row["arm"], row["optimizer"].lower(), batch_size, row["data"], seed, *deltas)


def _order(cell: Cell) -> tuple[object, ...]:
    return (*cell[:6], cell.delta_p or 0.0, cell.delta_q or 0.0)


def _run(cell: Cell, by_epoch: dict[int, list[str]]) -> Run:
    epochs = sorted(by_epoch)
    measured = {name: np.array([float(by_epoch[e][at]) for e in epochs]) for at, name in enumerate(MEASURED)}
    try:
        p = np.array([[float(value) for value in by_epoch[e][-1].split(";")] for e in epochs])
    except ValueError:  # not numbers, or not as many in each epoch
        raise ValueError(f"the column p of {cell} does not hold as many numbers in each epoch.") from None
    return Run(cell, np.array(epochs), measured, p)
