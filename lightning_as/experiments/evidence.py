"""What the runs of all experiments say about the questions of the evidence page, as rows that a CSV file can hold.

A training of the same cell is the same in whatever experiment it was run, so that the runs are pooled: what ``thesis``
has trained is not trained again for ``weights``, ``ablation`` or ``time``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_as.experiments.comparison import Estimate, Ratio, median, ratio
from lightning_as.experiments.results import Run, last_common_epoch
from lightning_as.experiments.thesis import BATCH_SIZES, EPOCH, OPTIMIZERS

LAST_EPOCHS = 3
"""Costs swing by a factor of 3 from epoch to epoch: compared is the geometric mean over so many."""
FIRST_SELECTION_SEED = 100
"""Seeds from here on choose defaults, and enter no other figure."""
WORST = 3.0
"""A default may not cost more than so many times the thesis's in any cell."""
MENDS = ("AS", "AS_floor", "AS_second_moment", "AS_statistic", "AS_original", "AS_robust")
WEIGHTS = ("uniform", "AS", "AS_weighted")
PARTS = ("uniform", "AS", "AS_one_bin", "AS_q_only", "gopal", "gopal_unweighted", "OBS")
TIMED = ("uniform", "AS", "OBS", "InfoBatch", "SelectiveBackprop")
DATA = ("full", "imbalanced", "noisy_10", "noisy_40")


class Target(NamedTuple):
    """What a training is to reach."""

    column: str
    """A measured one."""
    value: float
    """For a cost the largest, for an accuracy the smallest that counts."""
    label: str


TARGETS = (
    Target("training_cost_mean", 1e-2, "training cost 1e-2"),
    Target("training_cost_mean", 1e-3, "training cost 1e-3"),
    Target("test_accuracy", 0.993, "test accuracy 99.3 %"),
)
ACCURACY = TARGETS[2]


class ArmRow(NamedTuple):
    """One arm in one setting, beside another."""

    optimizer: str
    batch_size: int
    data: str
    arm: str
    epoch: int
    """The last that all compared runs have, at most 15."""
    cost: Estimate
    """Mean training cost in nats, the geometric mean over the last three epochs."""
    ratio: Ratio
    """That cost over the base's."""
    accuracy: Estimate
    """Percentage of the test set, mean over the last three epochs."""
    smallest_p: Estimate
    """The smallest entry of P in any epoch."""


class TimeRow(NamedTuple):
    """How soon the runs of one arm in one setting reach a target for the first time."""

    optimizer: str
    batch_size: int
    arm: str
    target: str
    epochs: float | None
    """Median over the runs; None if half of them or more do not reach it."""
    minutes: Estimate
    """Of training, without evaluations, of those runs that reach it."""
    runs: int
    """All."""


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


def pool(runs: Sequence[Run]) -> list[Run]:
    """One run of each training: of those that several experiments have, the longest."""
    longest: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.cell[1:] not in longest or run.epochs[-1] > longest[run.cell[1:]].epochs[-1]:
            longest[run.cell[1:]] = run
    return list(longest.values())


def of(runs: Sequence[Run], arm: str, optimizer: str, batch_size: int, data: str = "full") -> list[Run]:
    """The reported runs of an arm in a setting, with the arm's own smoothings.

    Args:
        runs: Pooled ones, see :func:`pool`.
        arm: A name of the grid's.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
        data: Default: ``full``.
    """
    return [run for run in _any_seed(runs, arm, optimizer, batch_size, data) if run.cell.seed < FIRST_SELECTION_SEED]


def arm_rows(
    runs: Sequence[Run], arms: Sequence[str], optimizer: str, batch_size: int, data: str = "full", base: str = "uniform"
) -> list[ArmRow]:
    """The arms of a setting that have runs, at the last epoch that all these have.

    Args:
        runs: Pooled ones.
        arms: Their order is that of the rows.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
        data: Default: ``full``.
        base: What the costs are divided by. Default: uniform sampling.
    """
    own = {arm: of(runs, arm, optimizer, batch_size, data) for arm in dict.fromkeys((*arms, base))}
    epoch = last_common_epoch([run for found in own.values() for run in found], EPOCH)
    if epoch is None:
        return []
    costs = {arm: {run.cell.seed: late_cost(run, epoch) for run in found} for arm, found in own.items()}
    return [
        ArmRow(
            optimizer,
            batch_size,
            data,
            arm,
            epoch,
            median(list(costs[arm].values())),
            ratio(costs[arm], costs[base]),
            median([100 * _late(run, "test_accuracy", epoch).mean() for run in own[arm]]),
            median([float(run.p[run.epochs <= epoch].min()) for run in own[arm]]),
        )
        for arm in arms
        if own[arm]
    ]


def time_rows(
    runs: Sequence[Run], arms: Sequence[str], batch_sizes: Sequence[int], targets: Sequence[Target] = TARGETS
) -> list[TimeRow]:
    """When the targets are reached, for each setting and arm that has runs.

    Args:
        runs: Pooled ones.
        arms: Which.
        batch_sizes: Which.
        targets: Which. Default: all.
    """
    rows = []
    for target in targets:
        for optimizer in OPTIMIZERS:
            for batch_size in batch_sizes:
                for arm in arms:
                    own = of(runs, arm, optimizer, batch_size)
                    if own:
                        rows.append(_time_row(own, optimizer, batch_size, arm, target))
    return rows


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


def late_cost(run: Run, epoch: int) -> float:
    """Geometric mean of the mean training cost over the three epochs that end with the given one; 0 if one is 0."""
    costs = _late(run, "training_cost_mean", epoch)
    return float(np.exp(np.log(costs).mean())) if (costs > 0).all() else 0.0


def _late(run: Run, column: str, epoch: int) -> np.ndarray:
    return run.measured[column][(run.epochs <= epoch) & (run.epochs > max(epoch - LAST_EPOCHS, 0))]


def _any_seed(runs: Sequence[Run], arm: str, optimizer: str, batch_size: int, data: str) -> list[Run]:
    return [run for run in runs if run.cell[1:5] == (arm, optimizer, batch_size, data) and run.cell.delta_p is None]


def _time_row(runs: Sequence[Run], optimizer: str, batch_size: int, arm: str, target: Target) -> TimeRow:
    reached = [(run, _first(run, target)) for run in runs]
    epochs = float(np.median([math.inf if row is None else run.epochs[row] for run, row in reached]))
    minutes = median([run.measured["seconds"][row] / 60 for run, row in reached if row is not None])
    middle = epochs if math.isfinite(epochs) else None
    return TimeRow(optimizer, batch_size, arm, target.label, middle, minutes, len(runs))


def _first(run: Run, target: Target) -> int | None:
    """The row of the first epoch that reaches a target."""
    found = run.measured[target.column]
    reached = found >= target.value if target.column == "test_accuracy" else found <= target.value
    return int(np.argmax(reached)) if reached.any() else None


def _selection_ratios(runs: Sequence[Run], arm: str) -> Mapping[str, float]:
    """Of each setting with selection runs, the median over the seeds of the cost over that of the thesis's settings."""
    ratios = {}
    for optimizer, name in OPTIMIZERS.items():
        for batch_size in BATCH_SIZES:
            candidates = {arm: _any_seed(runs, arm, optimizer, batch_size, "full") for arm in (arm, "AS")}
            chosen = {a: [r for r in own if r.cell.seed >= FIRST_SELECTION_SEED] for a, own in candidates.items()}
            epoch = last_common_epoch([run for own in chosen.values() for run in own])
            if epoch is None:
                continue
            costs = {a: {run.cell.seed: late_cost(run, epoch) for run in own} for a, own in chosen.items()}
            found = ratio(costs[arm], costs["AS"])
            if found.value:
                ratios[f"{name} {batch_size}"] = found.value
    return ratios
