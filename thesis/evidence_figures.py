"""One figure for each question of the evidence page: one look, one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from thesis.evidence import ArmRow, TimeRow, late_cost, longer, of
from thesis.figures import COST_LABELS, EPOCH_LABEL, MINUTES_LABEL, curves, epochs, legend, new_figure
from thesis.grid import DATA, PARTS, REMEDIES, WEIGHTS, over_bins
from thesis.printed import OPTIMIZERS
from thesis.results import Run
from thesis.tables import RatioRow

_LOWEST = 1e-8
"""Of P on a figure: a bin that falls below comes back no more."""
LABELS = {
    "uniform": "uniform",
    "AS": "AS",
    "OBS": "OBS",
    "AS_weighted": "AS with unbiased weights",
    "AS_floor": "floor: ε = 0.1",
    "AS_second_moment": "statistic: mean Ĝ/q²",
    "AS_statistic": "mean Ĝ/q², averaged over windows",
    "AS_original": "smoothed with the bins' shares",
    "AS_robust": "averaged mean Ĝ/q² and floor",
    "AS_one_bin": "Q alone: AS, one bin",
    "AS_q_only": "Q alone: AS, P the same for each bin",
    "gopal": "P alone: Gopal, weighted",
    "gopal_unweighted": "P alone: Gopal, not weighted",
    "InfoBatch": "InfoBatch",
    "SelectiveBackprop": "SelectiveBackprop",
    "AS_gradient": "AS, Q by gradient norms",
    "upper_bound": "upper bound, while it scores",
    "gradient_norm": "gradient norms of all layers",
}
"""What the arms are, in a few words."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # of Okabe and Ito
BLUE, ORANGE, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#777777"
_DATA_TITLES = {
    "full": "whole MNIST",
    "imbalanced": "imbalanced",
    "noisy_10": "10 % wrong labels",
    "noisy_40": "40 % wrong labels",
}


def claims_figure(rows: Sequence[RatioRow]) -> Figure:
    """Question 1: the ratios of training costs, the thesis's and ours.

    Args:
        rows: Those of Tables 3 and 4 that have runs.
    """
    figure = new_figure("Training cost of AS over that of another sampler: the thesis's and ours", (10, 4.4))
    cells = list(dict.fromkeys((row.optimizer, row.batch_size) for row in rows))
    for axes, against in zip(figure.subplots(1, 2, sharey=True), ("uniform", "OBS"), strict=True):
        own = [row for row in rows if row.against == against]
        _decades(axes, [value for row in own for value in (row.printed, row.ours.value, row.ours.low, row.ours.high)])
        for row in own:
            _claim(axes, row, len(cells) - 1 - cells.index((row.optimizer, row.batch_size)))
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set(xlabel=f"cost of AS / cost of {against} (below 1: AS is better)")
        labels = [f"{OPTIMIZERS[optimizer]} {batch_size}" for optimizer, batch_size in cells]
        name_rows(axes, {label: len(cells) - 1.0 - at for at, label in enumerate(labels)})
    marks = [("thesis", "D", ORANGE), ("ours: mean cost", "o", BLUE), ("ours: median cost", "o", "none")]
    exact = any(row.ours.value == 0 for row in rows)
    _marks_legend(figure, [*marks, ("exactly 0", "<", "none")] if exact else marks, any(r.ours.low for r in rows))
    return figure


def weights_figure(runs: Sequence[Run], batch_size: int = 256) -> Figure:
    """Question 2: training cost of AS with and without unbiased weights.

    Args:
        runs: Pooled ones.
        batch_size: Default: 256.
    """
    figure = new_figure(f"Training cost with and without weights, batch {batch_size}", (10, 4.2))
    arms = dict(zip(WEIGHTS, (BLACK, BLUE, ORANGE), strict=True))
    for axes, (optimizer, name) in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS.items(), strict=True):
        lines = [(of(runs, arm, optimizer, batch_size), "training_cost_mean", arms[arm]) for arm in arms]
        curves(axes, lines, epochs, logarithmic=True)
        axes.set_title(name, loc="left", fontsize=11)
        axes.set(xlabel=EPOCH_LABEL, ylabel=COST_LABELS["mean"])
    legend(figure, [(LABELS[arm], colour) for arm, colour in arms.items()])
    return figure


def collapse_figure(runs: Sequence[Run], optimizer: str = "adam", batch_size: int = 64) -> Figure:
    """Question 3: the smallest entry of P and the training cost by epoch, with each remedy, of its long runs.

    Args:
        runs: Pooled ones.
        optimizer: Default: ``adam``.
        batch_size: Default: 64.
    """
    title = f"{OPTIMIZERS[optimizer]}, batch {batch_size}: the smallest entry of P, and the training cost"
    figure = new_figure(title, (10, 4.6))
    left, right = figure.subplots(1, 2)
    own = {arm: [_with_more(run) for run in longer(of(runs, arm, optimizer, batch_size))] for arm in REMEDIES}
    arms = {arm: colour for arm, colour in zip(REMEDIES, COLOURS, strict=True) if own[arm]}
    for axes, column in ((left, "smallest_p"), (right, "late_cost")):
        curves(axes, [(own[arm], column, colour) for arm, colour in arms.items()], epochs, logarithmic=True)
        axes.set_xlabel(EPOCH_LABEL)
    left.axhline(0.1, color=GREY, linewidth=0.8)
    bottom = max(10 ** np.floor(np.log10(left.get_ylim()[0])), _LOWEST)
    left.set(ylim=(bottom, 0.2), ylabel="smallest entry of P (uniform: 0.1)")
    right.set_ylabel(f"{COST_LABELS['mean']}, over 3 epochs")
    legend(figure, [(LABELS[arm], colour) for arm, colour in arms.items()])
    return figure


def parts_figure(rows: Sequence[ArmRow]) -> Figure:
    """Question 4: what each part of AS gains on each data, in training cost and in test accuracy.

    Args:
        rows: Of all data, each with the ratio to uniform sampling.
    """
    data = [kind for kind in DATA if any(row.data == kind and row.arm == "uniform" for row in rows)]
    figure = new_figure("Adadelta, batch 256: what each part of AS gains", (3.0 * len(data) + 2.6, 6.4))
    grid = figure.subplots(2, len(data), sharey=True, squeeze=False)
    arms = [arm for arm in PARTS if any(row.arm == arm for row in rows)]
    for (above, below), kind in zip(grid.T, data, strict=True):
        own = [row for row in rows if row.data == kind]
        _decades(above, [value for row in rows for value in (row.ratio.value, row.ratio.low, row.ratio.high)])
        for row in own:
            height = len(arms) - 1 - arms.index(row.arm)
            colour = BLACK if row.arm == "uniform" else BLUE
            estimate(above, row.ratio.value, row.ratio.low, row.ratio.high, height, colour)
            estimate(below, row.accuracy.value, row.accuracy.low, row.accuracy.high, height, colour)
            if row.arm == "uniform":
                above.axvline(1, color=GREY, linewidth=0.8)
                below.axvline(row.accuracy.value, color=GREY, linewidth=0.8)
        above.set(xlabel="training cost / uniform's")
        below.set(xlabel="test accuracy (%)")
        above.set_title(f"{_DATA_TITLES[kind]}, epoch {own[0].epoch}", loc="left", fontsize=11)
        for axes in (above, below):
            name_rows(axes, {LABELS[arm]: len(arms) - 1.0 - at for at, arm in enumerate(arms)})
    marks = [("uniform sampling", "o", BLACK), ("other samplers", "o", BLUE)]
    _marks_legend(figure, marks, any(row.accuracy.low for row in rows))
    return figure


def time_figure(rows: Sequence[TimeRow], title: str) -> Figure:
    """Questions 5 and 6: minutes of training until a target is reached for the first time.

    Args:
        rows: Each target has a panel, each setting and arm a line.
        title: Stands above it.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    names = {_name(row): (row.optimizer, row.batch_size) for row in rows}
    heights = _heights(names)
    longest = max((row.minutes.high or row.minutes.value or 0.0 for row in rows), default=0.0) or 1.0
    figure = new_figure(title, (3.6 * len(targets) + 2.4, 0.26 * (max(heights.values()) + 1) + 1.7))
    for axes, target in zip(figure.subplots(1, len(targets), sharey=True, squeeze=False)[0], targets, strict=True):
        for row in (row for row in rows if row.target == target):
            height, found = heights[_name(row)], row.minutes
            colour = {"AS": BLUE, "uniform": BLACK}.get(row.arm, ORANGE)
            estimate(axes, found.value, found.low, found.high, height, colour, filled=found.runs == row.runs)
            if not found.runs:
                axes.text(0.02, height, "not reached", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_title(target, loc="left", fontsize=11)
        axes.set(xlabel=MINUTES_LABEL)
        axes.set_xlim(0, 1.06 * longest)
        name_rows(axes, heights)
    marks = [("all runs reach it", "o", GREY), ("only some of the runs reach it: their median", "o", "none")]
    some = any(0 < row.minutes.runs < row.runs for row in rows)
    _marks_legend(figure, marks[: 1 + some], any(row.minutes.low for row in rows))
    return figure


def _claim(axes: Axes, row: RatioRow, height: float) -> None:
    if row.statistic == "mean":
        axes.plot(row.printed, height + 0.25, "D", color=ORANGE, markersize=6)
        estimate(axes, row.ours.value, row.ours.low, row.ours.high, height, BLUE)
    else:
        estimate(axes, row.ours.value, row.ours.low, row.ours.high, height - 0.25, BLUE, filled=False)


def estimate(
    axes: Axes,
    value: float | None,
    low: float | None,
    high: float | None,
    height: float,
    colour: str,
    filled: bool = True,
) -> None:
    """A dot, and its interval where there is one."""
    if value is None or not np.isfinite(value):
        return
    if value == 0 and axes.get_xscale() == "log":
        axes.plot(0.01, height, "<", color=colour, markerfacecolor="white", transform=axes.get_yaxis_transform())
        return
    if low is not None and high is not None and np.isfinite(high):
        axes.plot([low, high], [height, height], color=colour, linewidth=1.4)
    axes.plot(value, height, "o", color=colour, markerfacecolor=colour if filled else "white", markersize=7)


def _decades(axes: Axes, values: Sequence[float | None]) -> None:
    """A logarithmic abscissa of whole decades, with all values and 1 on it."""
    logs = np.log10([value for value in (*values, 1.0) if value and np.isfinite(value)])
    axes.set(xscale="log", xlim=(10 ** (np.floor(logs.min() - 0.1)), 10 ** np.ceil(logs.max() + 0.1)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name(row: TimeRow) -> str:
    return f"{OPTIMIZERS[row.optimizer]} {row.batch_size}, {LABELS[row.arm]}"


def _heights(groups: Mapping[str, object]) -> dict[str, float]:
    """Where each line stands, the first at the top, with a gap between groups."""
    heights, at, before = {}, 0.0, None
    for name, group in reversed(list(groups.items())):
        at += 0.7 if before not in (None, group) else 0.0
        heights[name], at, before = at, at + 1, group
    return dict(reversed(list(heights.items())))


def name_rows(axes: Axes, heights: Mapping[str, float]) -> None:
    """Names of the lines."""
    axes.set_yticks(list(heights.values()), list(heights))
    axes.set_ylim(-0.7, max(heights.values()) + 0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _marks_legend(figure: Figure, marks: Sequence[tuple[str, str, str]], intervals: bool) -> None:
    """Label, marker and colour of each, where ``none`` is a blue ring; and whether lines stand for intervals."""
    handles = []
    for label, marker, colour in marks:
        edge, face = (BLUE, "white") if colour == "none" else (colour, colour)
        handles.append(
            Line2D([], [], linestyle="", marker=marker, markersize=7, label=label, color=edge, markerfacecolor=face)
        )
    if intervals:
        handles.append(Line2D([], [], color=GREY, linewidth=1.4, label="interval over the runs"))
    columns = len(handles) if figure.get_figwidth() > 8 else 2
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)


def _with_more(run: Run) -> Run:
    """With the smallest entry of P, and with what the tables call a cost: as it is before the first epoch."""
    costs = [late_cost(run, epoch) if epoch else run.at("training_cost_mean", 0) for epoch in run.epochs.tolist()]
    return run._replace(
        measured={**run.measured, "smallest_p": over_bins(run).min(axis=1), "late_cost": np.array(costs)}
    )
