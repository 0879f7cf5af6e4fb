"""The searches over the smoothings δp and δq, Figures 13 to 19 of the thesis: our costs, and whether its words hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from thesis.comparison import Estimate, median
from thesis.results import COLLAPSED, Run, last_common_epoch, select
from thesis.thesis import CHOSEN_DELTAS, DELTA_GRIDS, DeltaGrid

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
        """Whether P has collapsed, by :data:`COLLAPSED`."""
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


def grid_rows(runs: Sequence[Run]) -> list[GridRow]:
    """The costs of Figures 13 to 19, each at the last epoch that all runs of its figure have."""
    rows = []
    for grid in DELTA_GRIDS:
        points = {
            (p, q): select(runs, "grid-search", grid.optimizer, grid.batch_size, deltas=(p, q))
            for p in grid.delta_p
            for q in grid.delta_q
        }
        epoch = last_common_epoch([run for own in points.values() for run in own])
        for (p, q), own in points.items():
            cost = median([run.at("training_cost_mean", epoch or 0) for run in own])
            smallest_p = median([float(run.p[run.epochs <= (epoch or 0)].min()) for run in own])
            rows.append(GridRow(grid.figure, grid.optimizer, grid.batch_size, p, q, epoch, cost, smallest_p))
    return rows


def search_rows(rows: Sequence[GridRow]) -> list[SearchRow]:
    """What each search found, and whether it is what the thesis says.

    Args:
        rows: As :func:`grid_rows` gives them.
    """
    return [_search(grid, [row for row in rows if row.figure == grid.figure]) for grid in DELTA_GRIDS]


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
        verdict=_verdict(grid.claim, list(costs.values()), chosen) if len(costs) == len(rows) else "open",
    )


def _verdict(claim: str, costs: Sequence[float], chosen: float | None) -> str:
    if claim == "diverge":
        return "holds" if sum(cost > GUESSING for cost in costs) > len(costs) / 2 else "does not hold"
    judged = max(costs) if claim == "alike" or chosen is None else chosen
    if not math.isfinite(judged) or judged > FAR * min(costs):
        return "does not hold"
    return "holds" if judged <= NEAR * min(costs) else "open"
