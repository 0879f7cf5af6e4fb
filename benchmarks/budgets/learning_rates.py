"""What ``benchmarks/learning_rate.py`` runs and finds: accuracies by the factor on a task's learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from benchmarks.budgets.outcomes import mean, paired
from benchmarks.budgets.rivals import UNIFORM
from benchmarks.budgets.table import METRICS, Cell, Row, cell_of
from benchmarks.budgets.tasks import Task

Optimizer = Literal["adam", "momentum"]
OF_ADAM: dict[Optimizer, float] = {"adam": 1.0, "momentum": 30.0}
"""Each optimizer's learning rate at the factor 1, over the task's, which is Adam's."""
FACTORS = (0.5, 1.0, 2.0)
"""On a learning rate."""
WIDEST = (0.25, 4.0)
"""What comes after them at an end that is some rival's best."""
FIELDS = (
    "optimizer",
    "task",
    "budget",
    "factor",
    "learning_rate",
    "seed",
    "rival",
    "steps",
    "seconds",
    *METRICS,
    "gradient_norm",
    "config",
    "version",
)
"""The columns. The norm is that of a batch's gradient, the mean over the steps of the training."""


class Run(NamedTuple):
    """One training."""

    accuracy: float
    """In percent."""
    gradient_norm: float


Runs = dict[tuple[str, str], dict[str, dict[float, dict[int, Run]]]]
"""By optimizer and task, by rival, by factor the runs by their seeds."""


class Entry(NamedTuple):
    """One rival at one factor: means over the seeds, with half widths of 95 % intervals."""

    optimizer: str
    task: str
    factor: float
    rival: str
    accuracy: float
    """In percent, and the differences are in points."""
    to_one: tuple[float, float]
    """The difference to the same rival at the factor 1, paired by seed, and its half width."""
    to_uniform: tuple[float, float]
    """The difference to uniform sampling at the same factor, likewise."""
    gradient_norm: float
    """Over that of uniform sampling at the same factor."""
    seeds: int


def scaled(task: Task, optimizer: Optimizer, factor: float) -> Task:
    """The task with the learning rate of an optimizer, times a factor."""
    return task._replace(learning_rate=OF_ADAM[optimizer] * factor * task.learning_rate)


def key(task: Task, optimizer: Optimizer, factor: float, budget: float, seed: int, rival: str) -> tuple[str, Cell]:
    """What tells a training from the others."""
    return optimizer, cell_of(scaled(task, optimizer, factor), budget, seed, rival)


def runs(rows: Iterable[Row]) -> Runs:
    """The trainings of a table; of one that was run twice, the first counts."""
    found: Runs = {}
    for row in rows:
        by_factor = found.setdefault((row["optimizer"], row["task"]), {}).setdefault(row["rival"], {})
        by_seed = by_factor.setdefault(float(row["factor"]), {})
        by_seed.setdefault(int(row["seed"]), Run(100 * float(row["accuracy"]), float(row["gradient_norm"])))
    return found


def factors(rivals: Mapping[str, Mapping[float, Mapping[int, Run]]], seeds: Sequence[int]) -> list[float]:
    """The factors to run: the middle ones, and where all of these are there, those beyond an end that is a best one.

    Args:
        rivals: What there is of an optimizer and a task.
        seeds: That are asked for.
    """
    if not set(seeds) <= set(common(rivals)):
        return list(FACTORS)
    bests = {best({factor: by_factor[factor] for factor in FACTORS}, seeds) for by_factor in rivals.values()}
    ends = zip((FACTORS[0], FACTORS[-1]), WIDEST, strict=True)
    return [*FACTORS, *(beyond for end, beyond in ends if end in bests)]


def best(by_factor: Mapping[float, Mapping[int, Run]], seeds: Iterable[int]) -> float:
    """The factor of the largest mean accuracy, of those that have all the seeds; of equals the one nearest to 1."""
    means = {
        factor: mean([by_seed[seed].accuracy for seed in seeds])
        for factor, by_seed in by_factor.items()
        if set(seeds) <= set(by_seed)
    }
    return max(means, key=lambda factor: (round(means[factor], 9), -abs(math.log(factor))))


def common(rivals: Mapping[str, Mapping[float, Mapping[int, Run]]]) -> list[int]:
    """The seeds that all rivals have at all the middle factors."""
    of_each = [set(by_factor.get(factor, ())) for by_factor in rivals.values() for factor in FACTORS]
    return sorted(set.intersection(*of_each)) if of_each else []


def entries(found: Runs) -> list[Entry]:
    """All rivals at all factors, over the seeds that all of the same optimizer and task have."""
    result = []
    for (optimizer, task), rivals in found.items():
        seeds = common(rivals)
        for rival, by_factor in rivals.items():
            for factor in sorted(by_factor):
                uniform = rivals[UNIFORM].get(factor, {})
                if not seeds or not set(seeds) <= by_factor[factor].keys() & uniform.keys():
                    continue
                own, one, other = ([of[seed] for seed in seeds] for of in (by_factor[factor], by_factor[1.0], uniform))
                norms = [mean([run.gradient_norm for run in some]) for some in (own, other)]
                result.append(
                    Entry(
                        optimizer, task, factor, rival, mean([run.accuracy for run in own]), _difference(own, one),
                        _difference(own, other), norms[0] / norms[1], len(seeds),
                    )
                )  # fmt: skip
    return result


def figures(found: Runs) -> dict[str, float]:
    """Each rival's best factor, and what it loses, in points, at uniform sampling's best one."""
    result: dict[str, float] = {}
    for (optimizer, task), rivals in found.items():
        seeds = common(rivals)
        if not seeds:
            continue
        of_uniform = best(rivals[UNIFORM], seeds)
        for rival, by_factor in rivals.items():
            own = best(by_factor, seeds)
            result[f"best_{optimizer}_{task}_{rival}"] = own
            if rival != UNIFORM and set(seeds) <= set(by_factor.get(of_uniform, ())):
                lost, half = _difference(*([by_factor[f][seed] for seed in seeds] for f in (own, of_uniform)))
                result[f"lost_{optimizer}_{task}_{rival}"] = round(lost, 3)
                if not math.isnan(half):
                    result[f"lost_half_width_{optimizer}_{task}_{rival}"] = round(half, 3)
    return result


def markdown(some: Sequence[Entry]) -> str:
    """A table for each optimizer and task."""
    lines = []
    for optimizer, task in dict.fromkeys((each.optimizer, each.task) for each in some):
        own = [each for each in some if (each.optimizer, each.task) == (optimizer, task)]
        lines += [
            f"\n{task}, {optimizer}, {own[0].seeds} seed(s)\n",
            "| rival | factor | accuracy, % | to factor 1, points | to uniform, points | gradient norm / uniform's |",
            "|---|---|---|---|---|---|",
        ]
        for each in own:
            to_one, to_uniform = (_interval(*difference) for difference in (each.to_one, each.to_uniform))
            lines.append(
                f"| {each.rival} | {each.factor:g} | {each.accuracy:.2f} | {to_one if each.factor != 1 else ''} | "
                f"{to_uniform if each.rival != UNIFORM else ''} | {each.gradient_norm:.2f} |"
            )
    return "\n".join(lines)


def _difference(some: Sequence[Run], others: Sequence[Run]) -> tuple[float, float]:
    return paired([a.accuracy - b.accuracy for a, b in zip(some, others, strict=True)])


def _interval(difference: float, half_width: float) -> str:
    return f"{difference:+.2f}" + ("" if math.isnan(half_width) else f" ± {half_width:.2f}")
