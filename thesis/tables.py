"""The thesis's numbers from our runs: Tables 2 to 4 and the searches over δp and δq, Figures 13 to 19.

Each table is computed once, when it is first asked for, as rows that a CSV file can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
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
from thesis.printed import (
    ACCURACY_TESTS,
    ARMS,
    BATCH_SIZES,
    CHOSEN_DELTAS,
    DELTA_GRIDS,
    EPOCH,
    LAST_VALUES,
    OPTIMIZERS,
    TABLES,
    AccuracyPValue,
    DeltaGrid,
)
from thesis.results import COLLAPSED, MEASURED, Run, common_epochs, last_common_epoch, of_setting, timed

STATISTICS = ("mean", "median")
GUESSING = math.log(10)
"""Mean cross-entropy of who gives each of ten digits the same probability, in nats."""
NEAR, FAR = 3, 10
"""Costs over each other that tell points apart: what a single run may swing by from epoch to epoch, and what not."""
SEARCH_RULE = (
    f"That δp = 0.9, δq = 0.1 is *among the best* holds if its cost is at most {NEAR} times the lowest, does not hold "
    f"if it is more than {FAR} times the lowest, and is *open* between; that the costs are *alike* is judged so by the "
    "highest. That most *diverge* holds if in more than half of the points the cost is not finite or above "
    f"{GUESSING:.1f} nats, that of guessing. With a point missing a claim is open."
)


class RatioRow(NamedTuple):
    """The cost of AS over that of another arm, in one setting."""

    optimizer: str
    batch_size: int
    against: str
    statistic: str
    """``mean`` or ``median`` of the cross-entropies of the training set."""
    epoch: int | None
    """The epoch compared: the last that all runs of the setting have, at most 15; None if a run is missing."""
    printed: float
    ours: Ratio
    verdict: str


class CellRow(NamedTuple):
    """One arm in one setting."""

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


class GridRow(NamedTuple):
    """One point of a search over the smoothings."""

    figure: int
    optimizer: str
    batch_size: int
    delta_p: float
    delta_q: float
    epoch: int | None
    """The last that all runs of the figure have."""
    cost: Estimate
    """Mean training cost, in nats; of no runs if the point was not run."""
    smallest_p: Estimate
    """The smallest entry of P in any epoch until then."""

    @property
    def collapsed(self) -> bool:
        """Whether P has collapsed, by :data:`thesis.results.COLLAPSED`."""
        return self.smallest_p.value is not None and self.smallest_p.value < COLLAPSED


class SearchRow(NamedTuple):
    """What one search found."""

    figure: int
    optimizer: str
    batch_size: int
    epoch: int | None
    claim: str
    """What the thesis says: ``among the best``, ``alike`` or ``diverge``."""
    points: int
    """Those that were run."""
    delta_p: float | None
    """Of the point with the lowest cost, as ``delta_q``; None if none was run."""
    delta_q: float | None
    lowest: float | None
    """Mean training cost, in nats."""
    highest: float | None
    chosen: float | None
    """That of the thesis's choice, δp = 0.9 and δq = 0.1; None if it is not in the search or was not run."""
    rank: int | None
    """Of the choice: 1 if no point has a lower cost."""
    collapsed: int
    """Points at which P has collapsed."""
    verdict: str
    """``holds``, ``does not hold`` or ``open``, by :data:`SEARCH_RULE`."""


class Tables:
    """All that is computed of some runs.

    Args:
        runs: As :func:`thesis.results.read` gives them.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    @cached_property
    def ratios(self) -> list[RatioRow]:
        """The left halves of Tables 3 (Adadelta) and 4 (Adam), under the mean and under the median cost."""
        return [row for optimizer in OPTIMIZERS for size in BATCH_SIZES for row in self._ratios(optimizer, size)]

    @cached_property
    def cells(self) -> list[CellRow]:
        """Costs, accuracies and times of each arm at the epochs of the ratios; the right halves of Tables 3 and 4."""
        return [row for optimizer in OPTIMIZERS for size in BATCH_SIZES for row in self._cells(optimizer, size)]

    @cached_property
    def accuracies(self) -> list[AccuracyRow]:
        """Table 2: each test as it should be done, and as the thesis did it."""
        return [self._accuracy(printed) for printed in ACCURACY_TESTS]

    @cached_property
    def points(self) -> list[GridRow]:
        """The costs of Figures 13 to 19, each at the last epoch that all runs of its figure have."""
        return [row for grid in DELTA_GRIDS for row in self._points(grid)]

    @cached_property
    def searches(self) -> list[SearchRow]:
        """What each search found, and whether it is what the thesis says."""
        return [_search(grid, [row for row in self.points if row.figure == grid.figure]) for grid in DELTA_GRIDS]

    def arms(self, optimizer: str, batch_size: int) -> dict[str, list[Run]]:
        """The runs of the thesis's protocol in one setting, by arm."""
        return {arm: of_setting(self.runs, "thesis", optimizer, batch_size, arm) for arm in ARMS}

    def _setting(self, optimizer: str, batch_size: int) -> tuple[dict[str, list[Run]], int | None]:
        """The runs of each arm, and the epoch at which they are compared, without which there are none."""
        arms = self.arms(optimizer, batch_size)
        epoch = last_common_epoch([run for own in arms.values() for run in own], EPOCH)
        return (arms if epoch else {arm: [] for arm in ARMS}), epoch

    def _ratios(self, optimizer: str, batch_size: int) -> Iterator[RatioRow]:
        arms, epoch = self._setting(optimizer, batch_size)
        for against in ("uniform", "OBS"):
            printed: float = getattr(TABLES[optimizer][batch_size], against)
            for statistic in STATISTICS:
                costs = [
                    {run.cell.seed: run.at(f"training_cost_{statistic}", epoch or 0) for run in arms[arm]}
                    for arm in ("AS", against)
                ]
                ours = ratio(costs[0], costs[1])
                at = epoch if ours.runs else None
                yield RatioRow(optimizer, batch_size, against, statistic, at, printed, ours, verdict(ours, printed))

    def _cells(self, optimizer: str, batch_size: int) -> Iterator[CellRow]:
        arms, epoch = self._setting(optimizer, batch_size)
        for arm, own in arms.items():
            measured = {name: [run.at(name, epoch or 0) for run in own] for name in MEASURED}
            yield CellRow(
                optimizer=optimizer,
                batch_size=batch_size,
                arm=arm,
                epoch=epoch if own else None,
                cost_mean=median(measured["training_cost_mean"]),
                cost_median=median(measured["training_cost_median"]),
                zeros=measured["training_cost_median"].count(0.0),
                accuracy=median([100 * share for share in measured["test_accuracy"]]),
                minutes=median([run.at("seconds", epoch or 0) / 60 for run in timed(own)]),
                minutes_printed=TABLES[optimizer][batch_size].minutes[arm],
            )

    def _accuracy(self, printed: AccuracyPValue) -> AccuracyRow:
        runs = self.arms(printed.optimizer, printed.batch_size)
        arms = [runs["AS"], runs[printed.against]]
        epoch = last_common_epoch([*arms[0], *arms[1]]) if all(arms) else None
        arms = arms if epoch else [[], []]
        final = [[100 * run.at("test_accuracy", epoch or 0) for run in arm] for arm in arms]
        found = compare_accuracies(final[0], final[1])
        epochs = [e for e in common_epochs([*arms[0], *arms[1]]) if e > 0][-LAST_VALUES:]
        curves = [[float(np.mean([run.at("test_accuracy", e) for run in arm])) for e in epochs] for arm in arms]
        p = pooled_p_value(curves[0], curves[1])
        return AccuracyRow(printed, epoch, found, len(epochs), p, accuracy_verdict(found))

    def _points(self, grid: DeltaGrid) -> Iterator[GridRow]:
        points = {
            (p, q): of_setting(self.runs, "grid-search", grid.optimizer, grid.batch_size, deltas=(p, q))
            for p in grid.delta_p
            for q in grid.delta_q
        }
        epoch = last_common_epoch([run for own in points.values() for run in own])
        for (p, q), own in points.items():
            cost = median([run.at("training_cost_mean", epoch or 0) for run in own])
            smallest_p = median([float(run.p[run.epochs <= (epoch or 0)].min()) for run in own])
            yield GridRow(grid.figure, grid.optimizer, grid.batch_size, p, q, epoch, cost, smallest_p)


def _search(grid: DeltaGrid, rows: Sequence[GridRow]) -> SearchRow:
    costs = {(row.delta_p, row.delta_q): row.cost.value for row in rows if row.cost.value is not None}
    best = min(costs, key=lambda deltas: costs[deltas]) if costs else (None, None)
    chosen = costs.get(CHOSEN_DELTAS)
    return SearchRow(
        figure=grid.figure,
        optimizer=grid.optimizer,
        batch_size=grid.batch_size,
        epoch=rows[0].epoch,
        claim=grid.claim,
        points=len(costs),
        delta_p=best[0],
        delta_q=best[1],
        lowest=min(costs.values(), default=None),
        highest=max(costs.values(), default=None),
        chosen=chosen,
        rank=None if chosen is None else 1 + sum(cost < chosen for cost in costs.values()),
        collapsed=sum(row.collapsed for row in rows),
        verdict=_search_verdict(grid.claim, list(costs.values()), chosen) if len(costs) == len(rows) else "open",
    )


def _search_verdict(claim: str, costs: Sequence[float], chosen: float | None) -> str:
    if claim == "diverge":
        return "holds" if sum(cost > GUESSING for cost in costs) > len(costs) / 2 else "does not hold"
    judged = max(costs) if claim == "alike" or chosen is None else chosen
    if not math.isfinite(judged) or judged > FAR * min(costs):
        return "does not hold"
    return "holds" if judged <= NEAR * min(costs) else "open"
