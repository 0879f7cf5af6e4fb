"""The table of runs: a line for each, added when it is done; what stands there is not run again."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import NamedTuple, get_args

from lightning_as.comparison.budget import NOISE, Budget
from lightning_as.comparison.trial import Trial

FIELDS = (
    "rival",
    "seed",
    "budget",
    "share",
    "steps",
    "seconds",
    "start_seconds",
    "step_seconds",
    "fingerprint",
    "metrics",
)
"""The columns. Seconds are of the training without its validations; metrics are JSON. The share is
what part of the steps of a whole run it was to have, which an early stopping may have made fewer."""


class Run(NamedTuple):
    """A line of the table."""

    rival: str
    seed: int
    budget: Budget
    """What it has in common with the run of uniform sampling of this seed: ``"steps"``, or ``"time"``."""
    trial: Trial
    fingerprint: str
    """Of the setting and the rival."""
    share: float = 1.0
    """Of the steps of a whole run, that it was to have."""

    @property
    def seconds(self) -> float:
        """Seconds of training, without validations."""
        return self.trial.start_seconds + self.trial.steps * self.trial.step_seconds


class Results:
    """The table in a folder.

    Args:
        folder: Where it is, or is to be.

    Raises:
        ValueError: If the folder cannot be written, or has a `results.csv` that is none of ours.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "results.csv"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            self.runs = self._read()
        except OSError as error:
            raise ValueError(f"`out` is {str(folder)!r}, which cannot be written ({error}): give another.") from error

    def find(self, fingerprint: str, seed: int, budget: Budget, share: float | None = None) -> Run | None:
        """The run of a rival that is there; None if there is none.

        Args:
            fingerprint: Of the setting and the rival.
            seed: Of the run.
            budget: What it has in common with uniform sampling.
            share: Of the steps, but for :data:`NOISE`. Default: any.
        """
        wanted = (fingerprint, seed, budget)
        found = (run for run in self.runs if (run.fingerprint, run.seed, run.budget) == wanted)
        return next((run for run in found if share is None or abs(run.share - share) <= NOISE * share), None)

    def add(self, run: Run) -> None:
        """Add a run; it is on the disk when this returns."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        with self.path.open("a+b") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                writer.writerow(FIELDS)
            trial = run.trial
            times = (f"{seconds:.6g}" for seconds in (run.seconds, trial.start_seconds, trial.step_seconds))
            cells = (run.rival, run.seed, run.budget, f"{run.share:.6g}", trial.steps, *times, run.fingerprint)
            writer.writerow((*cells, json.dumps(trial.metrics)))
            stream.write(text.getvalue().encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.runs.append(run)

    def _read(self) -> list[Run]:
        """The runs that are there; a line that was cut off is taken out, since none could be added behind it."""
        with self.path.open("r+", newline="", encoding="utf-8") as stream:
            text = stream.read()
            if text and not text.startswith(",".join(FIELDS)):
                raise ValueError(f"{self.path} has other columns than {', '.join(FIELDS)}: give another folder, `out`.")
            whole = text[: text.rfind("\n") + 1]
            stream.truncate(len(whole.encode()))
        return [run for row in csv.DictReader(io.StringIO(whole)) if (run := _run(row)) is not None]


def _run(row: dict[str, str]) -> Run | None:
    try:
        metrics = {str(name): float(value) for name, value in json.loads(row["metrics"]).items()}
        trial = Trial(int(row["steps"]), float(row["start_seconds"]), float(row["step_seconds"]), metrics)
        budget = next(one for one in get_args(Budget) if one == row["budget"])
        return Run(row["rival"], int(row["seed"]), budget, trial, row["fingerprint"], float(row["share"]))
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        return None
