"""Whether uniform sampling's best learning rate is adaptive sampling's, too.

Adaptive draws change the gradient's size. Trainings of the tasks in ``budgets/tasks.py``, at a share of their converged
budget, with the learning rate times ½, 1 and 2, and beyond, where an end is the best of some rival; by Adam, which
divides by the gradient's size, and by stochastic gradient descent with momentum, which does not. Accuracies are
compared by factor, paired by seed: within a rival, and with uniform sampling at the same factor. ``lost_…`` is what a
rival would lose by keeping uniform sampling's best factor instead of taking its own; it is at least 0, since its own is
chosen by the same runs. The mean norm of the batches' gradients is recorded as well.

The table grows by a line per training: a finished one is not run again. All rivals at all factors of a seed are run
before the next seed, Adam before momentum, so that a run that is stopped leaves a balanced table.

    python benchmarks/learning_rate.py [--quick] [--report] [--tasks fashion-mnist mnist-wrong10] [--seeds 0 1 2]
        [--optimizers adam momentum] [--rivals uniform closeness thesis] [--budget 0.5]
        [--results benchmarks/results/learning_rate.csv]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where this folder is a package, beside ours

from benchmarks.budgets.data import Data
from benchmarks.budgets.learning_rates import (
    FACTORS,
    FIELDS,
    Optimizer,
    entries,
    factors,
    figures,
    key,
    markdown,
    runs,
    scaled,
)
from benchmarks.budgets.networks import Classifier, MomentumClassifier
from benchmarks.budgets.rivals import UNIFORM, make
from benchmarks.budgets.table import append, cell, read, version
from benchmarks.budgets.tasks import QUICK, TASKS, Task, made, select
from benchmarks.budgets.training import GradientNorm, evaluate, fit, prepare, steps_of

RIVALS = (UNIFORM, "closeness", "thesis")
CLASSIFIERS: dict[Optimizer, type[Classifier]] = {"adam": Classifier, "momentum": MomentumClassifier}


class Training(NamedTuple):
    """One line of the table."""

    task: Task
    """With the learning rate that the factor is on."""
    optimizer: Optimizer
    factor: float
    budget: float
    seed: int
    rival: str


def measure(training: Training, data: Data) -> dict[str, str]:
    """The line of a training."""
    task, optimizer, factor, budget, seed, rival = training
    norm, steps = GradientNorm(), steps_of(task, budget, data)
    faster = scaled(task, optimizer, factor)
    module, seconds = fit(faster, steps, seed, rival, data, [norm], CLASSIFIERS[optimizer])
    line = {
        **key(*training)[1]._asdict(),
        "optimizer": optimizer,
        "factor": f"{factor:g}",
        "learning_rate": f"{faster.learning_rate:g}",
        "steps": steps,
        "seconds": f"{seconds:.3f}",
        **{name: f"{value:.6f}" for name, value in evaluate(module, data).items()},
        "gradient_norm": f"{norm.mean:.6f}",
        "version": version(),
    }
    return {name: str(value) for name, value in line.items()}


def current(options: argparse.Namespace) -> list[dict[str, str]]:
    """The lines of trainings as they would be run now, of the tasks, rivals and the budget that are asked for."""
    kept = []
    for row in read(options.results, FIELDS):
        if row["task"] in TASKS and row["rival"] in options.rivals and row["optimizer"] in options.optimizers:
            task, factor = TASKS[row["task"]], float(row["factor"])
            of_now = key(task, row["optimizer"], factor, options.budget, int(row["seed"]), row["rival"])  # pyright: ignore[reportArgumentType]
            if task in select(options.tasks) and of_now == (row["optimizer"], cell(row)):
                kept.append(row)
    return kept


def left(options: argparse.Namespace) -> Iterator[Training]:
    """What is to be done of what is not in the table, in the order in which every stop leaves a balanced one.

    The factors beyond an end are asked for when the middle ones are there.
    """
    rows = current(options)
    done, found = {(row["optimizer"], cell(row)) for row in rows}, runs(rows)
    for optimizer in options.optimizers:
        for seed in options.seeds:
            for task in select(options.tasks):
                rivals = {rival: found.get((optimizer, task.name), {}).get(rival, {}) for rival in options.rivals}
                for factor in factors(rivals, options.seeds):
                    for rival in options.rivals:
                        training = Training(task, optimizer, factor, options.budget, seed, rival)
                        if key(*training) not in done:
                            yield training


def fill(options: argparse.Namespace) -> None:
    """Run what is left to do, until nothing is."""
    while due := list(left(options)):
        for number, training in enumerate(due, 1):
            data = made(training.task, training.seed, options.data, options.cache)
            row = measure(training, data)
            append(options.results, [row], FIELDS)
            said = ", ".join(row[name] for name in ("optimizer", "task", "factor", "seed", "rival", "accuracy"))
            print(f"{number} of {len(due)}: {said}", flush=True)


def quick() -> list[dict[str, str]]:
    """Lines of a part of MNIST."""
    data = made(QUICK, 0, Path(), Path())
    settings = product(CLASSIFIERS, FACTORS, RIVALS)
    return [measure(Training(QUICK, optimizer, factor, 0.5, 0, rival), data) for optimizer, factor, rival in settings]


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: a part of MNIST, a seed, no table")
    parser.add_argument("--report", action="store_true", help="say what the table has, and run nothing")
    parser.add_argument("--tasks", nargs="+", default=["fashion-mnist", "mnist-wrong10"], help="patterns of names")
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), help="as in benchmarks/budget.py, with uniform")
    parser.add_argument("--optimizers", nargs="+", choices=list(CLASSIFIERS), default=list(CLASSIFIERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=0.5, help="share of the converged budget")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "learning_rate.csv")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "lightning_as_budget", help="folder of parsed data sets"
    )
    options = parser.parse_args()
    if options.budget <= 0 or UNIFORM not in options.rivals:
        parser.error("`--budget` must be a positive share, and `uniform` among the `--rivals`.")
    try:
        select(options.tasks)
        for rival in options.rivals:
            make(rival)  # which may refuse a value
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> None:
    options = parsed()
    prepare()
    if not options.quick and not options.report:
        fill(options)
    found = runs(quick() if options.quick else current(options))
    print(markdown(entries(found)))
    print(json.dumps({"benchmark": "learning_rate", "figures": figures(found)}))


if __name__ == "__main__":
    main()
