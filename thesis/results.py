"""What was measured: a cell is a training, ``epochs.csv`` has a row for each of its epochs, a run has its arrays."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

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
ROW = ("epoch", *MEASURED, "p")
"""What a row says of an epoch; ``p`` are numbers with semicolons between them."""
PROBED = (
    "variance_layer",
    *(f"ratio_{name}" for name in ("own", "own_floor", "q_loss", "q_bound", "q_norm", "p_sizes", "p_best")),
    *(f"ratio_{name}" for name in ("loss", "bound", "norm", "presample")),
    "moment_logits",
    "moment_batch",
    "rank_loss_bound",
    "factor_low",
    "factor_median",
    "factor_high",
    "rank_bound_norm",
    "rank_loss_norm",
    "pearson_bound_norm",
    "pearson_loss_norm",
)
"""What the study ``variance`` measures beside it, see :mod:`thesis.gradients`; other files have no such columns."""
Row = dict[str, str]
"""An epoch's numbers as text, by the names of :data:`ROW`, and of :data:`PROBED` if there are any."""
COLUMNS = ("experiment", "arm", "optimizer", "batch_size", "data", "seed", *ROW[:-1], "delta_p", "delta_q", "p")
"""The columns of the file, in order."""

COLLAPSED = 1e-3
"""A smallest entry of P below this one, a hundredth of a bin's equal share on MNIST, is a collapse."""

Optimizer = Literal["adadelta", "adam"]


class Cell(NamedTuple):
    """One training: what is the same in all its epochs."""

    experiment: str
    """The name of the study, such as ``"thesis"``."""
    arm: str
    """How instances are drawn: a key of :data:`thesis.grid.ARMS`."""
    optimizer: Optimizer
    """With the thesis's settings, see :class:`lightning_as.ConvNetClassifier`."""
    batch_size: int
    """Images per batch."""
    data: str
    """What is trained on: a key of :data:`thesis.grid.DATA`."""
    seed: int
    """Seed of everything: parameters, draws and dropout. The data is the same for all."""
    delta_p: float | None = None
    """δp, if it is not the arm's own."""
    delta_q: float | None = None
    """δq, if it is not the arm's own."""

    @property
    def name(self) -> str:
        """What it is, in one word that can be the name of a file."""
        deltas = "" if self.delta_p is None else f"-p{self.delta_p:g}-q{self.delta_q:g}"
        return f"{self.experiment}-{self.arm}-{self.optimizer}_{self.batch_size}-{self.data}{deltas}-seed{self.seed}"


class Run(NamedTuple):
    """One training that was measured."""

    cell: Cell
    epochs: NDArray[np.int64]
    """Epochs done at each measurement, rising, (E,); 0 is before the first step."""
    measured: dict[str, NDArray[np.float64]]
    """Of each column of :data:`MEASURED`, and of :data:`PROBED` if there are any, (E,); nats, shares of 1, seconds,
    numbers of instances, squared norms."""
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
            Where the ``protocol.json`` beside a file says that a GPU has trained, which several trainings share, the
            seconds are no number, see :func:`timed`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file has other columns or no rows, a value is no number, a file has an epoch of a run twice, or
            two files differ about one, in more than its seconds.
    """
    longest: dict[Cell, dict[int, Row]] = {}
    for path in paths:
        file = Path(path) / "epochs.csv" if Path(path).is_dir() else Path(path)
        found = read_rows(file)
        if not found:
            raise ValueError(f"{file} has no rows: nothing has been run yet.")
        untimed = {} if _on_a_cpu(file) else {"seconds": "nan"}
        for cell, rows in found.items():
            epochs = {int(row["epoch"]): row | untimed for row in rows}
            before = longest.setdefault(cell, epochs)
            for epoch in before.keys() & epochs.keys():
                if before[epoch] != {**epochs[epoch], "seconds": before[epoch]["seconds"]}:
                    raise ValueError(
                        f"{file}: epoch {epoch} of {cell} was read before, with other figures. Leave one out."
                    )
            if max(epochs) > max(before):
                longest[cell] = epochs
    ordered = sorted(longest, key=lambda cell: (*cell[:6], cell.delta_p or 0.0, cell.delta_q or 0.0))
    return [_run(cell, list(longest[cell].values())) for cell in ordered if max(longest[cell]) > 0]


def read_rows(file: Path) -> dict[Cell, list[Row]]:
    """What a file has of each cell, by rising epochs, as text.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it has other columns, a value is no number, or an epoch stands there twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give an epochs.csv, or the folder of one.")
    found: dict[Cell, dict[int, Row]] = {}
    for place, row in _lines(file):
        epoch, cell = int(_number(row, "epoch", place, int)), _cell(row, place)
        for name in row.keys() - set(COLUMNS) | set(MEASURED):
            _number(row, name, place, float)
        epochs = found.setdefault(cell, {})
        if epoch in epochs:
            raise ValueError(f"{place}: epoch {epoch} of {cell} was read before in this file. Leave one out.")
        epochs[epoch] = {name: row[name] for name in (*ROW, *PROBED) if name in row}
    return {cell: [epochs[epoch] for epoch in sorted(epochs)] for cell, epochs in found.items()}


def write_rows(file: Path, finished: Mapping[Cell, Sequence[Row]]) -> None:
    """Write a file anew, in one step: whoever reads it finds the whole old or the whole new one.

    Args:
        file: The file.
        finished: The rows of each cell, in the order in which they are written.
    """
    probed = tuple(PROBED) if any(PROBED[0] in row for rows in finished.values() for row in rows) else ()
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, newline="", delete=False) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS + probed)
        for cell, rows in finished.items():
            of_cell = {name: "" if value is None else f"{value:.6g}" for name, value in _deltas(cell).items()}
            of_cell |= {name: str(getattr(cell, name)) for name in COLUMNS[:6]}
            writer.writerows([{**of_cell, **row}[name] for name in COLUMNS + probed] for row in rows)
    os.chmod(stream.name, 0o644)  # a temporary file is its owner's alone
    os.replace(stream.name, file)


def of_setting(
    runs: Sequence[Run],
    experiment: str,
    optimizer: str,
    batch_size: int,
    arm: str | None = None,
    deltas: tuple[float, float] | None = None,
) -> list[Run]:
    """The runs of one setting, on the full data.

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


def timed(runs: Sequence[Run]) -> list[Run]:
    """Those whose seconds compare with others'."""
    return [run for run in runs if np.isfinite(run.measured["seconds"]).all()]


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


def _on_a_cpu(file: Path) -> bool:
    protocol = file.with_name("protocol.json")
    return not protocol.is_file() or json.loads(protocol.read_text()).get("device", "cpu") == "cpu"


def _lines(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of a file by their columns, each with its place for messages."""
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        try:
            header, rows = reader.fieldnames or [], list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not a CSV file: {error}.") from None
    known = COLUMNS if PROBED[0] not in header else COLUMNS + PROBED
    missing, unknown = [c for c in known if c not in header], [c for c in header if c not in known]
    if missing or unknown:
        raise ValueError(
            f"{file} has not the columns of an epochs.csv: missing {missing}, unknown {unknown}. "
            "`python -m thesis run` writes such a file."
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():  # DictReader's marks of too many and too few values
            raise ValueError(f"{file}, line {number} has not {len(known)} values. Was it cut off? Leave it out.")
        yield f"{file}, line {number}", row


def _number(row: dict[str, str], name: str, place: str, kind: type) -> float:
    try:
        return kind(row[name])
    except ValueError:
        raise ValueError(f"{place}: {name} is {row[name]!r}, which is not a number ({kind.__name__}).") from None


def _cell(row: dict[str, str], place: str) -> Cell:
    deltas = [_number(row, name, place, float) if row[name] else None for name in ("delta_p", "delta_q")]
    batch_size, seed = int(_number(row, "batch_size", place, int)), int(_number(row, "seed", place, int))
    optimizer = cast(Optimizer, row["optimizer"].lower())
    return Cell(row["experiment"], row["arm"], optimizer, batch_size, row["data"], seed, *deltas)


def _deltas(cell: Cell) -> dict[str, float | None]:
    return {"delta_p": cell.delta_p, "delta_q": cell.delta_q}


def _run(cell: Cell, rows: Sequence[Row]) -> Run:
    measured = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name not in ("epoch", "p")}
    try:
        p = np.array([[float(value) for value in row["p"].split(";")] for row in rows])
    except ValueError:  # not numbers, or not as many in each epoch
        raise ValueError(f"the column p of {cell} does not hold as many numbers in each epoch.") from None
    return Run(cell, np.array([int(row["epoch"]) for row in rows]), measured, p)
