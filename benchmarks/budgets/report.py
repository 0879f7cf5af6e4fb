"""The report: one table in which losing cells come first, the goals, and a figure for each kind of data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.budgets import choice
from benchmarks.budgets.outcomes import (
    AS_GOOD,
    BALANCED,
    BETTER,
    NEVER_BELOW,
    SOONER,
    Goal,
    Outcome,
    Runs,
    goals,
    mean,
    outcomes,
    time_share,
)
from benchmarks.budgets.rivals import UNIFORM
from benchmarks.budgets.tasks import TASKS, Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#000000")
_COLUMNS = 4  # of a figure
_BELOW = 6.0  # points under the lowest figure of uniform sampling at which an axis ends: some rivals learn nothing
_HEADER = """\
| task | metric | budget | rival | uniform, % | rival, % | difference, points | time / uniform | seeds |
|---|---|---|---|---|---|---|---|---|"""
_RULES = f"""\
1. On every clean task: at some budget the mean of the first metric, paired by seed, is at most {-AS_GOOD} points \
below that of uniform sampling at its full budget, in at most {SOONER} of the time that this takes: the budget times \
the median ratio of the times within a session, over all tasks of the network. Beside each task stands the smallest \
such share of the time.
2. On every task with wrong labels: at the full budget the mean paired difference of the first metric is at least \
{BETTER:+} points; and on no task, at no budget and by no metric is it below {NEVER_BELOW}.
3. On every imbalanced task: at the full budget the mean paired difference of each metric is at least {BALANCED:+} \
points."""


def write(found: Runs, folder: Path) -> dict[str, float]:
    """Write ``report.md`` and the figures beside it.

    Args:
        found: The cells.
        folder: Made if it is not there.

    Returns:
        Of each rival the number of cells and of losing ones, the largest loss in points, and the goals reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    against, reached = outcomes(found), goals(found)
    images = []
    for kind in get_args(Figure):
        tasks = [name for name, task in TASKS.items() if task.figure == kind and any(key[0] == name for key in found)]
        if tasks:
            images.append(f"![Accuracy against processor time: {kind}]({kind.replace(' ', '_')}.png)")
            plot(found, tasks, kind, folder / f"{kind.replace(' ', '_')}.png")
    chosen = "## The default, by the rule of docs/default.md\n\n" + choice.markdown(choice.at_equal_time(found))
    parts = [markdown(against, reached), chosen, *images]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return figures(against, reached)


def markdown(against: Sequence[Outcome], reached: Sequence[Goal]) -> str:
    """The goals and the table."""
    losing = [each for each in against if each.difference < 0]
    clearly = [each for each in losing if each.difference + each.half_width < 0]
    lines = ["# Accuracy against processor time", "## Goals", _RULES, "| rival | goal | | |\n|---|---|---|---|"]
    for goal in reached:
        verdict = {True: "hit", False: "miss", None: "not run"}[goal.hit]
        lines[-1] += f"\n| {_code(goal.rival)} | {goal.number} | {verdict} | {goal.said} |"
    summary = f"{len(losing)} of {len(against)} cells lose to uniform sampling, {len(clearly)} of them clearly:"
    lines += ["## Cells, the largest loss first", f"{summary} the 95 % interval over the seeds is below 0.", _HEADER]
    for each in against:
        interval = "" if math.isnan(each.half_width) else f" ± {each.half_width:.2f}"
        ratio = "–" if math.isnan(each.ratio) else f"{each.ratio:.2f}"
        lines[-1] += (
            f"\n| {each.task} | {each.metric.replace('_', ' ')} | {each.budget} | {_code(each.rival)} | "
            f"{each.uniform:.2f} | {each.figure:.2f} | {each.difference:+.2f}{interval} | {ratio} | {each.seeds} |"
        )
    return "\n\n".join(lines)


def figures(against: Sequence[Outcome], reached: Sequence[Goal]) -> dict[str, float]:
    """The last line's figures."""
    result: dict[str, float] = {}
    for rival in dict.fromkeys(each.rival for each in against):
        differences = [each.difference for each in against if each.rival == rival]
        result[f"cells_{rival}"] = len(differences)
        result[f"losing_{rival}"] = sum(difference < 0 for difference in differences)
        result[f"worst_{rival}"] = round(min(differences), 3)
        result[f"goals_{rival}"] = sum(goal.hit is True for goal in reached if goal.rival == rival)
    return result


def plot(found: Runs, tasks: Sequence[str], kind: str, path: Path) -> None:
    """The first metric against the time, a line per rival through its budgets, on axes per task."""
    import matplotlib.pyplot as plt  # late: an extra that nothing else here needs

    rivals = list(dict.fromkeys(rival for *_, rival in found))
    columns = min(_COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1 + 3.2 * columns, 1.2 + 2.6 * rows), layout="constrained", squeeze=False
    )
    for axes, task in zip(grid.flat, tasks, strict=False):
        for number, rival in enumerate(sorted(rivals, key=lambda rival: rival != UNIFORM)):
            style: dict[str, Any] = {"color": "#555555", "linewidth": 2.5} if rival == UNIFORM else {}
            style = {"color": _COLOURS[(number - 1) % len(_COLOURS)], "linewidth": 1.2, **style}
            axes.plot(*_line(found, task, rival), "o-", markersize=4, label=rival, **style)
        lowest = min(_line(found, task, UNIFORM)[1], default=-math.inf) - _BELOW
        axes.set_ylim(bottom=max(axes.get_ylim()[0], lowest))
        axes.set_title(task, loc="left", fontsize=10)
        axes.set_ylabel(f"{TASKS[task].metrics[0].replace('_', ' ')} (%)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_visible(False)
    axis = "processor time, 1 is uniform sampling at its full budget"
    figure.suptitle(f"{kind.capitalize()}: mean over the seeds; {axis}", fontsize=10)
    figure.legend(
        *grid.flat[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(found: Runs, task: str, rival: str) -> tuple[list[float], list[float]]:
    """Times and figures of a rival at its budgets."""
    points = []
    for name, budget, other in found:
        if (name, other) == (task, rival):
            of_setting = found[name, budget, other].values()
            figure = mean([run.figures[TASKS[task].metrics[0]] for run in of_setting])
            points.append((time_share(found, task, budget, rival), figure))
    points.sort()
    return [time for time, _ in points], [figure for _, figure in points]


def _code(rival: str) -> str:
    return f"`{rival}`"
