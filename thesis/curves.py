"""Curves of runs over epochs and minutes.

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

from thesis.results import Run, common_epochs, last_common_epoch

EPOCH_LABEL, MINUTES_LABEL = "epochs", "training time (minutes)"
COST_LABELS = {name: f"{name} training cost (nats)" for name in ("mean", "median")}
_THIN, _THICK = (0.7, 0.45), (2.4, 1.0)  # width and opacity


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
