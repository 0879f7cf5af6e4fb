"""The figures and tables of the evidence page: one folder, from our runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from thesis.evidence import (
    ACCURACY,
    ArmRow,
    TimeRow,
    arm_rows,
    of,
    pool,
    time_rows,
)
from thesis.evidence_figures import (
    claims_figure,
    collapse_figure,
    parts_figure,
    time_figure,
    weights_figure,
)
from thesis.evidence_markdown import evidence_markdown
from thesis.grid import DATA, MENDS, PARTS, TIMED, WEIGHTS
from thesis.mends import collapse_rows, default_rows
from thesis.report import png
from thesis.results import Run
from thesis.tables import RatioRow, as_csv, ratio_rows
from thesis.thesis import ARMS, BATCH_SIZES, OPTIMIZERS


def evidence_report(runs: Sequence[Run]) -> dict[str, bytes]:
    """All files by name: ``tables.md``, tables as CSV, figures as PNG.

    Args:
        runs: Of any experiments, as :func:`thesis.results.read` gives them.
    """
    pooled = pool(runs)
    claims = [row for optimizer in OPTIMIZERS for row in ratio_rows(runs, optimizer) if row.ours.runs]
    arms = {
        2: [row for optimizer in OPTIMIZERS for row in arm_rows(pooled, WEIGHTS, optimizer, 256)],
        3: [row for o in OPTIMIZERS for size in BATCH_SIZES for row in arm_rows(pooled, MENDS, o, size, base="AS")],
        4: [row for data in DATA for row in arm_rows(pooled, PARTS, "adadelta", 256, data)],
    }
    times = {5: time_rows(pooled, TIMED, (256,)), 6: time_rows(pooled, ARMS, BATCH_SIZES, (ACCURACY,))}
    collapses, defaults = collapse_rows(pooled), default_rows(pooled)
    figures = {f"question_{number}.png": png(figure) for number, figure in _figures(pooled, claims, arms, times)}
    tables = {
        "1": claims,
        "3_collapse": collapses,
        "3_default": defaults,
        **{str(n): rows for n, rows in (arms | times).items()},
    }
    csvs = {f"question_{name}.csv": as_csv(rows).encode() for name, rows in tables.items() if rows}
    page = evidence_markdown(claims, arms, times, collapses, defaults, list(figures))
    return figures | csvs | {"tables.md": page.encode()}


def _figures(
    runs: Sequence[Run],
    claims: Sequence[RatioRow],
    arms: dict[int, list[ArmRow]],
    times: dict[int, list[TimeRow]],
) -> list[tuple[int, Figure]]:
    """Those that the runs allow."""
    found = []
    if claims:
        found.append((1, claims_figure(claims)))
    if any(row.arm == "AS_weighted" for row in arms[2]):
        found.append((2, weights_figure(runs)))
    if of(runs, "AS", "adam", 64):
        found.append((3, collapse_figure(runs)))
    if any(row.arm == "uniform" for row in arms[4]):
        found.append((4, parts_figure(arms[4])))
    if times[5]:
        found.append((5, time_figure(times[5], "Time until a target is reached for the first time, batch 256")))
    if times[6]:
        found.append((6, time_figure(times[6], "Time until a test accuracy is reached for the first time")))
    return found
