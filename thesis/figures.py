"""Curves over epochs and minutes: Figures 20 to 23, 27 and 28 of the thesis, and the README's first picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from thesis.curves import (
    COST_LABELS,
    EPOCH_LABEL,
    MINUTES_LABEL,
    curves,
    epochs,
    legend,
    minutes,
    new_figure,
)
from thesis.results import Run, select
from thesis.tables import ratio_rows
from thesis.text import as_text
from thesis.thesis import ARMS, BATCH_SIZES, OPTIMIZERS

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


def training_cost_figure(runs: Sequence[Run], optimizer: str, statistic: str = "mean") -> Figure:
    """Figure 20 (``adadelta``) or 21 (``adam``): training cost by epoch and by time, one line per arm.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
        statistic: ``mean`` or ``median`` over the training set.
    """
    batch_sizes = _batch_sizes(runs, optimizer)
    title = f"{OPTIMIZERS[optimizer]}: {statistic} training cost by epoch and by time"
    figure = new_figure(title, (10, 1.1 + 2.8 * len(batch_sizes)))
    grid = figure.subplots(len(batch_sizes), 2, sharey="row", squeeze=False)
    ratios = [row for row in ratio_rows(runs, optimizer) if row.statistic == statistic]
    for (left, right), batch_size in zip(grid, batch_sizes, strict=True):
        _arms(left, runs, optimizer, batch_size, f"training_cost_{statistic}", epochs)
        _arms(right, runs, optimizer, batch_size, f"training_cost_{statistic}", minutes)
        left.set(ylabel=COST_LABELS[statistic], xlabel=EPOCH_LABEL)
        right.set(xlabel=MINUTES_LABEL)
        left.set_title(f"Batch {batch_size}" + _missing(runs, optimizer, batch_size), loc="left", fontsize=11)
        found = [row for row in ratios if row.batch_size == batch_size and row.ours.runs]
        parts = [
            f"AS / {row.against} " + ("undefined" if row.ours.value is None else f"= {as_text(row.ours.value)}")
            for row in found
        ]
        if parts:
            right.set_title(f"after epoch {found[0].epoch}: {', '.join(parts)}", loc="right", fontsize=9)
    legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def accuracy_figure(runs: Sequence[Run], optimizer: str, batch_size: int) -> Figure:
    """Figure 22 (``adadelta``, 256) or 23 (``adam``, 1024): test accuracy from epoch 1, by epoch and by time.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
    """
    title = f"{OPTIMIZERS[optimizer]}, batch {batch_size}: test accuracy from epoch 1 by epoch and by time"
    figure = new_figure(title + _missing(runs, optimizer, batch_size), (10, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    _arms(left, runs, optimizer, batch_size, "test_accuracy", epochs)
    _arms(right, runs, optimizer, batch_size, "test_accuracy", minutes)
    left.set(xlabel=EPOCH_LABEL, ylabel="test accuracy (%)")
    right.set(xlabel=MINUTES_LABEL)
    legend(figure, [(arm, COLOURS[arm]) for arm in ARMS])
    return figure


def variance_figure(runs: Sequence[Run], optimizer: str) -> Figure:
    """Figure 27 (``adadelta``) or 28 (``adam``): variances of three estimators of the logits' gradient, in AS's runs.

    All three are taken at the same parameters, over the whole training set.

    Args:
        runs: All runs.
        optimizer: ``adadelta`` or ``adam``.
    """
    title = f"{OPTIMIZERS[optimizer]}: variance of the gradient of one draw, at the parameters of the runs of AS"
    batch_sizes = _batch_sizes(runs, optimizer, "AS")
    figure = new_figure(title, (10, 4.2))
    grid = figure.subplots(1, len(batch_sizes), sharey=True, squeeze=False)
    for axes, batch_size in zip(grid[0], batch_sizes, strict=True):
        own = select(runs, "thesis", optimizer, batch_size, "AS")
        lines = [(own, name, colour) for name, (_, colour) in VARIANCES.items()]
        curves(axes, lines, epochs, logarithmic=True)
        axes.set_title(f"Batch {batch_size}", loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel("variance, trace (squared norm)")
    legend(figure, list(VARIANCES.values()))
    return figure


def overview_figure(runs: Sequence[Run], batch_size: int = 256) -> Figure:
    """The README's first picture: training cost of AS, OBS and uniform sampling, Adadelta and Adam side by side.

    Args:
        runs: All runs.
        batch_size: Instances per batch. Default: 256.
    """
    figure = new_figure(f"Training cost on MNIST, batch {batch_size}, after equally many batches", (10, 4.2))
    for axes, (optimizer, name) in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS.items(), strict=True):
        _arms(axes, runs, optimizer, batch_size, "training_cost_mean", epochs)
        axes.set_title(name + _missing(runs, optimizer, batch_size), loc="left", fontsize=11)
        axes.set_xlabel(EPOCH_LABEL)
    figure.axes[0].set_ylabel(COST_LABELS["mean"])
    legend(figure, [(_FULL_NAMES[arm], COLOURS[arm]) for arm in ARMS])
    return figure


def _batch_sizes(runs: Sequence[Run], optimizer: str, arm: str | None = None) -> list[int]:
    return [size for size in BATCH_SIZES if select(runs, "thesis", optimizer, size, arm)]


def _missing(runs: Sequence[Run], optimizer: str, batch_size: int) -> str:
    missing = [arm for arm in ARMS if not select(runs, "thesis", optimizer, batch_size, arm)]
    return f" (no runs of {', '.join(missing)})" if missing else ""


def _arms(
    axes: Axes, runs: Sequence[Run], optimizer: str, batch_size: int, column: str, x: Callable[[Run], NDArray]
) -> None:
    lines = [(select(runs, "thesis", optimizer, batch_size, arm), column, COLOURS[arm]) for arm in reversed(ARMS)]
    curves(axes, lines, x, logarithmic=column != "test_accuracy")
