"""What is left of a comparison beside its table of runs: a page of Markdown and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_as.comparison.outcome import Metric, Outcome, Runs, difference_text, value_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"steps": "#4477AA", "time": "#EE6677"}  # of Tol's bright scheme, told apart by the colour-blind, too
_LABELS = {"steps": "equal steps", "time": "equal time"}

_HOW = """Runs of one seed have the same initial weights. At equal time a strategy trains for as many steps as fit into
uniform sampling's training time, by the measured time of a step (the median over the seeds), with the learning-rate
schedule of that length; where that is more than 99 % of the steps, the run at equal steps serves for both. Means are
over the seeds, and ± is the 95 % interval of the mean of the paired differences (Student's t). The metric is that of a
validation after the fit, of the last weights. Seconds are of training, without validations. Off in all runs: loggers,
checkpoints, bars, summaries, profilers."""


def table(rows: Sequence[Outcome], metric: Metric) -> str:
    """A table in Markdown, with columns of equal width, so that it can be read as text, too."""
    header = ["rival", "at equal", "steps", "seconds", f"{metric.name}{_unit(metric)}", "difference from uniform"]
    lines = [header, ["-"] * len(header)]
    for row in rows:
        lines.append(
            [
                row.rival,
                row.budget if row.differences else "",
                f"{row.steps:.0f}",
                f"{row.seconds:.{2 if row.seconds < 10 else 1}f}",
                value_text(row.value, metric),
                difference_text(row, metric) if row.differences else "",
            ]
        )
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    fill = [" ", "-", *[" "] * len(rows)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width, by) for cell, width in zip(line, widths, strict=True))} |"
        for line, by in zip(lines, fill, strict=True)
    )


def write_report(
    folder: Path, rows: Sequence[Outcome], verdict: str, metric: Metric, runs: Runs, notes: Sequence[str]
) -> str | None:
    """Write `report.md` and `compare.png`.

    Args:
        folder: Where to.
        rows: The outcomes.
        verdict: In a sentence for each strategy.
        metric: What decided.
        runs: All runs, for the table of each.
        notes: What else a reader is to know.

    Returns:
        Why there is no figure; None if there is one.
    """
    missing = None
    if find_spec("matplotlib") is None:
        missing = 'No figure was drawn, which needs Matplotlib: `pip install "lightning-as[compare]"`.'
    else:
        figure(rows, metric).savefig(folder / "compare.png", dpi=150)
    picture = missing or "![Differences from uniform sampling, seed by seed](compare.png)"
    seeds = [str(run.seed) for run in next(iter(runs.values()))]
    each = [["rival", "at equal", *(f"seed {seed}" for seed in seeds)]]
    for (rival, budget), own in runs.items():
        each.append([rival, budget, *(f"{value_text(metric.of(run), metric)} ({run.trial.steps})" for run in own)])
    lines = [f"| {' | '.join(line)} |" for line in (each[0], ["---"] * len(each[0]), *each[1:])]
    sentences = "\n\n".join(f"**{sentence}**" for sentence in verdict.splitlines())
    page = [
        "# Does it pay?",
        sentences,
        table(rows, metric),
        picture,
        _HOW,
        *notes,
        f"Each run, {metric.name}{_unit(metric)} (steps):",
        "\n".join(lines),
    ]
    (folder / "report.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return missing


def figure(rows: Sequence[Outcome], metric: Metric) -> Figure:
    """The difference of each strategy from uniform sampling, seed by seed, with its mean and interval.

    Args:
        rows: The outcomes.
        metric: What decided.
    """
    from matplotlib.figure import Figure  # late: an extra

    rivals = list(dict.fromkeys(row.rival for row in rows if row.differences))
    names = [rival.replace("(", "\n(") for rival in rivals]
    widest = max(len(line) for name in names for line in name.splitlines())
    result = Figure(figsize=(max(5.0, 1.5 + 0.1 * widest * len(rivals)), 4.2), layout="constrained")
    axes = result.subplots()
    axes.axhline(0, color="#777777", linewidth=0.8)
    for row in rows:
        if not row.differences:
            continue
        at = rivals.index(row.rival) + (-0.12 if row.budget == "steps" else 0.12)
        colour, label = _COLOURS[row.budget], f"at {_LABELS[row.budget]}"
        first = row.rival == rivals[0]
        axes.plot([at - 0.05] * len(row.differences), row.differences, "o", color=colour, alpha=0.4, markersize=4)
        if math.isfinite(row.difference):
            half = row.half_width if math.isfinite(row.half_width) else 0.0
            axes.errorbar(
                at, row.difference, half, fmt="D", color=colour, capsize=4, markersize=6, label=label if first else None
            )
    axes.set_xticks(range(len(rivals)), names)
    axes.set_xlim(-0.6, len(rivals) - 0.4)
    axes.set_ylabel(f"{'up' if metric.mode == 'max' else 'down'} is better")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    unit = ", points" if metric.points else ""
    result.suptitle(f"{metric.name}{unit}: difference from uniform sampling\nmean, 95 % interval, seeds", fontsize=11)
    return result


def _unit(metric: Metric) -> str:
    return ", %" if metric.points else ""
