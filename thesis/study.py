"""An experiment as an Optuna study, in which each cell is a trial: it can be interrupted, resumed and shared.

A cell is asked for by `enqueue_trial`, not by Optuna's `GridSampler`: that one knows its grid from the beginning, so
that it cannot take over the cells of a smaller one when seeds are added or another part is selected, it may give one
point to two processes, and it never repeats a trial that has failed.

How several processes share a study without doing a cell twice:

* A trial is live while it waits, runs, or is complete. A cell with a live trial is not begun. Two processes that begin
  one at the same moment make two trials; the one with the lower number stays, the other gives way before it trains.
* A process holds the lock on its cell's file in the folder while it works on it. The system frees it when the process
  ends, however it ends: a running trial of this machine and folder whose lock is free is dead, and its cell goes on.
* Elsewhere the heartbeat of Optuna's storage tells: a trial that has not been heard of for a while is failed. If its
  process was only asleep, it notices at the end of its epoch, and gives way.
"""

from __future__ import annotations

import json
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from thesis import epochs_csv
from thesis.grid import GRIDS, Cell
from thesis.measurements import Row
from thesis.pace import duration, left
from thesis.storage import GRACE, cell_of, open_study, parameters, suggest, writable
from thesis.training import train

PROTOCOL = 1
"""Number of what is trained and measured; it goes up when rows of then and now are not to be compared."""
_LIVE = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
_PATIENCE = 5.0  # seconds for a lock that another process may hold for a moment, to see whether it is free


class Study:
    """Cells that are trained one after the other, and what is known of them from all processes that share the study.

    Args:
        cells: What to train, in this order; all of one experiment.
        epochs: Length of each training.
        folder: Where `epochs.csv`, checkpoints, locks and the default storage are; made if it is not there.
        storage: URL of a database as Optuna takes it. Default: SQLite in the folder.
        device: The Trainer's accelerator, ``"cpu"``, ``"cuda"`` or ``"auto"``, which is a GPU if there is one.
            Default: ``"auto"``.

    Raises:
        ValueError: If `epochs` is below 1; if `device` is ``"cuda"`` and there is no GPU; if the folder cannot be
            written; if the storage cannot be opened; if its study, or that of the folder, is of another experiment, of
            other epochs, of another device or of another version of the protocol.
    """

    def __init__(
        self, cells: Sequence[Cell], epochs: int, folder: Path, storage: str | None = None, device: str = "auto"
    ) -> None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("`device` is 'cuda', but torch finds no GPU: give 'auto' or 'cpu'.")
        self._cells = {cell.name: cell for cell in cells}
        self._epochs = epochs
        self._folder = writable(folder)
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self._experiment = cells[0].experiment
        with FileLock(self._folder / "study.lock"):  # two processes must not make the tables, or a file, at once
            self._study = open_study(storage or f"sqlite:///{self._folder / 'study.db'}")
            self._check_protocol()
        self._passed_over: set[str] = set()  # cells that have failed here, or that another process holds
        self._lock: FileLock | None = None

    def run(self) -> dict[str, str]:
        """Train all cells that are not done and that no other process is at.

        Returns:
            The selected cells that have failed and were not repeated since, with what went wrong.
        """
        self._free_dead()
        self._write()
        print(self._progress(), flush=True)
        while True:
            self._check_protocol()  # as another process may have left it, if both made it at the same moment
            self._free_dead()
            cell = self._next()
            if cell is None and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                break
            if cell is not None:
                self._study.enqueue_trial(parameters(cell), user_attrs={"cell": cell.name})
            self._run_one()
        self._write()
        elsewhere = len(self._taken() - set(self._finished()))
        if elsewhere:
            print(f"{elsewhere} are with other processes. If one dies, the same command goes on with what it leaves.")
        return self._failed()

    def _run_one(self) -> None:
        """The oldest of the trials that wait. Nearly always it is this process's own."""
        try:
            self._study.optimize(self._objective, n_trials=1, catch=(Exception,), callbacks=[self._tidy])
        except (
            UpdateFinishedTrialError,
            ValueError,
        ) as error:  # Optuna's, where the trial was ended by another process
            print(f"  given way to another process: {error}", flush=True)
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
        self._write()
        print(self._progress(), flush=True)

    def _objective(self, trial: Trial) -> float:
        name = trial.user_attrs.get("cell")
        if name is None:
            raise TrialPruned("another process was quicker to take what waited")
        suggest(trial, self._experiment)
        cell = cell_of(trial, self._experiment)
        self._claim(trial, name)
        checkpoint = self._file(name, "ckpt")
        try:
            rows = train(cell, self._epochs, checkpoint, self._device, self._reporter(trial, cell))
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            self._passed_over.add(name)
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        trial.set_user_attr("rows", rows)  # if only the end was left to do, they have not been reported
        cost = float(rows[-1]["training_cost_mean"])
        return cost if cost < float("inf") else float("inf")  # Optuna takes a NaN for a failure

    def _reporter(self, trial: Trial, cell: Cell) -> Callable[[list[Row]], None]:
        """Writes the rows of a training into its trial after each epoch, and prints the last."""
        start, done = time.monotonic(), 0

        def report(rows: list[Row]) -> None:
            nonlocal done
            done += 1
            pace = (time.monotonic() - start) / done
            trial.set_user_attr("rows", rows)  # an error if another process has ended the trial: give way
            trial.set_user_attr("seconds_per_epoch", pace)
            epoch, cost = len(rows) - 1, float(rows[-1]["training_cost_mean"])
            trial.report(cost, epoch)
            accuracy, rest = float(rows[-1]["test_accuracy"]), duration(pace * (self._epochs - epoch))
            print(
                f"  {cell.name}: epoch {epoch} of {self._epochs}, training cost {cost:.2e}, test accuracy "
                f"{accuracy:.2%}, {rest} to go",
                flush=True,
            )

        return report

    def _claim(self, trial: Trial, name: str) -> None:
        """Make sure that no one else works on the cell; see the module.

        Raises:
            TrialPruned: If someone does.
        """
        self._lock = FileLock(self._file(name, "lock"))
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            self._lock = None
            self._passed_over.add(name)
            raise TrialPruned("another process of this machine is at it") from None
        trial.set_user_attr("place", self._place)  # from now on the lock tells whether this process lives
        if any(other.number < trial.number for other in self._trials(_LIVE) if other.user_attrs["cell"] == name):
            raise TrialPruned("another process was quicker to begin it")

    def _free_dead(self) -> None:
        """Fail the trials whose process has ended without a word."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._trials((TrialState.RUNNING,)):
            place, begun = trial.user_attrs.get("place"), trial.datetime_start
            if place is None and begun is not None and (datetime.now() - begun).total_seconds() > GRACE:
                # It died between its first moment and its first heartbeat, which is what Optuna goes by.
                with suppress(UpdateFinishedTrialError):
                    self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            if place != self._place:
                continue
            with suppress(Timeout, UpdateFinishedTrialError), FileLock(self._file(trial.user_attrs["cell"], "lock"), 0):
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _tidy(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Delete the files of a cell that is done, while its lock is held."""
        if trial.state == TrialState.COMPLETE:
            for kind in ("ckpt", "lock"):
                self._file(trial.user_attrs["cell"], kind).unlink(missing_ok=True)

    def _next(self) -> Cell | None:
        taken = self._taken() | self._passed_over
        return next((cell for name, cell in self._cells.items() if name not in taken), None)

    def _taken(self) -> set[str]:
        """The selected cells that someone works on or has done."""
        return {trial.user_attrs["cell"] for trial in self._trials(_LIVE)} & set(self._cells)

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        """The trials that are of a cell, by number."""
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [trial for trial in trials if "cell" in trial.user_attrs]

    def _finished(self) -> dict[str, FrozenTrial]:
        """Of each cell that is done, selected or not, its trial."""
        return {trial.user_attrs["cell"]: trial for trial in self._trials((TrialState.COMPLETE,))}

    def _failed(self) -> dict[str, str]:
        """Of each selected cell whose last trial has failed, what went wrong."""
        last = {trial.user_attrs["cell"]: trial for trial in self._trials() if trial.state != TrialState.PRUNED}
        return {name: last[name].user_attrs["error"] for name in self._cells if "error" in _attributes(last.get(name))}

    def _progress(self) -> str:
        """What is done, what is left, and how long that takes."""
        done, failed = self._finished(), self._failed()
        rest = [cell for name, cell in self._cells.items() if name not in done and name not in failed]
        line = f"{self._experiment}: {len(self._cells) - len(rest) - len(failed)} of {len(self._cells)} trainings done"
        line += f", {len(failed)} failed" if failed else ""
        paces = [(t, t.user_attrs["seconds_per_epoch"]) for t in self._trials() if "seconds_per_epoch" in t.user_attrs]
        seconds = left(rest, [(cell_of(trial, self._experiment), pace) for trial, pace in paces])
        processes = 1 + len([1 for t in self._trials((TrialState.RUNNING,)) if t.user_attrs["cell"] in self._cells])
        if rest and seconds is not None:
            return f"{line}, {len(rest)} left, about {duration(seconds * self._epochs / processes)}"
        return f"{line}, {len(rest)} left"

    def _write(self) -> None:
        """Write `epochs.csv` anew."""
        # Locked, so that what another process has read earlier does not replace what this one has read later.
        with FileLock(self._folder / "epochs.csv.lock"):
            order = {cell: at for at, cell in enumerate(GRIDS[self._experiment])}
            found = [(cell_of(t, self._experiment), t.user_attrs["rows"]) for t in self._finished().values()]
            found.sort(key=lambda pair: (pair[0].seed, order[replace(pair[0], seed=0)]))
            epochs_csv.write(self._folder / "epochs.csv", found)

    def _check_protocol(self) -> None:
        """Refuse a study of something else, and a folder of another study, whose results would be lost.

        Raises:
            ValueError: If it is one.
        """
        arms = " ".join(dict.fromkeys(cell.arm for cell in GRIDS[self._experiment]))
        wanted = {"experiment": self._experiment, "epochs": self._epochs, "version": PROTOCOL, "arms": arms}
        wanted["device"] = self._device  # as it is the processor's time that is measured on a CPU, and the clock's else
        file = self._folder / "protocol.json"
        of_folder = json.loads(file.read_text()) if file.exists() else wanted
        for found in (of_folder, self._study.user_attrs.get("protocol", wanted)):
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise ValueError(
                        f"The study there has `{name}` {found.get(name)}, but here it is {value}: give the same, or "
                        "another `folder`, and another `storage` if you give one."
                    )
        if "protocol" not in self._study.user_attrs:
            self._study.set_user_attr("protocol", wanted)
        if not file.exists():
            file.with_suffix(".unfinished").write_text(json.dumps(wanted))
            file.with_suffix(".unfinished").replace(file)

    def _file(self, cell: str, kind: str) -> Path:
        return self._folder / "checkpoints" / f"{cell}.{kind}"

    @property
    def _place(self) -> str:
        """Where locks of the same name are the same lock."""
        return f"{socket.gethostname()}:{self._folder.resolve()}"


def _attributes(trial: FrozenTrial | None) -> dict[str, Any]:
    return {} if trial is None else trial.user_attrs
