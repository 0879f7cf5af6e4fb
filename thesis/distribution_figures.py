"""Figures 13 to 19, the searches over the smoothings, and 24 to 26, the distribution over the digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thesis.comparison import as_text
from thesis.printed import CHOSEN_DELTAS, DISTRIBUTION_EPOCHS, OPTIMIZERS
from thesis.tables import GridRow, Tables

_COLOURS = "viridis_r"
_BEYOND = (30, 40, 50)
"""Epochs that the thesis does not show."""
_VANISHED = 1e-4
"""Probabilities below are written on the figure: they cannot be seen."""


def cost_scale(rows: Sequence[GridRow]) -> LogNorm:
    """One scale of colours for the costs of all searches, so that they can be compared.

    Args:
        rows: Those of all figures.
    """
    costs = [row.cost.value for row in rows if row.cost.value is not None]
    seen = [cost for cost in costs if np.isfinite(cost) and cost > 0] or [1.0]
    low, high = min(seen), max(seen)
    return LogNorm(low, high if high > low else 10 * low, clip=True)


def delta_grid_figure(rows: Sequence[GridRow], scale: LogNorm) -> Figure:
    """One of Figures 13 to 19: final training cost by δp and δq. Points without a run are hatched.

    Args:
        rows: Those of one figure.
        scale: As :func:`cost_scale` gives it.
    """
    first = rows[0]
    across = sorted({row.delta_q for row in rows})
    up = sorted({row.delta_p for row in rows})
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        x, y = across.index(row.delta_q), up.index(row.delta_p)
        _tile(axes, x, y, row, scale)
        if (row.delta_p, row.delta_q) == CHOSEN_DELTAS:
            axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=3))
    axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(-0.5, len(up) - 0.5), aspect="equal")
    axes.set(xlabel="smoothing of Q, δq", ylabel="smoothing of P, δp")
    axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    axes.set_yticks(range(len(up)), [f"{value:g}" for value in up])
    after = "" if first.epoch is None else f" after epoch {first.epoch}"
    figure.suptitle(f"{OPTIMIZERS[first.optimizer]}, batch {first.batch_size}: training cost{after}", fontsize=12)
    if CHOSEN_DELTAS in {(row.delta_p, row.delta_q) for row in rows}:
        axes.set_title("framed: the thesis's choice", loc="left", fontsize=9)
    figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, label="mean training cost (nats)", shrink=0.85)
    return figure


def distribution_figure(tables: Tables, optimizer: str, batch_size: int) -> Figure | None:
    """One of Figures 24 to 26: P over the digits at the beginning of some epochs, in the runs of AS.

    Args:
        tables: Of all runs.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.

    Returns:
        The figure, with a panel for each of the thesis's epochs, 0, 5, 10, 15, 20 and 25, and of 30, 40 and 50, that
        some run has; None without runs.
    """
    own = tables.arms(optimizer, batch_size)["AS"]
    epochs = [epoch for epoch in (*DISTRIBUTION_EPOCHS, *_BEYOND) if any(epoch in run.epochs for run in own)]
    if not epochs:
        return None
    columns = 2 if len(epochs) == 4 else min(len(epochs), 3)
    lines = -(-len(epochs) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.4, 2.5 * lines + 1.0), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(epochs) :]:
        axes.set_visible(False)
    for axes, epoch in zip(grid.flat, epochs, strict=False):
        found = np.array([run.p[run.row(epoch)] for run in own if epoch in run.epochs])
        _bars(axes, found)
        axes.set_title(f"epoch {epoch}: lowest in any run {as_text(found.min())}", loc="left", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("probability P")
    for axes in grid[-1]:
        axes.set_xlabel("digit (bin)")
    figure.suptitle(
        f"{OPTIMIZERS[optimizer]}, batch {batch_size}: P at the beginning of an epoch", x=0.01, ha="left", fontsize=13
    )
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def _tile(axes: Axes, x: int, y: int, row: GridRow, scale: LogNorm) -> None:
    cost = row.cost.value
    corner, text = (x - 0.5, y - 0.5), as_text(cost)
    if cost is None:
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="#999999", hatch="///", linewidth=0.5))
        text, shade = "not run", 1.0
    elif not np.isfinite(cost):
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="#BBBBBB", edgecolor="white"))
        shade = 1.0
    else:
        colour = colormaps[_COLOURS](float(scale(cost)))
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white"))
        shade = float(np.dot(colour[:3], (0.299, 0.587, 0.114)))
    if row.collapsed:
        text += "\nP collapsed"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if cost is None else None
    axes.text(x, y, text, ha="center", va="center", color="black" if shade > 0.5 else "white", fontsize=10, bbox=box)


def _bars(axes: Axes, found: np.ndarray) -> None:
    """Bars of the median over runs, a dot for each run, and the uniform distribution."""
    digits = np.arange(found.shape[1])
    middle = np.median(found, axis=0)
    axes.bar(digits, middle, color="#56B4E9", width=0.75, label="median over the runs")
    axes.plot(np.tile(digits, len(found)), found.ravel(), ".", color="#0072B2", markersize=4, label="single runs")
    axes.axhline(1 / len(digits), color="#D55E00", linewidth=1.2, linestyle="--", label="uniform")
    for digit in digits[middle < _VANISHED]:
        axes.text(digit, 0.01, f"{as_text(float(middle[digit]), 1)}", ha="center", va="bottom", fontsize=7, rotation=90)
    axes.set_xticks(digits)
    axes.spines[["top", "right"]].set_visible(False)
