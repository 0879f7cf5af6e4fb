"""What the runs of all experiments say about the questions of the evidence page, as rows that a CSV file can hold.

A training of the same cell is the same in whatever experiment it was run, so that the runs are pooled: what ``thesis``
has trained is not trained again for ``weights``, ``ablation`` or ``time``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thesis.comparison import Estimate, Ratio, median, ratio
from thesis.results import Run, last_common_epoch
from thesis.thesis import EPOCH, OPTIMIZERS

LAST_EPOCHS = 3
"""Costs swing by a factor of 3 from epoch to epoch: compared is the geometric mean over so many."""
FIRST_SELECTION_SEED = 100
"""Seeds from here on choose defaults, and enter no other figure."""


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
    """How soon, within 15 epochs, the runs of one arm in one setting reach a target for the first time."""

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


def pool(runs: Sequence[Run]) -> list[Run]:
    """One run of each training: of those that several experiments have, the longest."""
    longest: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.cell[1:] not in longest or run.epochs[-1] > longest[run.cell[1:]].epochs[-1]:
            longest[run.cell[1:]] = run
    return list(longest.values())


def of(
    runs: Sequence[Run], arm: str, optimizer: str, batch_size: int, data: str = "full", selection: bool = False
) -> list[Run]:
    """The reported runs of an arm in a setting, with the arm's own smoothings; or those that choose the default.

    Args:
        runs: Pooled ones, see :func:`pool`.
        arm: A name of the grid's.
        optimizer: ``adadelta`` or ``adam``.
        batch_size: Instances per batch.
        data: Default: ``full``.
        selection: Whether those of the seeds from :data:`FIRST_SELECTION_SEED` on are meant. Default: False.
    """
    setting = (arm, optimizer, batch_size, data)
    own = [run for run in runs if run.cell[1:5] == setting and run.cell.delta_p is None]
    return [run for run in own if (run.cell.seed >= FIRST_SELECTION_SEED) == selection]


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
            median([100 * late(run, "test_accuracy", epoch).mean() for run in own[arm]]),
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


def late_cost(run: Run, epoch: int) -> float:
    """Geometric mean of the mean training cost over the three epochs that end with the given one; 0 if one is 0.

    Not finite if one is not: that is for who compares it to say.
    """
    with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf, and all comes out right
        return float(np.exp(np.log(late(run, "training_cost_mean", epoch)).mean()))


def late(run: Run, column: str, epoch: int) -> np.ndarray:
    """What was measured in the three epochs that end with the given one."""
    return run.measured[column][(run.epochs <= epoch) & (run.epochs > max(epoch - LAST_EPOCHS, 0))]


def _time_row(runs: Sequence[Run], optimizer: str, batch_size: int, arm: str, target: Target) -> TimeRow:
    reached = [(run, _first(run, target)) for run in runs]
    epochs = float(np.median([math.inf if row is None else run.epochs[row] for run, row in reached]))
    minutes = median([run.measured["seconds"][row] / 60 for run, row in reached if row is not None])
    middle = epochs if math.isfinite(epochs) else None
    return TimeRow(optimizer, batch_size, arm, target.label, middle, minutes, len(runs))


def _first(run: Run, target: Target) -> int | None:
    """The row of the first epoch that reaches a target, within the epochs that are compared."""
    found = run.measured[target.column][run.epochs <= EPOCH]
    reached = found >= target.value if target.column == "test_accuracy" else found <= target.value
    return int(np.argmax(reached)) if reached.any() else None
