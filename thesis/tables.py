"""Tables 2, 3 and 4 of the thesis from our runs, beside what it prints, as rows that a CSV file can hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thesis.comparison import (
    AccuracyComparison,
    Estimate,
    Ratio,
    accuracy_verdict,
    compare_accuracies,
    median,
    pooled_p_value,
    ratio,
    verdict,
)
from thesis.results import MEASURED, Run, common_epochs, last_common_epoch, select
from thesis.thesis import (
    ACCURACY_TESTS,
    ARMS,
    BATCH_SIZES,
    EPOCH,
    LAST_VALUES,
    OPTIMIZERS,
    TABLES,
    AccuracyPValue,
)

STATISTICS = ("mean", "median")


class RatioRow(NamedTuple):
    """The cost of AS over that of another arm, in one cell."""

    optimizer: str
    batch_size: int
    against: str
    statistic: str
    """``mean`` or ``median`` of the cross-entropies of the training set."""
    epoch: int | None
    """The epoch compared: the last that all runs of the cell have, at most 15; None if a run is missing."""
    printed: float
    ours: Ratio
    verdict: str


class CellRow(NamedTuple):
    """One arm in one cell."""

    optimizer: str
    batch_size: int
    arm: str
    epoch: int | None
    cost_mean: Estimate
    """Nats."""
    cost_median: Estimate
    zeros: int
    """Runs whose median cost is exactly 0."""
    accuracy: Estimate
    """Percentage of the test set."""
    minutes: Estimate
    """Training, without evaluation."""
    minutes_printed: float


class AccuracyRow(NamedTuple):
    """One line of Table 2."""

    printed: AccuracyPValue
    epoch: int | None
    ours: AccuracyComparison
    values: int
    """Values of each averaged curve that enter the thesis's test: 15, or as many as there are."""
    pooled_p: float | None
    """p of the thesis's test."""
    verdict: str


def ratio_rows(runs: Sequence[Run], optimizer: str) -> list[RatioRow]:
    """The left half of Table 3 (``adadelta``) or 4 (``adam``), under the mean and under the median cost."""
    rows = []
    for batch_size in BATCH_SIZES:
        epoch = last_common_epoch(_cell(runs, optimizer, batch_size), EPOCH)
        for against in ("uniform", "OBS"):
            printed: float = getattr(TABLES[optimizer][batch_size], against)
            for statistic in STATISTICS:
                above, below = (_costs(runs, optimizer, batch_size, arm, statistic, epoch) for arm in ("AS", against))
                ours = ratio(above, below)
                at = epoch if ours.runs else None
                row = RatioRow(optimizer, batch_size, against, statistic, at, printed, ours, verdict(ours, printed))
                rows.append(row)
    return rows


def cell_rows(runs: Sequence[Run], optimizer: str) -> list[CellRow]:
    """Costs, accuracies and times of each arm at the epochs of :func:`ratio_rows`; the right half of Tables 3 and 4."""
    rows = []
    for batch_size in BATCH_SIZES:
        epoch = last_common_epoch(_cell(runs, optimizer, batch_size), EPOCH)
        for arm in ARMS:
            own = select(runs, "thesis", optimizer, batch_size, arm) if epoch else []
            measured = {name: [run.at(name, epoch or 0) for run in own] for name in MEASURED}
            row = CellRow(
                optimizer=optimizer,
                batch_size=batch_size,
                arm=arm,
                epoch=epoch if own else None,
                cost_mean=median(measured["training_cost_mean"]),
                cost_median=median(measured["training_cost_median"]),
                zeros=measured["training_cost_median"].count(0.0),
                accuracy=median([100 * share for share in measured["test_accuracy"]]),
                minutes=median([seconds / 60 for seconds in measured["seconds"]]),
                minutes_printed=TABLES[optimizer][batch_size].minutes[arm],
            )
            rows.append(row)
    return rows


def accuracy_rows(runs: Sequence[Run]) -> list[AccuracyRow]:
    """Table 2: each test as it should be done, and as the thesis did it."""
    rows = []
    for printed in ACCURACY_TESTS:
        ours, other = (
            select(runs, "thesis", printed.optimizer, printed.batch_size, arm) for arm in ("AS", printed.against)
        )
        epoch = last_common_epoch([*ours, *other]) if ours and other else None
        arms = (ours, other) if epoch else ([], [])
        final = [[100 * run.at("test_accuracy", epoch or 0) for run in arm] for arm in arms]
        found = compare_accuracies(final[0], final[1])
        epochs = [e for e in common_epochs([*arms[0], *arms[1]]) if e > 0][-LAST_VALUES:]
        curves = [[float(np.mean([run.at("test_accuracy", e) for run in arm])) for e in epochs] for arm in arms]
        p = pooled_p_value(curves[0], curves[1])
        rows.append(AccuracyRow(printed, epoch, found, len(epochs), p, accuracy_verdict(found)))
    return rows


def missing_cells(runs: Sequence[Run]) -> list[str]:
    """The cells of the thesis's protocol without any run, as text, in order."""
    return [
        f"{name}, batch {batch_size}, {arm}"
        for optimizer, name in OPTIMIZERS.items()
        for batch_size in BATCH_SIZES
        for arm in ARMS
        if not select(runs, "thesis", optimizer, batch_size, arm)
    ]


def as_csv(rows: Sequence[NamedTuple]) -> str:
    """Rows of one kind as a CSV file. Of an estimate, its parts have columns of their own; what is None is empty."""
    stream = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def _flat(row: NamedTuple) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in row._asdict().items():
        if hasattr(value, "_asdict"):
            found |= {f"{name}_{part}": inner for part, inner in _flat(value).items()}
        else:
            found[name] = f"{value:.6g}" if isinstance(value, float) else value
    return found


def _cell(runs: Sequence[Run], optimizer: str, batch_size: int) -> list[Run]:
    return [run for arm in ARMS for run in select(runs, "thesis", optimizer, batch_size, arm)]


def _costs(
    runs: Sequence[Run], optimizer: str, batch_size: int, arm: str, statistic: str, epoch: int | None
) -> dict[int, float]:
    """Costs by seed."""
    own = select(runs, "thesis", optimizer, batch_size, arm) if epoch else []
    return {run.cell.seed: run.at(f"training_cost_{statistic}", epoch or 0) for run in own}
