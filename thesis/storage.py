"""Where a study is kept, and what a cell looks like in it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial

from thesis.grid import GRIDS, Cell

NAME = "lightning-as"
"""The study's name in its storage."""

_HEARTBEAT = 30  # seconds
GRACE = 180  # seconds without a heartbeat after which a process is taken for dead


def writable(folder: Path) -> Path:
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


def open_study(url: str) -> optuna.Study:
    """The study in a storage, made if it is not there.

    Raises:
        ValueError: If the storage cannot be opened.
    """
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # seconds, for other writers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(url, waiting, heartbeat_interval=_HEARTBEAT, grace_period=GRACE)
        # Nothing is sampled: all parameters of a trial are given.
        return optuna.create_study(storage=storage, sampler=RandomSampler(), study_name=NAME, load_if_exists=True)
    except Exception as error:  # of SQLAlchemy, of a database's driver, of a driver that is missing
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"`storage` cannot be opened ({reason}): give another URL.") from error


def parameters(cell: Cell) -> dict[str, Any]:
    """The parameters of a cell's trial."""
    return {name: value for name, value in vars(cell).items() if name != "experiment" and value is not None}


def suggest(trial: Trial, experiment: str) -> None:
    """Have the trial take the parameters that it was enqueued with."""
    for name in ("arm", "optimizer", "batch_size", "data"):
        trial.suggest_categorical(name, list(dict.fromkeys(getattr(cell, name) for cell in GRIDS[experiment])))
    trial.suggest_int("seed", 0, 2**31)
    if GRIDS[experiment][0].delta_p is not None:
        trial.suggest_float("delta_p", 0, 1)
        trial.suggest_float("delta_q", 0, 1)


def cell_of(trial: Trial | FrozenTrial, experiment: str) -> Cell:
    """The cell of a trial."""
    return Cell(experiment, **trial.params)
