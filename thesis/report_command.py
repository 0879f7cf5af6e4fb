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
        description="Write a report of the results of `lightning-as experiment`: a page, CSV tables and PNG figures. "
        "`thesis`: its Tables 2 to 4 and Figures 13 to 28, beside what it prints. `evidence`: what all experiments say "
        "about the questions of docs/evidence.md.",
    )
    parser.add_argument("what", choices=["thesis", "evidence"], help="what to report")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="PATH",
        help=f"epochs.csv files, or folders of one (default: {RESULTS}; of evidence: every folder beside it)",
    )
    parser.add_argument(
        "--output", type=Path, help=f"folder to write into (default: {RESULTS.parent}/report/ and what is reported)"
    )
    options = parser.parse_args(arguments)
    output = RESULTS.parent / "report" / options.what if options.output is None else options.output
    try:
        from thesis.evidence_report import evidence_report
        from thesis.report import report, write
        from thesis.results import read
    except ModuleNotFoundError as error:
        parser.error(f'{error.name} is not installed: in a checkout, pip install ".[experiments]"')
    try:
        runs = read(options.results or _results(options.what))
        _check_writable(output)
        files = report(runs) if options.what == "thesis" else evidence_report(runs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        write(files, output)
    except OSError as error:
        parser.error(f"--output {output} cannot be written ({error}): give another.")
    print(f"The report of {len(runs)} runs is in {output}.")


def _results(what: str) -> list[Path]:
    found = sorted(RESULTS.parent.glob("*/epochs.csv")) if what == "evidence" else []
    return found or [RESULTS]


def _check_writable(folder: Path) -> None:
    """Before anything is computed, and without making the folder."""
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK | os.X_OK):
        raise NotADirectoryError(f"--output {folder}: {at} is not a folder that can be written to. Give another.")
