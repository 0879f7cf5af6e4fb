"""What the table says: differences to uniform sampling, paired by seed, and which goals are reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.budgets.rivals import UNIFORM
from benchmarks.budgets.table import Row, cell_of
from benchmarks.budgets.tasks import TASKS, Task

AS_GOOD = -0.1
"""Goal 1: points to uniform sampling at its full budget that still count as its accuracy."""
SOONER = 0.6
"""Goal 1: the share of uniform sampling's time at its full budget."""
BETTER = 0.3
"""Goal 2: points above uniform sampling at the full budget, with wrong labels."""
NEVER_BELOW = -0.2
"""Goal 2: points to uniform sampling, on any task, at any budget, by any metric."""
BALANCED = 1.0
"""Goal 3: points above uniform sampling at the full budget, of the metrics of imbalanced tasks."""


class Outcome(NamedTuple):
    """One rival at one budget of one task, by one metric: means over the seeds that uniform sampling has, too."""

    task: str
    metric: str
    budget: str
    """Share of the converged budget."""
    rival: str
    uniform: float
    """In percent, and so are all that follow."""
    figure: float
    difference: float
    half_width: float
    """Of the 95 % interval of the difference; NaN for one seed."""
    ratio: float
    """Of the processor's time to uniform sampling's, see :func:`pace`."""
    seeds: int


class Run(NamedTuple):
    """One cell that was run."""

    figures: dict[str, float]
    """By metric, in percent."""
    ratio: float
    """Of the processor's time to that of uniform sampling in the same session; NaN if it has none."""


Runs = dict[tuple[str, str, str], dict[int, Run]]
"""By task, budget and rival the runs by their seeds."""


class Goal(NamedTuple):
    """Whether a rival has reached a goal."""

    rival: str
    number: int
    hit: bool | None
    """None if the table has nothing that it is judged by."""
    said: str
    """What it was judged by."""


def current(rows: Iterable[Row]) -> list[Row]:
    """The lines of cells as they would be run now."""
    return [row for row in rows if _is_current(row)]


def runs(rows: Sequence[Row]) -> Runs:
    """The cells of a table; of one that was run again, as uniform sampling beside a later rival, the first counts."""
    seconds = {row["session"]: float(row["seconds"]) for row in rows if row["rival"] == UNIFORM}
    found: Runs = {}
    for row in rows:
        figures = {name: 100 * float(row[name]) for name in TASKS[row["task"]].metrics}
        ratio = float(row["seconds"]) / seconds.get(row["session"], math.nan)
        of_setting = found.setdefault((row["task"], row["budget"], row["rival"]), {})
        of_setting.setdefault(int(row["seed"]), Run(figures, ratio))
    return found


def outcomes(found: Runs) -> list[Outcome]:
    """All rivals against uniform sampling, the largest loss first."""
    result = []
    for (task, budget, rival), of_setting in found.items():
        uniform = found.get((task, budget, UNIFORM), {})
        seeds = sorted(of_setting.keys() & uniform.keys())
        if rival == UNIFORM or not seeds:
            continue
        ratio = pace(found, task, rival)
        for metric in TASKS[task].metrics:
            ours, theirs = ([each[seed].figures[metric] for seed in seeds] for each in (of_setting, uniform))
            difference, half_width = paired([a - b for a, b in zip(ours, theirs, strict=True)])
            result.append(
                Outcome(
                    task, metric, budget, rival, mean(theirs), mean(ours), difference, half_width, ratio, len(seeds)
                )
            )
    return sorted(result, key=lambda each: each.difference)


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval by Student's t; NaN for a single difference."""
    from scipy.stats import t  # late: an extra that running needs not

    size = len(differences)
    if size < 2:
        return differences[0], math.nan
    return mean(differences), float(t.ppf(0.975, size - 1)) * statistics.stdev(differences) / math.sqrt(size)


def pace(found: Runs, task: str, rival: str) -> float:
    """The processor's time of a step over that of uniform sampling's, on all tasks with this network and batch size.

    The median of the ratios within the sessions, over budgets, seeds and variants of the data: whoever else is at work
    on the machine slows now the one and now the other.
    """
    like = TASKS[task].network, TASKS[task].batch_size
    ratios = [
        run.ratio
        for (name, _, other), of_setting in found.items()
        if other == rival and (TASKS[name].network, TASKS[name].batch_size) == like
        for run in of_setting.values()
        if not math.isnan(run.ratio)
    ]
    return statistics.median(ratios) if ratios else math.nan


def time_share(found: Runs, task: str, budget: str, rival: str) -> float:
    """The time at a budget over that of uniform sampling at its full budget: the share of the steps times the pace."""
    return float(budget) * pace(found, task, rival)


def goals(found: Runs) -> list[Goal]:
    """The three goals of each rival; uniform sampling is held against the first, as a control."""
    against = outcomes(found)
    rivals = list(dict.fromkeys(rival for *_, rival in found))
    result = [_as_good_sooner(found, rival) for rival in rivals]
    for rival in rivals:
        if rival != UNIFORM:
            own = [each for each in against if each.rival == rival]
            result += [_better_with_wrong_labels(rival, own), _better_balanced(rival, own)]
    return sorted(result, key=lambda goal: (goal.number, rivals.index(goal.rival)))


def mean(values: Sequence[float]) -> float:
    """NaN for none."""
    return statistics.fmean(values) if values else math.nan


def _as_good_sooner(found: Runs, rival: str) -> Goal:
    """On each clean task the smallest share of the time at which the metric is as good as the full budget's."""
    said, hits = [], []
    for task in (task for task in TASKS.values() if task.kind == "clean"):
        shares = _shares_when_as_good(found, task, rival)
        if shares is None:
            continue
        least = min(shares, default=math.nan)
        hits.append(least <= SOONER)
        said.append(f"{task.name} {'never' if math.isnan(least) else format(least, '.2f')}")
    return Goal(rival, 1, all(hits) if hits else None, ", ".join(said))


def _shares_when_as_good(found: Runs, task: Task, rival: str) -> list[float] | None:
    """The shares of the time at the budgets at which a rival is as good; None if that cannot be judged."""
    full = found.get((task.name, "1", UNIFORM), {})
    metric, shares, judged = task.metrics[0], [], False
    for name, budget, other in found:
        of_setting = found[name, budget, other]
        seeds = of_setting.keys() & full.keys()
        if (name, other) != (task.name, rival) or not seeds:
            continue
        judged = True
        if mean([of_setting[seed].figures[metric] - full[seed].figures[metric] for seed in seeds]) >= AS_GOOD:
            shares.append(time_share(found, name, budget, rival))
    return shares if judged else None


def _better_with_wrong_labels(rival: str, own: Sequence[Outcome]) -> Goal:
    full = [each for each in own if each.budget == "1" and TASKS[each.task].kind == "wrong labels"]
    short = [each for each in full if each.metric == TASKS[each.task].metrics[0] and each.difference < BETTER]
    below = [each for each in own if each.difference < NEVER_BELOW]
    said = [f"not {BETTER:+} at the full budget: {_listed(short)}"] if short else []
    said += [f"below {NEVER_BELOW}: {_listed(below)}"] if below else []
    return Goal(rival, 2, not said if full or below else None, "; ".join(said))


def _better_balanced(rival: str, own: Sequence[Outcome]) -> Goal:
    full = [each for each in own if each.budget == "1" and TASKS[each.task].kind == "imbalanced"]
    short = [each for each in full if each.difference < BALANCED]
    said = f"not {BALANCED:+} at the full budget: {_listed(short)}" if short else ""
    return Goal(rival, 3, not short if full else None, said)


def _listed(some: Sequence[Outcome]) -> str:
    """The worst three, and how many there are beside."""
    worst = [f"{each.task} {each.metric} at {each.budget} {each.difference:+.2f}" for each in some[:3]]
    return ", ".join([*worst, *([f"{len(some) - 3} more"] if len(some) > 3 else [])])


def _is_current(row: Row) -> bool:
    try:
        wanted = cell_of(TASKS[row["task"]], float(row["budget"]), int(row["seed"]), row["rival"])
    except (KeyError, ValueError):  # a task or a rival that is no longer there
        return False
    return wanted.config == row["config"]
