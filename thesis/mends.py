"""Question 3 of the evidence page: whether P collapses, with which mend, and which mend is the default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from thesis.comparison import ratio
from thesis.evidence import late, late_cost, of
from thesis.grid import MENDS
from thesis.results import COLLAPSED, Run, last_common_epoch
from thesis.thesis import BATCH_SIZES, EPOCH, OPTIMIZERS

WORST = 3.0
"""A default may not cost more than so many times the thesis's in any cell."""


class CollapseRow(NamedTuple):
    """One run that is longer than the reported ones."""

    optimizer: str
    batch_size: int
    arm: str
    seed: int
    epochs: int
    """Its length."""
    smallest_p: float
    """The smallest entry of P in any epoch."""
    collapsed_epochs: int
    """Number of epochs at whose end the smallest entry is below :data:`COLLAPSED`."""
    collapsed_since: int | None
    """The first epoch from which on it always is, None if it is not in the end."""
    cost: float
    """Mean training cost in nats, the geometric mean over the last three epochs."""
    accuracy: float
    """Percentage of the test set, mean over the last three epochs."""


class DefaultRow(NamedTuple):
    """One candidate for the default of adaptive sampling, on the seeds that choose it."""

    arm: str
    settings: int
    """How many of the six have runs of it and of the thesis's settings."""
    mean_ratio: float | None
    """Geometric mean over the settings of the cost over that of the thesis's settings."""
    worst_ratio: float | None
    worst: str
    """The setting of the worst ratio."""
    chosen: bool


def longest(runs: Sequence[Run]) -> list[Run]:
    """Those of the greatest length."""
    length = max((run.epochs[-1] for run in runs), default=0)
    return [run for run in runs if run.epochs[-1] == length]


def collapse_rows(runs: Sequence[Run]) -> list[CollapseRow]:
    """Whether P collapses in runs that go on beyond what is reported otherwise.

    Args:
        runs: Pooled ones.
    """
    settings = [(arm, optimizer, size) for optimizer in OPTIMIZERS for size in BATCH_SIZES for arm in MENDS]
    return [_collapse_row(run) for setting in settings for run in longest(of(runs, *setting)) if run.epochs[-1] > EPOCH]


def default_rows(runs: Sequence[Run]) -> list[DefaultRow]:
    """The candidates for the default on the seeds that choose it, and which the rule chooses.

    The rule: of the candidates that have all six settings and cost at most three times as much as the thesis's settings
    in each of them, the one with the smallest geometric mean of the ratios.

    Args:
        runs: Pooled ones.
    """
    rows = []
    for arm in MENDS:
        ratios = _selection_ratios(runs, arm)
        logs = [math.log(found) for found in ratios.values()]
        mean = math.exp(sum(logs) / len(logs)) if logs else None
        worst = max(ratios, key=lambda setting: ratios[setting], default="")
        rows.append(DefaultRow(arm, len(ratios), mean, ratios.get(worst), worst, False))
    allowed = [row for row in rows if row.settings == len(OPTIMIZERS) * len(BATCH_SIZES)]
    allowed = [row for row in allowed if row.worst_ratio is not None and row.worst_ratio <= WORST]
    best = min(allowed, key=lambda row: row.mean_ratio or math.inf, default=None)
    return [row._replace(chosen=row is best) for row in rows]


def _collapse_row(run: Run) -> CollapseRow:
    smallest, end = run.p.min(axis=1), int(run.epochs[-1])
    collapsed = smallest < COLLAPSED
    in_a_row = int(np.logical_and.accumulate(collapsed[::-1]).sum())  # up to the end
    since = int(run.epochs[-in_a_row]) if in_a_row else None
    return CollapseRow(
        run.cell.optimizer,
        run.cell.batch_size,
        run.cell.arm,
        run.cell.seed,
        end,
        float(smallest.min()),
        int(collapsed.sum()),
        since,
        late_cost(run, end),
        100 * float(late(run, "test_accuracy", end).mean()),
    )


def _selection_ratios(runs: Sequence[Run], arm: str) -> Mapping[str, float]:
    """Of each setting with selection runs, the median over the seeds of the cost over that of the thesis's settings."""
    ratios = {}
    for optimizer, name in OPTIMIZERS.items():
        for batch_size in BATCH_SIZES:
            chosen = {a: of(runs, a, optimizer, batch_size, selection=True) for a in (arm, "AS")}
            epoch = last_common_epoch([run for own in chosen.values() for run in own])
            if epoch is None:
                continue
            costs = {a: {run.cell.seed: late_cost(run, epoch) for run in own} for a, own in chosen.items()}
            found = ratio(costs[arm], costs["AS"])
            if found.value:
                ratios[f"{name} {batch_size}"] = found.value
    return ratios
