"""Curves over epochs and minutes: Figures 20 to 23, 27 and 28 of the thesis, and the README's first picture.

Thin lines are the runs, the thick line is their median. On logarithmic axes a value of exactly 0 stands at the bottom
with a triangle, and one that is not finite at the top with a cross.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lightning_as.experiments.results import Run, common_epochs, last_common_epoch, select
from lightning_as.experiments.tables import STATISTICS, as_text, ratio_rows
from lightning_as.experiments.thesis import ARMS, BATCH_SIZES, OPTIMIZERS

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
EPOCH_LABEL, MINUTES_LABEL = "epochs", "processor time (minutes)"
_THIN, _THICK = (0.7, 0.45), (2.4, 1.0)  # width and opacity
_COST_LABELS = {name: f"{name} training cost (nats)" for name in STATISTICS}


def training_cost_figure(runs: Sequence[Run], optimizer: str, statistic: str = "mean") -> Figure:
    """Figure 20 (``adadelta``) or 21 (``adam``): training cost by epoch and by time, one line per arm.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
        statistic: ``mean`` or ``median`` over the training set.
    """
    figure = _figure(f"{OPTIMIZERS[optimizer]}: {statistic} training cost by epoch and by time", (10, 9.5))
    grid = figure.subplots(len(BATCH_SIZES), 2, sharey="row")
    ratios = [row for row in ratio_rows(runs, optimizer) if row.statistic == statistic]
    for (left, right), batch_size in zip(grid, BATCH_SIZES, strict=True):
        _arms(left, runs, optimizer, batch_size, f"training_cost_{statistic}", _epochs)
        _arms(right, runs, optimizer, batch_size, f"training_cost_{statistic}", _minutes)
        left.set(ylabel=_COST_LABELS[statistic], xlabel=EPOCH_LABEL)
        right.set(xlabel=MINUTES_LABEL)
        left.set_title(f"Batch {batch_size}" + _missing(runs, optimizer, batch_size), loc="left", fontsize=11)
        found = [row for row in ratios if row.batch_size == batch_size and row.ours.runs]
        parts = [
            f"AS / {row.against} " + ("undefined" if row.ours.value is None else f"= {as_text(row.ours.value)}")
            for row in found
        ]
        if parts:
            right.set_title(f"after epoch {found[0].epoch}: {', '.join(parts)}", loc="right", fontsize=9)
    _legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def accuracy_figure(runs: Sequence[Run], optimizer: str, batch_size: int) -> Figure:
    """Figure 22 (``adadelta``, 256) or 23 (``adam``, 1024): test accuracy from epoch 1, by epoch and by time.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
    """
    title = f"{OPTIMIZERS[optimizer]}, batch {batch_size}: test accuracy from epoch 1 by epoch and by time"
    figure = _figure(title + _missing(runs, optimizer, batch_size), (10, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    _arms(left, runs, optimizer, batch_size, "test_accuracy", _epochs)
    _arms(right, runs, optimizer, batch_size, "test_accuracy", _minutes)
    left.set(xlabel=EPOCH_LABEL, ylabel="test accuracy (%)")
    right.set(xlabel=MINUTES_LABEL)
    _legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def variance_figure(runs: Sequence[Run], optimizer: str) -> Figure:
    """Figure 27 (``adadelta``) or 28 (``adam``): variances of three estimators of the logits' gradient, in AS's runs.

    All three are taken at the same parameters, over the whole training set.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
    """
    title = f"{OPTIMIZERS[optimizer]}: variance of the gradient of one draw, at the parameters of the runs of AS"
    figure = _figure(title, (10, 4.2))
    for axes, batch_size in zip(figure.subplots(1, len(BATCH_SIZES), sharey=True), BATCH_SIZES, strict=True):
        own = select(runs, "thesis", optimizer, batch_size, "AS")
        lines = [(own, name, colour) for name, (_, colour) in VARIANCES.items()]
        _curves(axes, lines, _epochs, logarithmic=True)
        axes.set_title(f"Batch {batch_size}" + ("" if own else " (no runs)"), loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel("variance, trace (squared norm)")
    _legend(figure, list(VARIANCES.values()))
    return figure


def overview_figure(runs: Sequence[Run], batch_size: int = 256) -> Figure:
    """The README's first picture: training cost of AS, OBS and uniform sampling, Adadelta and Adam side by side.

    Args:
        runs: All runs.
        batch_size: Instances per batch. Default: 256.
    """
    figure = _figure(f"Training cost on MNIST, batch {batch_size}, after equally many batches", (10, 4.2))
    for axes, (optimizer, name) in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS.items(), strict=True):
        _arms(axes, runs, optimizer, batch_size, "training_cost_mean", _epochs)
        axes.set_title(name + _missing(runs, optimizer, batch_size), loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel(_COST_LABELS["mean"])
    _legend(figure, [(_FULL_NAMES[arm], COLOURS[arm]) for arm in ARMS])
    return figure


def _figure(title: str, size: tuple[float, float]) -> Figure:
    """A figure of its own, unknown to pyplot."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def _missing(runs: Sequence[Run], optimizer: str, batch_size: int) -> str:
    missing = [arm for arm in ARMS if not select(runs, "thesis", optimizer, batch_size, arm)]
    return f" (no runs of {', '.join(missing)})" if missing else ""


def _epochs(run: Run) -> NDArray[np.float64]:
    return run.epochs.astype(np.float64)


def _minutes(run: Run) -> NDArray[np.float64]:
    return run.measured["seconds"] / 60


def _arms(
    axes: Axes, runs: Sequence[Run], optimizer: str, batch_size: int, column: str, x: Callable[[Run], NDArray]
) -> None:
    lines = [(select(runs, "thesis", optimizer, batch_size, arm), column, COLOURS[arm]) for arm in reversed(ARMS)]
    _curves(axes, lines, x, logarithmic=column != "test_accuracy")


def _curves(
    axes: Axes,
    lines: Sequence[tuple[Sequence[Run], str, str]],
    x: Callable[[Run], NDArray[np.float64]],
    logarithmic: bool,
) -> None:
    """Draw runs and medians: of each line its runs, its column and its colour."""
    values = np.concatenate([run.measured[column] for runs, column, _ in lines for run in runs] or [np.ones(1)])
    seen = values[np.isfinite(values) & (values > 0)]
    bottom, top = (seen.min() / 10, seen.max() * 10) if len(seen) else (0.1, 10.0)
    for at, (runs, column, colour) in enumerate(lines):
        ends = (bottom / 2**at, top * 2**at)  # of each line its own, so that none hides another
        drawn = [(x(run), run.measured[column], *_THIN) for run in runs]
        if last_common_epoch(runs):
            common = [np.isin(run.epochs, common_epochs(runs)) for run in runs]
            across = np.median([x(run)[rows] for run, rows in zip(runs, common, strict=True)], axis=0)
            up = np.median([run.measured[column][rows] for run, rows in zip(runs, common, strict=True)], axis=0)
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


def _legend(figure: Figure, lines: Sequence[tuple[str, str]]) -> None:
    """One line per arm, and what marks mean where there are any."""
    handles = [Line2D([], [], color=colour, linewidth=2.4, label=label) for label, colour in lines]
    handles.append(Line2D([], [], color="#777777", linewidth=0.7, label="single runs (thick: median)"))
    markers = [line.get_marker() for axes in figure.axes for line in axes.get_lines()]
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
