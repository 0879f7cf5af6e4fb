"""The rule of docs/default.md: which method the table makes the default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

from benchmarks.budgets.outcomes import NEVER_BELOW, Runs, mean, paired, time_share
from benchmarks.budgets.rivals import UNIFORM
from benchmarks.budgets.tasks import TASKS, Figure

NO_SELECTION = (UNIFORM, "rs2")


class AtEqualTime(NamedTuple):
    """A method in a cell, against uniform sampling at the method's processor time."""

    task: str
    budget: str
    rival: str
    difference: float
    """Mean over the seeds, in points."""
    half_width: float
    """Of its 95 % interval; NaN for one seed."""

    @property
    def loses(self) -> bool:
        """Whether the interval lies below −0.2 points; never with a single seed, which has none."""
        return self.difference + self.half_width < NEVER_BELOW


class Standing(NamedTuple):
    """A method by the rule."""

    rival: str
    lost: int
    """Number of cells in which it loses."""
    worst: float
    """The smallest upper end of an interval, in points."""
    mean: float
    """Over the kinds of data of the mean difference, in points."""


def at_equal_time(found: Runs) -> list[AtEqualTime]:
    """All methods in the cells that all of them have, and uniform sampling at every budget that it has elsewhere."""
    cells = []
    for (task, budget, rival), of_setting in found.items():
        if rival in NO_SELECTION:
            continue
        metric = TASKS[task].metrics[0]
        uniform = {float(b): seeds for (name, b, other), seeds in found.items() if (name, other) == (task, UNIFORM)}
        seeds = [seed for seed in sorted(of_setting) if all(seed in runs for runs in uniform.values())]
        time = time_share(found, task, budget, rival)
        if not seeds or math.isnan(time):
            continue
        differences = [
            of_setting[seed].figures[metric]
            - interpolated({share: runs[seed].figures[metric] for share, runs in uniform.items()}, time)
            for seed in seeds
        ]
        cells.append(AtEqualTime(task, budget, rival, *paired(differences)))
    return _of_all(cells)


def _of_all(cells: Sequence[AtEqualTime]) -> list[AtEqualTime]:
    """Those of tasks and budgets at which every method has been run."""
    ran = {rival: {(cell.task, cell.budget) for cell in cells if cell.rival == rival} for rival in _rivals(cells)}
    common = set.intersection(*ran.values()) if ran else set()
    return [cell for cell in cells if (cell.task, cell.budget) in common]


def _rivals(cells: Sequence[AtEqualTime]) -> list[str]:
    return list(dict.fromkeys(cell.rival for cell in cells))


def interpolated(figures: dict[float, float], time: float) -> float:
    """A figure at a time, linear in its logarithm between the times given, and constant beyond them."""
    times = sorted(figures)
    if time <= times[0] or time >= times[-1]:
        return figures[times[0] if time <= times[0] else times[-1]]
    after = next(position for position, each in enumerate(times) if each > time)
    low, high = times[after - 1], times[after]
    share = math.log(time / low) / math.log(high / low)
    return (1 - share) * figures[low] + share * figures[high]


def standings(cells: Sequence[AtEqualTime]) -> list[Standing]:
    """All methods, the default first."""
    result = []
    for rival in _rivals(cells):
        own = [cell for cell in cells if cell.rival == rival]
        kinds = [[cell.difference for cell in own if TASKS[cell.task].figure == kind] for kind in get_args(Figure)]
        ends = [cell.difference + (0 if math.isnan(cell.half_width) else cell.half_width) for cell in own]
        means = mean([mean(kind) for kind in kinds if kind])
        result.append(Standing(rival, sum(cell.loses for cell in own), min(ends), means))
    return sorted(result, key=lambda each: (-each.mean, 0.0) if not each.lost else (math.inf, -each.worst))


def markdown(cells: Sequence[AtEqualTime]) -> str:
    """The standings as a table, and the cells that are lost."""
    lines = ["| method | cells lost | the worst cell's upper end | mean over the kinds of data |\n|---|---|---|---|"]
    for each in standings(cells):
        lines[-1] += f"\n| `{each.rival}` | {each.lost} | {each.worst:+.2f} | {each.mean:+.2f} |"
    lost = sorted((cell for cell in cells if cell.loses), key=lambda cell: cell.difference)
    listed = [
        f"`{each.rival}` {each.task} at {each.budget} {each.difference:+.2f} ± {each.half_width:.2f}" for each in lost
    ]
    lines.append("Lost at equal time: " + ("; ".join(listed) if listed else "none") + ".")
    return "\n\n".join(lines)
