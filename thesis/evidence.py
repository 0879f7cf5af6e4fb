"""What the runs of all studies say about the questions of the evidence page, as rows that a CSV file can hold.

A training of the same cell is the same in whatever study it was run, so that the runs are pooled: what ``thesis`` has
trained is not trained again for ``weights``, ``ablation`` or ``time``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from thesis.comparison import Estimate, Ratio, median, ratio
from thesis.grid import APART, DATA, PARTS, REMEDIES, TIMED, WEIGHTS, over_bins
from thesis.printed import ARMS, BATCH_SIZES, EPOCH, OPTIMIZERS
from thesis.results import COLLAPSED, Run, last_common_epoch, timed
from thesis.tables import RatioRow, Tables

LAST_EPOCHS = 3
"""Costs swing by a factor of 3 from epoch to epoch: compared is the geometric mean over so many."""
FIRST_SELECTION_SEED = 100
"""Seeds from here on choose defaults, and enter no other figure."""
WORST = 3.0
"""A default may not cost more than so many times the thesis's in any setting."""


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
    """Number of epochs at whose end the smallest entry is below :data:`thesis.results.COLLAPSED`."""
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


class Evidence:
    """The rows of all questions, each computed once, when they are first asked for.

    Args:
        tables: Of runs of any studies.
    """

    def __init__(self, tables: Tables) -> None:
        self.claims: list[RatioRow] = [row for row in tables.ratios if row.ours.runs]
        """Question 1: the ratios of Tables 3 and 4 that have runs."""
        self.runs = pool([run for run in tables.runs if run.cell.experiment not in APART])
        """One of each training, but for the studies that stand apart."""

    @cached_property
    def arms(self) -> dict[int, list[ArmRow]]:
        """Questions 2 to 4: arms beside each other."""
        weights = [self.compare(WEIGHTS, optimizer, 256) for optimizer in OPTIMIZERS]
        remedies = [self.compare(REMEDIES, o, size, base="AS") for o in OPTIMIZERS for size in BATCH_SIZES]
        parts = [self.compare(PARTS, "adadelta", 256, data) for data in DATA]
        return {at: [row for rows in found for row in rows] for at, found in enumerate((weights, remedies, parts), 2)}

    @cached_property
    def times(self) -> dict[int, list[TimeRow]]:
        """Questions 5 and 6: how soon targets are reached, of each setting and arm that has runs."""
        return {5: self._times(TIMED, (256,), TARGETS), 6: self._times(ARMS, BATCH_SIZES, (ACCURACY,))}

    @cached_property
    def collapses(self) -> list[CollapseRow]:
        """Question 3: whether P collapses in the runs that go on beyond what is reported otherwise."""
        settings = [(arm, optimizer, size) for optimizer in OPTIMIZERS for size in BATCH_SIZES for arm in REMEDIES]
        found = [run for setting in settings for run in longer(of(self.runs, *setting))]
        return [_collapse(run) for run in found if run.epochs[-1] > EPOCH]

    @cached_property
    def defaults(self) -> list[DefaultRow]:
        """Question 3: the candidates for the default on the seeds that choose it, and which the rule chooses.

        The rule: of the candidates that have all six settings and cost at most three times as much as the thesis's
        settings in each of them, the one with the smallest geometric mean of the ratios.
        """
        rows = []
        for arm in REMEDIES:
            ratios = self._selection_ratios(arm)
            logs = [math.log(found) for found in ratios.values()]
            mean = math.exp(sum(logs) / len(logs)) if logs else None
            worst = max(ratios, key=lambda setting: ratios[setting], default="")
            rows.append(DefaultRow(arm, len(ratios), mean, ratios.get(worst), worst, False))
        allowed = [row for row in rows if row.settings == len(OPTIMIZERS) * len(BATCH_SIZES)]
        allowed = [row for row in allowed if row.worst_ratio is not None and row.worst_ratio <= WORST]
        best = min(allowed, key=lambda row: row.mean_ratio or math.inf, default=None)
        return [row._replace(chosen=row is best) for row in rows]

    def compare(
        self, arms: Sequence[str], optimizer: str, batch_size: int, data: str = "full", base: str = "uniform"
    ) -> list[ArmRow]:
        """The arms of a setting that have runs, in the given order, at the last epoch that all these have.

        Args:
            arms: Names of the grid's.
            optimizer: ``adadelta`` or ``adam``.
            batch_size: Instances per batch.
            data: Default: ``full``.
            base: What the costs are divided by. Default: uniform sampling.
        """
        own = {arm: of(self.runs, arm, optimizer, batch_size, data) for arm in dict.fromkeys((*arms, base))}
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
                median([late_accuracy(run, epoch) for run in own[arm]]),
                median([float(over_bins(run)[run.epochs <= epoch].min()) for run in own[arm]]),
            )
            for arm in arms
            if own[arm]
        ]

    def _times(self, arms: Sequence[str], batch_sizes: Sequence[int], targets: Sequence[Target]) -> list[TimeRow]:
        rows = []
        for target, optimizer, size in product(targets, OPTIMIZERS, batch_sizes):
            found = [own for arm in arms if (own := timed(of(self.runs, arm, optimizer, size)))]
            # Sessions were not all alike fast: of the seeds that all arms have.
            common = set.intersection(*({run.cell.seed for run in own} for own in found)) if found else set()
            rows += [_time([run for run in own if run.cell.seed in common], target) for own in found if common]
        return rows

    def _selection_ratios(self, arm: str) -> dict[str, float]:
        """Of each setting with selection runs, the median over the seeds of the cost over the thesis's settings'."""
        ratios = {}
        for optimizer, name in OPTIMIZERS.items():
            for batch_size in BATCH_SIZES:
                chosen = {a: of(self.runs, a, optimizer, batch_size, selection=True) for a in (arm, "AS")}
                epoch = last_common_epoch([run for own in chosen.values() for run in own])
                if epoch is None:
                    continue
                costs = {a: {run.cell.seed: late_cost(run, epoch) for run in own} for a, own in chosen.items()}
                found = ratio(costs[arm], costs["AS"])
                if found.value:
                    ratios[f"{name} {batch_size}"] = found.value
        return ratios


def pool(runs: Sequence[Run]) -> list[Run]:
    """One run of each training: of those that several studies have, the longest."""
    found: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.cell[1:] not in found or run.epochs[-1] > found[run.cell[1:]].epochs[-1]:
            found[run.cell[1:]] = run
    return list(found.values())


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


def longer(runs: Sequence[Run]) -> list[Run]:
    """Those that go on beyond what is compared otherwise; if none does, the longest."""
    length = min(max((int(run.epochs[-1]) for run in runs), default=0), EPOCH + 1)
    return [run for run in runs if run.epochs[-1] >= length]


def late_cost(run: Run, epoch: int) -> float:
    """Geometric mean of the mean training cost over three epochs up to the given one; 0 or not finite if one is."""
    with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf, and all comes out right
        return float(np.exp(np.log(_late(run, "training_cost_mean", epoch)).mean()))


def late_accuracy(run: Run, epoch: int) -> float:
    """Mean test accuracy over the same epochs, in percent."""
    return 100 * float(_late(run, "test_accuracy", epoch).mean())


def _late(run: Run, column: str, epoch: int) -> np.ndarray:
    """What was measured in the three epochs that end with the given one."""
    return run.measured[column][(run.epochs <= epoch) & (run.epochs > max(epoch - LAST_EPOCHS, 0))]


def _time(runs: Sequence[Run], target: Target) -> TimeRow:
    cell, reached = runs[0].cell, [(run, _first(run, target)) for run in runs]
    epochs = float(np.median([math.inf if row is None else run.epochs[row] for run, row in reached]))
    minutes = median([run.measured["seconds"][row] / 60 for run, row in reached if row is not None])
    middle = epochs if math.isfinite(epochs) else None
    return TimeRow(cell.optimizer, cell.batch_size, cell.arm, target.label, middle, minutes, len(runs))


def _first(run: Run, target: Target) -> int | None:
    """The row of the first epoch that reaches a target, within the epochs that are compared."""
    found = run.measured[target.column][run.epochs <= EPOCH]
    reached = found >= target.value if target.column == "test_accuracy" else found <= target.value
    return int(np.argmax(reached)) if reached.any() else None


def _collapse(run: Run) -> CollapseRow:
    smallest, end = over_bins(run).min(axis=1), int(run.epochs[-1])
    collapsed = smallest < COLLAPSED
    in_a_row = int(np.logical_and.accumulate(collapsed[::-1]).sum())  # up to the end
    since = int(run.epochs[-in_a_row]) if in_a_row else None
    of_cell = (run.cell.optimizer, run.cell.batch_size, run.cell.arm, run.cell.seed)
    found = (float(smallest.min()), int(collapsed.sum()), since, late_cost(run, end), late_accuracy(run, end))
    return CollapseRow(*of_cell, end, *found)
