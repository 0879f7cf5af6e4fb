"""The reports: the thesis's Tables 2 to 4 and Figures 13 to 28 from our runs, and the evidence; a folder each."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image  # which matplotlib needs

from thesis import evidence_figures as of_evidence
from thesis.distribution_figures import cost_scale, delta_grid_figure, distribution_figure
from thesis.evidence import Evidence, of
from thesis.evidence_markdown import evidence_markdown
from thesis.figures import accuracy_figure, overview_figure, training_cost_figure, variance_figure
from thesis.markdown import markdown
from thesis.printed import ACCURACY_FIGURES, BATCH_SIZES, DELTA_GRIDS, DISTRIBUTION_FIGURES, OPTIMIZERS
from thesis.tables import Tables
from thesis.variance import STUDY, layer_rows, noise_rows
from thesis.variance_figure import variance_figure as study_figure

DPI = 130
_PNG_COLOURS = 128  # a palette makes the files a third as large
OVERVIEW = "training_cost.png"


def thesis_report(tables: Tables) -> dict[str, bytes]:
    """All files of the thesis's report by name: ``report.md``, tables as CSV, figures as PNG.

    Args:
        tables: Of any runs.

    Raises:
        ValueError: If no run is of the studies ``thesis`` or ``grid-search``.
    """
    if not any(run.cell.experiment in ("thesis", "grid-search") for run in tables.runs):
        found = sorted({run.cell.experiment for run in tables.runs})
        raise ValueError(
            f"the results hold no trained run of the studies thesis or grid-search, but of {found}. "
            "Run `python -m thesis run thesis` first."
        )
    drawn = figures(tables)
    files = {name: png(figure) for name, (figure, _) in drawn.items()}
    rows = {
        "table_2": tables.accuracies,
        "tables_3_and_4": tables.ratios,
        "cells": tables.cells,
        "figures_13_to_19": tables.points,
        "searches": tables.searches,
    }
    files |= {f"{name}.csv": as_csv(of_table).encode() for name, of_table in rows.items()}
    return files | {"report.md": markdown(tables, {name: caption for name, (_, caption) in drawn.items()}).encode()}


def evidence_report(tables: Tables) -> dict[str, bytes]:
    """All files of the evidence by name: ``tables.md``, tables as CSV, figures as PNG.

    Args:
        tables: Of runs of any studies.
    """
    evidence = Evidence(tables)
    noise, layer = noise_rows(evidence.runs), layer_rows(tables.runs)
    files = {f"question_{number}.png": png(figure) for number, figure in _evidence_figures(evidence)}
    if layer:
        studied = [run for run in tables.runs if run.cell.experiment == STUDY]
        files["question_7.png"] = png(study_figure(studied, layer))
    page = evidence_markdown(evidence, noise, layer, list(files)).encode()
    rows = {"1": evidence.claims, "3_collapse": evidence.collapses, "3_default": evidence.defaults}
    rows |= {str(number): of_question for number, of_question in (evidence.arms | evidence.times).items()}
    rows |= {"7": noise, "7_layer": layer}
    files |= {f"question_{name}.csv": as_csv(of_question).encode() for name, of_question in rows.items() if of_question}
    return files | {"tables.md": page}


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


def as_csv(rows: Sequence[NamedTuple]) -> str:
    """Rows of one kind as a CSV file. Of an estimate, its parts have columns of their own; what is None is empty."""
    stream = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, small enough for a repository."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(_PNG_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def figures(tables: Tables) -> dict[str, tuple[Figure, str]]:
    """The figures of the thesis that the runs allow and their captions, by file name, in the thesis's order.

    Args:
        tables: Of any runs.
    """
    made = [*_grid_figures(tables), *_curve_figures(tables), *_distribution_figures(tables)]
    found = {
        f"figure_{name}.png": (figure, f"Figure {name.removesuffix('_median')}: {caption}")
        for name, caption, figure in made
    }
    if any(any(tables.arms(optimizer, 256).values()) for optimizer in OPTIMIZERS):
        found[OVERVIEW] = overview_figure(tables), "Training cost, batch 256"
    return found


def _grid_figures(tables: Tables) -> Iterator[tuple[str, str, Figure]]:
    scale = cost_scale(tables.points)
    for grid in DELTA_GRIDS:
        own = [row for row in tables.points if row.figure == grid.figure]
        if any(row.cost.runs for row in own):
            caption = f"search for δp and δq, {OPTIMIZERS[grid.optimizer]}, batch {grid.batch_size}"
            yield str(grid.figure), caption, delta_grid_figure(own, scale)


def _curve_figures(tables: Tables) -> Iterator[tuple[str, str, Figure]]:
    for number, (optimizer, name) in enumerate(OPTIMIZERS.items(), 20):
        if any(any(tables.arms(optimizer, batch_size).values()) for batch_size in BATCH_SIZES):
            yield str(number), f"mean training cost, {name}", training_cost_figure(tables, optimizer)
            yield f"{number}_median", f"median training cost, {name}", training_cost_figure(tables, optimizer, "median")
    for number, (optimizer, batch_size) in ACCURACY_FIGURES.items():
        if any(tables.arms(optimizer, batch_size).values()):
            caption = f"test accuracy, {OPTIMIZERS[optimizer]}, batch {batch_size}"
            yield str(number), caption, accuracy_figure(tables, optimizer, batch_size)


def _distribution_figures(tables: Tables) -> Iterator[tuple[str, str, Figure]]:
    for number, (optimizer, batch_size) in DISTRIBUTION_FIGURES.items():
        figure = distribution_figure(tables, optimizer, batch_size)
        if figure is not None:
            yield str(number), f"the distribution P, {OPTIMIZERS[optimizer]}, batch {batch_size}", figure
    for number, (optimizer, name) in enumerate(OPTIMIZERS.items(), 27):
        if any(tables.arms(optimizer, batch_size)["AS"] for batch_size in BATCH_SIZES):
            yield str(number), f"variance of the gradients, {name}", variance_figure(tables, optimizer)


def _evidence_figures(evidence: Evidence) -> Iterator[tuple[int, Figure]]:
    """Those that the runs allow."""
    runs, arms, times = evidence.runs, evidence.arms, evidence.times
    if evidence.claims:
        yield 1, of_evidence.claims_figure(evidence.claims)
    if any(row.arm == "AS_weighted" for row in arms[2]):
        yield 2, of_evidence.weights_figure(runs)
    if of(runs, "AS", "adam", 64):
        yield 3, of_evidence.collapse_figure(runs)
    if any(row.arm == "uniform" for row in arms[4]):
        yield 4, of_evidence.parts_figure(arms[4])
    if times[5]:
        yield 5, of_evidence.time_figure(times[5], "Time until a target is reached for the first time, batch 256")
    if times[6]:
        yield 6, of_evidence.time_figure(times[6], "Time until a test accuracy is reached for the first time")


def _flat(row: NamedTuple) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in row._asdict().items():
        if hasattr(value, "_asdict"):
            found |= {f"{name}_{part}": inner for part, inner in _flat(value).items()}
        else:
            found[name] = f"{value:.6g}" if isinstance(value, float) else value
    return found
