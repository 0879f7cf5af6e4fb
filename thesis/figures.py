"""Curves over epochs and minutes: Figures 20 to 23, 27 and 28 of the thesis, and the README's first picture.

Thin lines are the runs, the thick line is their median; of one run there is only that. On logarithmic axes a value of
exactly 0 stands at the bottom with a triangle, and one that is not finite at the top with a cross.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from thesis.comparison import as_text
from thesis.printed import ARMS, BATCH_SIZES, OPTIMIZERS
from thesis.results import Run, common_epochs, last_common_epoch, timed
from thesis.tables import Tables

EPOCH_LABEL, MINUTES_LABEL = "epochs", "training time (minutes)"
COST_LABELS = {name: f"{name} training cost (nats)" for name in ("mean", "median")}
_THIN, _THICK = (0.7, 0.45), (2.4, 1.0)  # width and opacity
COLOURS = {"AS": "#0072B2", "OBS": "#D55E00", "uniform": "#000000"}  # of Okabe and Ito
_FULL_NAMES = {
    "AS": "adaptive sampling (AS)",
    "OBS": "online batch selection (OBS)",
    "uniform": "uniform sampling",
}
VARIANCES = {
    "variance_uniform": ("uniform draws", "#000000"),
    "variance_weighted": ("draws of AS, weighted (unbiased)", "#0072B2"),
    "variance_drawn": ("draws of AS, not weighted", "#E69F00"),
}


def training_cost_figure(tables: Tables, optimizer: str, statistic: str = "mean") -> Figure:
    """Figure 20 (``adadelta``) or 21 (``adam``): training cost by epoch and by time, one line per arm.

    Args:
        tables: Of all runs.
        optimizer: ``adadelta`` or ``adam``.
        statistic: ``mean`` or ``median`` over the training set.
    """
    batch_sizes = _batch_sizes(tables, optimizer)
    title = f"{OPTIMIZERS[optimizer]}: {statistic} training cost by epoch and by time"
    figure = new_figure(title, (10, 1.1 + 2.8 * len(batch_sizes)))
    grid = figure.subplots(len(batch_sizes), 2, sharey="row", squeeze=False)
    ratios = [row for row in tables.ratios if row.optimizer == optimizer and row.statistic == statistic]
    for (left, right), batch_size in zip(grid, batch_sizes, strict=True):
        _arms(left, tables, optimizer, batch_size, f"training_cost_{statistic}", epochs)
        _arms(right, tables, optimizer, batch_size, f"training_cost_{statistic}", minutes)
        left.set(ylabel=COST_LABELS[statistic], xlabel=EPOCH_LABEL)
        right.set(xlabel=MINUTES_LABEL)
        left.set_title(f"Batch {batch_size}" + _missing(tables, optimizer, batch_size), loc="left", fontsize=11)
        found = [row for row in ratios if row.batch_size == batch_size and row.ours.runs]
        parts = [
            f"AS / {row.against} " + ("undefined" if row.ours.value is None else f"= {as_text(row.ours.value)}")
            for row in found
        ]
        if parts:
            right.set_title(f"after epoch {found[0].epoch}: {', '.join(parts)}", loc="right", fontsize=9)
    legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def accuracy_figure(tables: Tables, optimizer: str, batch_size: int) -> Figure:
    """Figure 22 (``adadelta``, 256) or 23 (``adam``, 1024): test accuracy from epoch 1, by epoch and by time.

    Args:
        tables: Of all runs.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
    """
    title = f"{OPTIMIZERS[optimizer]}, batch {batch_size}: test accuracy from epoch 1 by epoch and by time"
    figure = new_figure(title + _missing(tables, optimizer, batch_size), (10, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    _arms(left, tables, optimizer, batch_size, "test_accuracy", epochs)
    _arms(right, tables, optimizer, batch_size, "test_accuracy", minutes)
    left.set(xlabel=EPOCH_LABEL, ylabel="test accuracy (%)")
    right.set(xlabel=MINUTES_LABEL)
    legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def variance_figure(tables: Tables, optimizer: str) -> Figure:
    """Figure 27 (``adadelta``) or 28 (``adam``): variances of three estimators of the logits' gradient, in AS's runs.

    All three are taken at the same parameters, over the whole training set.

    Args:
        tables: Of all runs.
        optimizer: ``adadelta`` or ``adam``.
    """
    title = f"{OPTIMIZERS[optimizer]}: variance of the gradient of one draw, at the parameters of the runs of AS"
    batch_sizes = _batch_sizes(tables, optimizer, "AS")
    figure = new_figure(title, (10, 4.2))
    grid = figure.subplots(1, len(batch_sizes), sharey=True, squeeze=False)
    for axes, batch_size in zip(grid[0], batch_sizes, strict=True):
        own = tables.arms(optimizer, batch_size)["AS"]
        lines = [(own, name, colour) for name, (_, colour) in VARIANCES.items()]
        curves(axes, lines, epochs, logarithmic=True)
        axes.set_title(f"Batch {batch_size}", loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel("variance, trace (squared norm)")
    legend(figure, list(VARIANCES.values()))
    return figure


def overview_figure(tables: Tables, batch_size: int = 256) -> Figure:
    """The README's first picture: training cost of AS, OBS and uniform sampling, Adadelta and Adam side by side.

    Args:
        tables: Of all runs.
        batch_size: Instances per batch. Default: 256.
    """
    figure = new_figure(f"Training cost on MNIST, batch {batch_size}, after equally many batches", (10, 4.2))
    for axes, (optimizer, name) in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS.items(), strict=True):
        _arms(axes, tables, optimizer, batch_size, "training_cost_mean", epochs)
        axes.set_title(name + _missing(tables, optimizer, batch_size), loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel(COST_LABELS["mean"])
    legend(figure, [(_FULL_NAMES[arm], COLOURS[arm]) for arm in ARMS])
    return figure


def new_figure(title: str, size: tuple[float, float]) -> Figure:
    """A figure of its own, unknown to pyplot.

    Args:
        title: Stands above it.
        size: Width and height in inches.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def epochs(run: Run) -> NDArray[np.float64]:
    """Abscissa: epochs done, (E,)."""
    return run.epochs.astype(np.float64)


def minutes(run: Run) -> NDArray[np.float64]:
    """Abscissa: minutes of training, (E,)."""
    return run.measured["seconds"] / 60


def curves(
    axes: Axes,
    lines: Sequence[tuple[Sequence[Run], str, str]],
    x: Callable[[Run], NDArray[np.float64]],
    logarithmic: bool,
) -> None:
    """Draw runs and their medians, where all of a line's runs have been.

    Args:
        axes: Where.
        lines: Of each its runs, the measured column and the colour.
        x: :func:`epochs` or :func:`minutes`.
        logarithmic: Else the column is a share, and shown as a percentage from epoch 1.
    """
    if x is minutes:
        lines = [(timed(runs), column, colour) for runs, column, colour in lines]
    values = np.concatenate([run.measured[column] for runs, column, _ in lines for run in runs] or [np.ones(1)])
    seen = values[np.isfinite(values) & (values > 0)]
    bottom, top = (seen.min() / 10, seen.max() * 10) if len(seen) else (0.1, 10.0)
    for at, (runs, column, colour) in enumerate(lines):
        ends = (bottom / 2**at, top * 2**at)  # of each line its own, so that none hides another
        drawn = [(x(run), run.measured[column], *_THIN) for run in runs if len(runs) > 1]
        if last_common_epoch(runs):
            common = [np.isin(run.epochs, common_epochs(runs)) for run in runs]
            across = np.median([x(run)[rows] for run, rows in zip(runs, common, strict=True)], axis=0)
            heights = np.array([run.measured[column][rows] for run, rows in zip(runs, common, strict=True)])
            up = np.median(np.where(np.isnan(heights), np.inf, heights), axis=0)  # one that diverged is the highest
            drawn.append((across, up, *_THICK))
        for across, up, width, alpha in drawn:
            if logarithmic:
                _logarithmic(axes, across, up, ends, colour, width, alpha)
            else:  # accuracy, of which epoch 0 would hide all others
                axes.plot(across[across > 0], 100 * up[across > 0], color=colour, linewidth=width, alpha=alpha)
    if logarithmic:
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.tick_params(labelleft=True)


def _logarithmic(
    axes: Axes, x: NDArray, y: NDArray, ends: tuple[float, float], colour: str, width: float, alpha: float
) -> None:
    bottom, top = ends
    drawn = np.where(y == 0, bottom, np.where(np.isfinite(y), y, top))
    axes.plot(x, drawn, color=colour, linewidth=width, alpha=alpha)
    for marker, where in (("v", y == 0), ("x", ~np.isfinite(y))):
        if where.any():
            axes.plot(x[where], drawn[where], marker, color=colour, markersize=5, clip_on=False)


def legend(figure: Figure, lines: Sequence[tuple[str, str]]) -> None:
    """One line for each label and colour, and what marks mean where there are any."""
    handles = [Line2D([], [], color=colour, linewidth=2.4, label=label) for label, colour in lines]
    drawn = [line for axes in figure.axes for line in axes.get_lines()]
    if any(line.get_linewidth() == _THIN[0] for line in drawn):
        handles.append(Line2D([], [], color="#777777", linewidth=_THIN[0], label="single runs (thick: median)"))
    markers = [line.get_marker() for line in drawn]
    for marker, label in (("v", "exactly 0"), ("x", "not finite")):
        if marker in markers:
            handles.append(Line2D([], [], color="#777777", marker=marker, linestyle="", label=label))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=3 if len(handles) > 5 else len(handles),
        frameon=False,
        fontsize=9,
    )


def _batch_sizes(tables: Tables, optimizer: str, *arms: str) -> list[int]:
    """Those with runs, of the given arms or of any."""
    found = {size: tables.arms(optimizer, size) for size in BATCH_SIZES}
    return [size for size, runs in found.items() if any(runs[arm] for arm in arms or ARMS)]


def _missing(tables: Tables, optimizer: str, batch_size: int) -> str:
    missing = [arm for arm, runs in tables.arms(optimizer, batch_size).items() if not runs]
    return f" (no runs of {', '.join(missing)})" if missing else ""


def _arms(
    axes: Axes, tables: Tables, optimizer: str, batch_size: int, column: str, x: Callable[[Run], NDArray]
) -> None:
    runs = tables.arms(optimizer, batch_size)
    lines = [(runs[arm], column, COLOURS[arm]) for arm in reversed(ARMS)]
    curves(axes, lines, x, logarithmic=column != "test_accuracy")
