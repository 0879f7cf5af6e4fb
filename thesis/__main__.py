"""The commands ``python -m thesis run`` and ``python -m thesis report``, from the root of a checkout."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PUBLISHED = Path("benchmarks/results")
REPORTS = {"thesis": PUBLISHED / "thesis" / "report", "evidence": PUBLISHED / "evidence"}
"""Where the reports of the published results are."""
PAGE = Path("docs/evidence.md")
"""The page that is made of the published results."""
_OWN = Path("experiments")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the arguments say.

    Args:
        arguments: Default: those of the process.

    Raises:
        SystemExit: With 2 and what is wrong, before the first training or before anything is written; with 1 if a
            training has failed; with 130 if the process was told to stop.
    """
    parser = argparse.ArgumentParser("python -m thesis", description="The thesis's studies, run again and reported.")
    commands = parser.add_subparsers(dest="command", required=True)
    try:
        run, report = _run_parser(commands), _report_parser(commands)
        options = parser.parse_args(arguments)
        if options.command == "run":
            own = sys.orig_argv[1:] if arguments is None else ["-m", "thesis", *arguments]
            _run(options, run, [sys.executable, *own, "--processes=1"])
        else:
            _report(options, report)
    except ModuleNotFoundError as error:
        parser.error(f'{error.name} is not installed: in a checkout, pip install ".[thesis]"')


def _run_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    from thesis.grid import GRIDS

    about = (
        "Run a study, or what is left of it: started again, it goes on where it was. Several processes may work at one "
        "at once."
    )
    parser = commands.add_parser("run", help="train the cells of a study", description=about)
    parser.add_argument("study", choices=list(GRIDS), help="which one")
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
    parser.add_argument("--folder", type=Path, help=f"where everything is written (default: {_OWN}/STUDY)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what trains (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of a process (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=1, help="trainings side by side, also on one GPU (default: %(default)s)"
    )
    parser.add_argument("--storage", help=argparse.SUPPRESS)  # of an earlier version
    return parser


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser, command: Sequence[str]) -> None:
    import torch

    from thesis.grid import cells, select
    from thesis.study import Study

    folder = _OWN / options.study if options.folder is None else options.folder
    try:
        if options.storage is not None:
            raise ValueError("`storage` is gone: processes share a `folder`, whose epochs.csv is the record now.")
        for name in ("threads", "processes"):
            if getattr(options, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
        selected = select(cells(options.study, options.seeds, options.first_seed), options.only)
        _quieten()
        torch.set_num_threads(options.threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 is what is said, and of the GPUs of today not the default
        study = Study(selected, options.epochs, folder, options.device)
        with _beside(options.processes - 1, command) as codes:
            study.run()
    except ValueError as error:
        parser.error(str(error))
    except (KeyboardInterrupt, SystemExit):
        print("Stopped. The same command goes on from the last epoch.", flush=True)
        raise SystemExit(130) from None
    print(f"What was measured is in {folder / 'epochs.csv'}.")
    for name, message in study.failed.items():
        print(f"Failed: {name}: {message}")
    if study.failed or any(codes):
        print("The same command tries what has failed again.")
        raise SystemExit(1)


@contextmanager
def _beside(others: int, command: Sequence[str]) -> Iterator[list[int]]:
    """With other processes that share the folder: they are waited for, or end with this one if it breaks off.

    Yields:
        Their exit codes, which are there after the context.
    """
    started = [subprocess.Popen(command) for _ in range(others)]
    codes: list[int] = []
    try:
        yield codes
        codes += [process.wait() for process in started]
    finally:
        for process in started:
            process.terminate()  # which does nothing to one that has ended


def _report_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    about = (
        "Write reports: pages, CSV tables and PNG figures. `thesis`: its Tables 2 to 4 and Figures 13 to 28, beside "
        "what it prints. `evidence`: what all studies say about the questions of docs/evidence.md."
    )
    parser = commands.add_parser("report", help="make tables and figures of results", description=about)
    parser.add_argument("what", nargs="*", help=f"{' or '.join(REPORTS)} (default: both)")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="PATH",
        help=f"epochs.csv files, or folders of one (default: the published ones in {PUBLISHED})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder to write into, of two reports one in it for each (default: where those of the published results "
        f"are, and with --results {_OWN}/report/ and what is reported)",
    )
    return parser


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name in options.what:
        if name not in REPORTS:
            parser.error(f"invalid choice: {name!r} (choose from {', '.join(REPORTS)})")
    from thesis.page import page
    from thesis.report import evidence_report, thesis_report, write
    from thesis.results import read
    from thesis.tables import Tables

    outputs = _outputs(options)
    try:
        runs = read(options.results or sorted(PUBLISHED.glob("*/epochs.csv")) or [PUBLISHED])
        for output in outputs.values():
            _check_writable(output)
        tables, make = Tables(runs), {"thesis": thesis_report, "evidence": evidence_report}
        files = {output: make[name](tables) for name, output in outputs.items()}
        if REPORTS["evidence"] in outputs.values():
            files[PAGE.parent] = {PAGE.name: page(tables).encode()}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for output, made in files.items():
        try:
            write(made, output)
        except OSError as error:
            parser.error(f"--output {output} cannot be written ({error}): give another.")
    for output in outputs.values():
        print(f"The report of {len(runs)} runs is in {output}.")
    if PAGE.parent in files:
        print(f"{PAGE} is made of them.")


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """Where each report goes."""
    names = list(dict.fromkeys(options.what or REPORTS))
    if options.output is not None:
        return {name: options.output / name if len(names) > 1 else options.output for name in names}
    return {name: REPORTS[name] if options.results is None else _OWN / "report" / name for name in names}


def _check_writable(folder: Path) -> None:
    """Before anything is computed, and without making the folder."""
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK | os.X_OK):
        raise NotADirectoryError(f"--output {folder}: {at} is not a folder that can be written to. Give another.")


def _quieten() -> None:
    """Leave the screen to the progress."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "torch"):
        warnings.filterwarnings("ignore", module=module)


if __name__ == "__main__":
    main()
