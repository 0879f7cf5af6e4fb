"""Accuracy against processor time: rivals at shares of the converged budget, with the schedule decayed within each.

A cell is a training from the same initial weights as its rivals' on the same data, on one thread, to the end of its
budget, where the learning rate is zero; the test set is evaluated once, after it, outside of the time. The converged
budget, the network and the metrics of each task stand in ``budgets/tasks.py``, the rivals in ``budgets/rivals.py``.

The table grows by a line per cell: a finished one is not run again, and a killed run loses only what was in progress.
For each seed, each task and each budget all rivals are run one after the other by one process, so that a run that is
stopped leaves a balanced table, and times are compared only within such a group: the processor's speed drifts.

    python benchmarks/budget.py [--quick] [--tasks 'mnist*'] [--rivals uniform 'InfoBatch(delta=1)'] [--seeds 0 1 2 3 4]
        [--budgets 0.25 0.5 1] [--workers 2] [--results benchmarks/results/budget.csv]
    python benchmarks/budget.py --report [--results …] [--output FOLDER]

Explore with seeds from 100 on and a table elsewhere: those of the table in the repository are for reporting alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process and its workers, before torch is loaded
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where this folder is a package, beside ours

from benchmarks.budgets import report
from benchmarks.budgets.outcomes import current, runs
from benchmarks.budgets.rivals import RIVALS, UNIFORM, make, specification
from benchmarks.budgets.table import cell, read
from benchmarks.budgets.tasks import QUICK, TASKS, made, select
from benchmarks.budgets.training import Group, left, measure, prepare, run

BUDGETS = (0.25, 0.5, 1.0)
CACHE = Path.home() / ".cache" / "lightning_as_budget"


def groups(options: argparse.Namespace) -> Iterator[Group]:
    """What is left to do, in the order in which every stop leaves a balanced table."""
    done = {cell(row) for row in read(options.results)}
    for at, seed in enumerate(options.seeds):
        for task in select(options.tasks):
            if at < task.seeds:
                yield from left(task, options.budgets, seed, options.rivals, done)


def fill(options: argparse.Namespace) -> list[str]:
    """Run what is left to do; what went wrong."""
    due = list(groups(options))
    cells = sum(len(group.rivals) for group in due)
    print(f"{cells} cells in {len(due)} groups, {options.workers} worker(s), into {options.results}", flush=True)
    failures: list[str] = []
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(options.workers, context, prepare) as pool:
        runs = {pool.submit(run, group, options.data, options.cache, options.results): group for group in due}
        try:
            for number, finished in enumerate(as_completed(runs), 1):
                group = runs[finished]
                print(
                    f"{number} of {len(due)}: {group.task.name}, budget {group.budget:g}, seed {group.seed}", flush=True
                )
                for failure in finished.result():
                    print(f"  failed: {failure}", flush=True)
                    failures.append(failure)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def reported(options: argparse.Namespace) -> dict[str, float]:
    """Write the report of a table; its figures."""
    rows = read(options.results)
    kept = current(rows)
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} of {len(rows)} lines are of other settings than today's, and left out.")
    folder = options.output or options.results.with_suffix("")
    figures = report.write(runs(kept), folder)
    print(f"{folder / 'report.md'} is written.")
    return figures


def quick() -> dict[str, float]:
    """Figures of two rivals on a part of MNIST: the difference in accuracy, in points, and the ratio of times."""
    prepare()
    data = made(QUICK, 0, Path(), Path())
    figures: dict[str, float] = {}
    for budget in (0.5, 1.0):
        rows = {rival: measure(QUICK, budget, 0, rival, data) for rival in (UNIFORM, "thesis")}
        accuracies = {rival: float(str(row["accuracy"])) for rival, row in rows.items()}
        seconds = {rival: float(str(row["seconds"])) for rival, row in rows.items()}
        figures |= {f"accuracy_{rival}_{budget:g}": accuracy for rival, accuracy in accuracies.items()}
        figures[f"difference_thesis_{budget:g}"] = round(100 * (accuracies["thesis"] - accuracies[UNIFORM]), 2)
        figures[f"time_ratio_thesis_{budget:g}"] = round(seconds["thesis"] / seconds[UNIFORM], 3)
    return figures


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: a part of MNIST, two rivals, no table")
    parser.add_argument("--report", action="store_true", help="say what the table has, and run nothing")
    parser.add_argument("--tasks", nargs="+", default=["*"], help=f"patterns of names: {', '.join(TASKS)}")
    parser.add_argument(
        "--rivals", nargs="+", default=list(RIVALS), help=f"{', '.join(RIVALS)}, or 'Strategy(option=value)'"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="CIFAR-10 takes the first two")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="shares of the converged budget")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "budget.csv")
    parser.add_argument("--output", type=Path, help="folder of the report (default: that of the table, without .csv)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of parsed data sets")
    options = parser.parse_args(arguments)
    if options.workers < 1 or min(options.budgets) <= 0:
        parser.error("`--workers` must be at least 1, and `--budgets` positive shares.")
    try:
        select(options.tasks)
        for rival in options.rivals:
            make(rival)  # which may refuse a value
        # One way of writing for what is written out.
        options.rivals = [rival if rival in RIVALS else specification(rival) for rival in options.rivals]
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> None:
    options = parsed()
    if options.quick:
        print(json.dumps({"benchmark": "budget", "figures": quick()}))
        return
    if options.report:
        print(json.dumps({"benchmark": "budget", "figures": reported(options)}))
        return
    failures = fill(options)
    print(
        json.dumps({"benchmark": "budget", "figures": {"cells": len(read(options.results)), "failed": len(failures)}})
    )
    sys.exit(f"{len(failures)} cells failed; the same command tries them again." if failures else 0)


if __name__ == "__main__":
    main()
