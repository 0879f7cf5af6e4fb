"""The command ``lightning-as report``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path("experiments/thesis")


def main(arguments: Sequence[str]) -> None:
    """Read the results, and write the report's folder.

    Args:
        arguments: Those after ``lightning-as report``.

    Raises:
        SystemExit: With code 2 and a message, if the results cannot be read or the folder cannot be written to.
    """
    parser = argparse.ArgumentParser(
        "lightning-as report",
        description="Write Tables 2 to 4 and Figures 13 to 28 of the thesis from the results of `lightning-as "
        "experiment`, beside what the thesis prints: report.md, CSV tables and PNG figures.",
    )
    parser.add_argument("what", choices=["thesis"], help="what to report")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[RESULTS],
        metavar="PATH",
        help=f"epochs.csv files, or folders of one (default: {RESULTS})",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "report", help="folder to write into (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        from lightning_as.experiments.report import report, write
        from lightning_as.experiments.results import read
    except ModuleNotFoundError as error:
        parser.error(f'{error.name} is not installed: pip install "lightning-as[experiments]"')
    try:
        runs = read(options.results)
        _check_writable(options.output)
        write(report(runs), options.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"The report of {len(runs)} runs is in {options.output / 'report.md'}.")


def _check_writable(folder: Path) -> None:
    """Before anything is computed, and without making the folder."""
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK | os.X_OK):
        raise NotADirectoryError(f"--output {folder}: {at} is not a folder that can be written to. Give another.")
