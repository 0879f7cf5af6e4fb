import math

import numpy as np
import pytest
from scipy import stats

from tests.helpers.synthetic import ACCURACIES, cell, row, tables
from thesis.printed import DELTA_GRIDS
from thesis.tables import RatioRow, Tables


def ratios(found: Tables, batch_size: int = 256) -> dict[tuple[str, str], RatioRow]:
    own = [r for r in found.ratios if (r.optimizer, r.batch_size) == ("adadelta", batch_size)]
    return {(r.against, r.statistic): r for r in own}


def test_unequal_lengths_meet_at_the_last_common_epoch_and_what_is_missing_is_open():
    found = tables(cell(arms=("AS", "uniform")) + cell(arms=("OBS",), epochs=12))
    assert [r.epoch for r in ratios(found).values()] == [12] * 4
    assert [r.ours.value for r in ratios(found).values()] == pytest.approx([1e-4, 1e-4, 0.5, 0.5])
    (arm,) = [r for r in found.cells if (r.arm, r.optimizer, r.batch_size) == ("AS", "adadelta", 256)]
    assert (arm.cost_mean.value, arm.minutes.value) == (pytest.approx(3e-5), pytest.approx(1.2))
    assert found.accuracies[0].epoch == 15  # of AS and uniform alone
    assert (found.accuracies[1].epoch, found.accuracies[1].values) == (12, 12)  # epoch 0 is none
    found = tables(cell(arms=("AS", "uniform")))
    assert ratios(found)["uniform", "mean"].ours.value == pytest.approx(1e-4)
    for missing in (ratios(found)["OBS", "mean"], ratios(found, 64)["uniform", "mean"]):
        assert (missing.ours.note, missing.epoch, missing.verdict) == ("no runs", None, "open")
    missing = found.accuracies[1]
    assert (missing.verdict, missing.epoch, missing.ours.runs, missing.pooled_p) == ("open", None, 0, None)


def test_table_2_is_of_the_last_15_values_of_the_averaged_curves():
    for found in tables(cell(epochs=20)).accuracies[:2]:
        # They are straight lines over epochs 6 to 20, a constant apart.
        apart = np.mean(ACCURACIES["AS"]) - np.mean(ACCURACIES[found.printed.against])
        t = apart / math.sqrt(2 * np.var(np.arange(6, 21) * 1e-4, ddof=1) / 15)
        assert found.pooled_p == pytest.approx(2 * stats.t.sf(abs(t), 28))


def searched(figure: int, costs: list[object]) -> str:
    """The verdict on the search of a figure; costs in the order of its points, δp first."""
    (grid,) = [grid for grid in DELTA_GRIDS if grid.figure == figure]
    setting = {"experiment": "grid-search", "optimizer": grid.optimizer, "batch_size": grid.batch_size}
    points = [{"delta_p": p, "delta_q": q} for p in grid.delta_p for q in grid.delta_q]
    rows = [row(**setting, **at, training_cost_mean=cost) for at, cost in zip(points, costs, strict=False)]
    return {found.figure: found for found in tables(rows).searches}[figure].verdict


def test_a_search_is_over_the_medians_at_its_last_common_epoch_and_counts_where_p_collapsed_until_then():
    point = {"experiment": "grid-search", "batch_size": 64}
    rows = [
        row(**point, delta_p=0.9, delta_q=0.1, seed=seed, epoch=e, training_cost_mean=(seed + 1) * cost)
        for seed in (0, 1, 2)
        for e, cost in ((1, 0.5), (2, 0.01), (3, 0.001))
    ]
    smallest = {(0.3, 0.7, 1): 9e-4, (0.6, 0.1, 1): 1e-3, (0.3, 0.7, 2): 0.1, (0.6, 0.1, 2): 0.1, (0.6, 0.1, 3): 0.0}
    rows += [
        row(**point, delta_p=p, delta_q=q, epoch=e, training_cost_mean=0.7, p=f"{least}" + 9 * ";0.1")
        for (p, q, e), least in smallest.items()
    ]
    found = tables(rows)
    points = {(r.figure, r.delta_p, r.delta_q): r for r in found.points}
    assert len(points) == 63
    assert points[13, 0.9, 0.1].cost == (*map(pytest.approx, (0.02, 0.01, 0.03)), 3)
    assert (points[13, 0.9, 0.1].epoch, points[15, 0.9, 0.1].epoch) == (2, None)
    assert points[13, 0.6, 0.4].cost.value is None
    assert [(r.delta_p, r.delta_q) for r in found.points if r.collapsed] == [(0.3, 0.7)]
    assert (found.searches[0].collapsed, found.searches[0].points) == (1, 3)
    assert {r[5:] for r in found.searches[1:]} == {(0, *[None] * 6, 0, "open")}


def test_verdicts_on_searches():
    first = [1] * 5
    for costs, said in (
        ([0.04, 0.1, 1, 1], "holds"),
        ([0.03, 0.1, 1, 1], "open"),
        ([0.0099, 0.1, 1, 1], "does not hold"),
        ([1, "nan", 1, 1], "does not hold"),
        ([1, 0.1, 1], "open"),
        ([0, 0, 1, 1], "holds"),
    ):
        assert searched(13, [*first, *costs]) == said
    alike = {3: "holds", 10: "open", 11: "does not hold", "inf": "does not hold"}
    assert {highest: searched(14, [*first, 2, 1, 1, highest]) for highest in alike} == alike
    diverge = {2.4: "holds", 2.3: "does not hold"}
    assert {fifth: searched(17, [9, 9, "nan", "inf", fifth, 1, 1, 1, 1]) for fifth in diverge} == diverge
