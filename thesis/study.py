"""A study as a folder in which each cell is a job: it can be interrupted, resumed, and shared by several processes.

* ``epochs.csv`` is the record of the trainings that are done; what is not in it is left to do.
* ``checkpoints/CELL.lock`` is locked by the process that trains the cell. The operating system frees it when the
  process ends, however it ends, and whoever is next goes on from ``checkpoints/CELL.ckpt``, written after each epoch.
* ``checkpoints/CELL.failed`` has the error of a training that failed. A process that starts later tries it again.
* ``protocol.json`` says what the folder is of.

A process that has got a lock looks into the record again: another one may have done the cell since it looked last. A
cell is locked for no other purpose, so that one whose lock is held can be left to the holder.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from filelock import FileLock, Timeout

from thesis.grid import GRIDS
from thesis.results import Cell, Row, read_rows, write_rows
from thesis.training import train

PROTOCOL = 1
"""Number of what is trained and measured; it goes up when rows of then and now are not to be compared."""


class Study:
    """Cells that are trained one after the other, and what all processes that share the folder know of them.

    Args:
        cells: What to train, in this order; all of one study.
        epochs: Length of each training.
        folder: Where everything is written; made if it is not there. One that has the ``epochs.csv`` of an earlier
            study of the same protocol is gone on with.
        device: The Trainer's accelerator, ``"cpu"``, ``"cuda"`` or ``"auto"``, which is a GPU if there is one.
            Default: ``"auto"``.

    Raises:
        ValueError: If `epochs` is below 1; if `device` is ``"cuda"`` and there is no GPU; if the folder cannot be
            written; if it is of another study, of other epochs, of another device or of another version of the
            protocol, or of an earlier version of this package and without an ``epochs.csv``.
    """

    def __init__(self, cells: Sequence[Cell], epochs: int, folder: Path, device: str = "auto") -> None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("`device` is 'cuda', but torch finds no GPU: give 'auto' or 'cpu'.")
        self._cells = list(cells)
        self._epochs = epochs
        self._folder = _writable(folder)
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self._experiment = cells[0].experiment
        self._earlier: Mapping[Cell, int] = {}  # failures that this process has found and tries again
        self._elsewhere = 0  # cells that other processes train
        self._spent = [0.0, 0.0]  # seconds of the wall and of the trainings' own clocks in this process
        with FileLock(folder / "study.lock"):  # two processes may begin at once
            self._check(certain=device != "auto" or self._device == "cpu")

    @property
    def failed(self) -> dict[str, str]:
        """By their names the selected cells that have failed and were not repeated since, with what went wrong."""
        return {cell.name: self._file(cell, "failed").read_text() for cell in self._failures()}

    def run(self) -> dict[str, str]:
        """Train all cells that are not done and that no other process is at; what has :attr:`failed` then."""
        self._tidy(self._record())
        self._earlier = self._failures()
        while True:
            claimed = self._claim()
            print(self._progress(), flush=True)
            if claimed is None:
                break
            cell, lock = claimed
            try:
                self._train(cell)
            finally:
                lock.release()
        if self._elsewhere:
            others = f"{self._elsewhere} are with other processes"
            print(f"{others}. If one dies, the same command goes on with what it leaves.")
        return self.failed

    def _claim(self) -> tuple[Cell, FileLock] | None:
        """The first cell that is due and that no other process trains, with its lock, which is held."""
        self._elsewhere = 0
        for cell in self._due(self._record()):
            lock = FileLock(self._file(cell, "lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._elsewhere += 1
                continue
            if cell in self._due(self._record()):  # see the module
                return cell, lock
            lock.release()
        return None

    def _train(self, cell: Cell) -> None:
        self._file(cell, "failed").unlink(missing_ok=True)
        try:
            rows = train(cell, self._epochs, self._file(cell, "ckpt"), self._device, self._reporter(cell))
        except Exception as error:
            resumed = self._file(cell, "ckpt")
            anew = f" (to begin the training anew, delete {resumed})" if resumed.exists() else ""
            self._file(cell, "failed").write_text(f"{type(error).__name__}: {error}{anew}")
            return
        with FileLock(self._folder / "epochs.csv.lock"):
            order = {cell: at for at, cell in enumerate(GRIDS[self._experiment])}
            done = {**self._record(), cell: rows}
            ordered = sorted(done, key=lambda cell: (cell.seed, order[cell._replace(seed=0)]))
            write_rows(self._folder / "epochs.csv", {cell: done[cell] for cell in ordered})
        self._tidy([cell])

    def _reporter(self, cell: Cell) -> Callable[[list[Row]], None]:
        """Prints the last row of a training after each epoch, and sums up how long it takes."""
        begun = before = time.monotonic()
        done = 0

        def report(rows: list[Row]) -> None:
            nonlocal before, done
            now, last = time.monotonic(), rows[-1]
            self._spent[0] += now - before
            self._spent[1] += float(last["seconds"]) - float(rows[-2]["seconds"])
            before, done = now, done + 1
            rest = (now - begun) / done * (self._epochs - len(rows) + 1)
            print(
                f"  {cell.name}: epoch {len(rows) - 1} of {self._epochs}, "
                f"training cost {float(last['training_cost_mean']):.2e}, "
                f"test accuracy {float(last['test_accuracy']):.2%}, {duration(rest)} to go",
                flush=True,
            )

        return report

    def _due(self, done: Mapping[Cell, object]) -> list[Cell]:
        """The selected cells that are to be trained, by this process or by another one."""
        failed, earlier = self._failures(), self._earlier
        return [cell for cell in self._cells if cell not in done and failed.get(cell) in (None, earlier.get(cell))]

    def _failures(self) -> dict[Cell, int]:
        """Of the selected cells that have failed, when that was."""
        found = {}
        for cell in self._cells:
            with suppress(FileNotFoundError):
                found[cell] = self._file(cell, "failed").stat().st_mtime_ns
        return found

    def _record(self) -> dict[Cell, list[Row]]:
        """The trainings that are done, selected or not."""
        file = self._folder / "epochs.csv"
        return read_rows(file) if file.exists() else {}

    def _progress(self) -> str:
        """What is done, what is left, and how long that takes."""
        record = self._record()
        due = self._due(record)
        done = len([cell for cell in self._cells if cell in record])
        failed = len(self._cells) - done - len(due)
        line = f"{self._experiment}: {done} of {len(self._cells)} trainings done"
        line += f", {failed} failed, {len(due)} left" if failed else f", {len(due)} left"
        paces = {cell: float(rows[-1]["seconds"]) / self._epochs for cell, rows in record.items()}
        seconds = seconds_left(due, paces)
        if not due or seconds is None:
            return line
        wall, clock = self._spent  # the wall's time goes on while measuring, and beside other processes
        beside = wall / clock if clock else 1.0
        return f"{line}, about {duration(seconds * self._epochs * beside / (1 + self._elsewhere))}"

    def _check(self, certain: bool) -> None:
        """Refuse a folder of something else; say in a new one what it is of.

        Args:
            certain: Whether the device was given or there is only one.

        Raises:
            ValueError: If it is of something else.
        """
        csv, json_file = self._folder / "epochs.csv", self._folder / "protocol.json"
        if (self._folder / "study.db").exists() and not csv.exists():
            raise ValueError(
                f"`folder` {self._folder} has the study.db of an earlier version and no epochs.csv, which is the "
                "record now: have that version write it, or give another `folder`."
            )
        wanted = {"experiment": self._experiment, "epochs": self._epochs, "version": PROTOCOL}
        wanted["arms"] = " ".join(dict.fromkeys(cell.arm for cell in GRIDS[self._experiment]))
        wanted["device"] = self._device  # `seconds` are the processor's on a CPU, and the clock's elsewhere
        record = self._record()
        protocols = [json.loads(json_file.read_text())] if json_file.exists() else []
        if record and not protocols and not certain:
            raise ValueError(f"{csv} has no protocol.json beside it, which says on what it was trained: give `device`.")
        protocols += [
            {**wanted, "experiment": cell.experiment, "epochs": int(rows[-1]["epoch"])} for cell, rows in record.items()
        ]
        for found in protocols:
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise ValueError(
                        f"The study there has `{name}` {found.get(name)}, but here it is {value}: give the same, or "
                        "another `folder`."
                    )
        for cell in record:
            if cell._replace(seed=0) not in GRIDS[self._experiment]:
                raise ValueError(f"{csv} has {cell.name}, which is no cell of the study: give another `folder`.")
        if not json_file.exists():
            json_file.with_suffix(".unfinished").write_text(json.dumps(wanted))
            json_file.with_suffix(".unfinished").replace(json_file)
        if not csv.exists():
            write_rows(csv, {})

    def _tidy(self, done: Iterable[Cell]) -> None:
        """Delete the files of cells that are done."""
        for cell in done:
            for kind in ("ckpt", "failed", "lock"):
                self._file(cell, kind).unlink(missing_ok=True)

    def _file(self, cell: Cell, kind: str) -> Path:
        return self._folder / "checkpoints" / f"{cell.name}.{kind}"


def seconds_left(cells: Sequence[Cell], known: Mapping[Cell, float]) -> float | None:
    """Seconds that one epoch of each of the cells takes together.

    Each is taken to last as long as the median of the known ones with its batch size and arm; if there are none, of
    those with its batch size; if there are none either, of all.

    Args:
        cells: What is left.
        known: Seconds that an epoch takes by cell.

    Returns:
        None if nothing is known.
    """
    if not known:
        return None
    total = 0.0
    for cell in cells:
        of_size = {other: seconds for other, seconds in known.items() if other.batch_size == cell.batch_size}
        of_arm = {other: seconds for other, seconds in of_size.items() if other.arm == cell.arm}
        total += median((of_arm or of_size or known).values())
    return total


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _writable(folder: Path) -> Path:
    """The folder, made if it is not there, and the one for checkpoints.

    Raises:
        ValueError: If it cannot be written.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(f"`folder` {folder} cannot be written ({error}): give another one.") from error
