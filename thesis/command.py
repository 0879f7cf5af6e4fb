"""The command ``lightning-as experiment``."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
import torch

from thesis.grid import GRIDS, cells, select
from thesis.study import Study


def run(arguments: Sequence[str]) -> None:
    """Run an experiment, or what is left of it.

    Args:
        arguments: Those after ``experiment``.

    Raises:
        SystemExit: With what is wrong, before the first training; with 1 if a training has failed; with 130 if the
            process was told to stop.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.threads < 1:
            raise ValueError(f"`threads` must be at least 1, got {options.threads}.")
        selected = select(cells(options.experiment, options.seeds, options.first_seed), options.only)
        folder = Path("experiments", options.experiment) if options.folder is None else options.folder
        _quieten()
        torch.set_num_threads(options.threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 is what is said, and of the GPUs of today not the default
        study = Study(selected, options.epochs, folder, options.storage, options.device)
        failed = study.run()
    except ValueError as error:  # the study's may come as it begins to run, if two processes have made it at once
        sys.exit(f"lightning-as experiment: {error}")
    except (KeyboardInterrupt, SystemExit):
        print("Stopped. The same command goes on from the last epoch.", flush=True)
        raise SystemExit(130) from None
    print(f"What was measured is in {folder / 'epochs.csv'}.")
    for name, message in failed.items():
        print(f"Failed: {name}: {message}")
    if failed:
        print("The same command tries what has failed again.")
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-as experiment",
        description="Run an experiment, or what is left of it: started again, it goes on where it was. "
        "Several processes may work at one at once.",
    )
    parser.add_argument("experiment", choices=list(GRIDS), help="which one")
    parser.add_argument("--epochs", type=int, default=15, help="length of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="arms, optimizers, batch sizes, both as in adam_64, or data (default: all)",
    )
    parser.add_argument("--folder", type=Path, help="where everything is written (default: experiments/EXPERIMENT)")
    parser.add_argument("--storage", metavar="URL", help="an Optuna storage to share (default: SQLite in the folder)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what trains (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of a process (default: %(default)s)")
    return parser


def _quieten() -> None:
    """Leave the screen to the progress."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "torch"):
        warnings.filterwarnings("ignore", module=module)
