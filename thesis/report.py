"""The report of the thesis's experiments: one folder with its Tables 2 to 4 and Figures 13 to 28, from our runs."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image  # which matplotlib needs

from thesis.distribution_figures import cost_scale, delta_grid_figure, distribution_figure
from thesis.figures import accuracy_figure, overview_figure, training_cost_figure, variance_figure
from thesis.markdown import markdown
from thesis.results import Run, select
from thesis.search import grid_rows, search_rows
from thesis.tables import accuracy_rows, as_csv, cell_rows, ratio_rows
from thesis.thesis import (
    ACCURACY_FIGURES,
    BATCH_SIZES,
    DELTA_GRIDS,
    DISTRIBUTION_FIGURES,
    OPTIMIZERS,
)

DPI = 130
_PNG_COLOURS = 128  # a palette makes the files a third as large
OVERVIEW = "training_cost.png"


def report(runs: Sequence[Run]) -> dict[str, bytes]:
    """All files of the report by name: ``report.md``, tables as CSV, figures as PNG.

    Args:
        runs: As :func:`thesis.results.read` gives them.

    Raises:
        ValueError: If no run is of the experiments ``thesis`` or ``grid-search``.
    """
    if not any(run.cell.experiment in ("thesis", "grid-search") for run in runs):
        found = sorted({run.cell.experiment for run in runs})
        raise ValueError(
            f"the results hold no trained run of the experiments thesis or grid-search, but of {found}. "
            "Run `lightning-as experiment thesis` first."
        )
    drawn = figures(runs)
    files = {name: png(figure) for name, (figure, _) in drawn.items()}
    tables = {
        "table_2": accuracy_rows(runs),
        "tables_3_and_4": [row for optimizer in OPTIMIZERS for row in ratio_rows(runs, optimizer)],
        "cells": [row for optimizer in OPTIMIZERS for row in cell_rows(runs, optimizer)],
        "figures_13_to_19": grid_rows(runs),
        "searches": search_rows(grid_rows(runs)),
    }
    files |= {f"{name}.csv": as_csv(rows).encode() for name, rows in tables.items()}
    return files | {"report.md": markdown(runs, {name: caption for name, (_, caption) in drawn.items()}).encode()}


def write(files: Mapping[str, bytes], output: Path) -> None:
    """Write the files into a folder, each whole or not at all; what else is there stays.

    Raises:
        OSError: If it cannot be written to.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        for name in files:
            os.replace(Path(folder) / name, output / name)


def figures(runs: Sequence[Run]) -> dict[str, tuple[Figure, str]]:
    """The figures that the runs allow and their captions, by file name, in the thesis's order.

    Args:
        runs: All runs.
    """
    made = [*_grid_figures(runs), *_curve_figures(runs), *_law_figures(runs)]
    found = {
        f"figure_{name}.png": (figure, f"Figure {name.removesuffix('_median')}: {caption}")
        for name, caption, figure in made
    }
    if any(select(runs, "thesis", optimizer, 256) for optimizer in OPTIMIZERS):
        found[OVERVIEW] = overview_figure(runs), "Training cost, batch 256"
    return found


def _grid_figures(runs: Sequence[Run]) -> Iterator[tuple[str, str, Figure]]:
    rows = grid_rows(runs)
    scale = cost_scale(rows)
    for grid in DELTA_GRIDS:
        own = [row for row in rows if row.figure == grid.figure]
        if any(row.cost.runs for row in own):
            caption = f"search for δp and δq, {OPTIMIZERS[grid.optimizer]}, batch {grid.batch_size}"
            yield str(grid.figure), caption, delta_grid_figure(own, scale)


def _curve_figures(runs: Sequence[Run]) -> Iterator[tuple[str, str, Figure]]:
    for number, (optimizer, name) in enumerate(OPTIMIZERS.items(), 20):
        if any(select(runs, "thesis", optimizer, batch_size) for batch_size in BATCH_SIZES):
            yield str(number), f"mean training cost, {name}", training_cost_figure(runs, optimizer)
            yield f"{number}_median", f"median training cost, {name}", training_cost_figure(runs, optimizer, "median")
    for number, (optimizer, batch_size) in ACCURACY_FIGURES.items():
        if select(runs, "thesis", optimizer, batch_size):
            caption = f"test accuracy, {OPTIMIZERS[optimizer]}, batch {batch_size}"
            yield str(number), caption, accuracy_figure(runs, optimizer, batch_size)


def _law_figures(runs: Sequence[Run]) -> Iterator[tuple[str, str, Figure]]:
    for number, (optimizer, batch_size) in DISTRIBUTION_FIGURES.items():
        figure = distribution_figure(runs, optimizer, batch_size)
        if figure is not None:
            yield str(number), f"the distribution P, {OPTIMIZERS[optimizer]}, batch {batch_size}", figure
    for number, (optimizer, name) in enumerate(OPTIMIZERS.items(), 27):
        if any(select(runs, "thesis", optimizer, batch_size, "AS") for batch_size in BATCH_SIZES):
            yield str(number), f"variance of the gradients, {name}", variance_figure(runs, optimizer)


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, small enough for a repository."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(_PNG_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()
