import math

import numpy as np
import pytest
from scipy import stats

from tests.helpers.synthetic import ACCURACIES, Rows, cell, row, runs_of
from thesis.printed import DELTA_GRIDS
from thesis.tables import CellRow, RatioRow, SearchRow, Tables


def tables(rows: Rows) -> Tables:
    return Tables(runs_of(rows))


def ratios(found: Tables, batch_size: int = 256) -> dict[tuple[str, str], RatioRow]:
    own = [r for r in found.ratios if (r.optimizer, r.batch_size) == ("adadelta", batch_size)]
    return {(r.against, r.statistic): r for r in own}


def cells(found: Tables) -> dict[str, CellRow]:
    return {r.arm: r for r in found.cells if (r.optimizer, r.batch_size) == ("adadelta", 256)}


def test_ratios_and_arms_after_epoch_15():
    found = tables(cell(epochs=16))
    assert list(ratios(found)) == [("uniform", "mean"), ("uniform", "median"), ("OBS", "mean"), ("OBS", "median")]
    # By seed: over uniform 1e-4, 4e-4, 5e-5; over OBS 0.5, 0.25, 0.5.
    for (against, _), r in ratios(found).items():
        values = (1e-4, 5e-5, 4e-4) if against == "uniform" else (0.5, 0.25, 0.5)
        assert r.ours == (*map(pytest.approx, values), 3, True, "")
        assert (r.epoch, r.verdict, r.printed) == (15, "holds", 9.02e-5 if against == "uniform" else 0.2)
    arms = cells(found)
    assert arms["AS"].cost_mean == (*map(pytest.approx, (3e-6, 2e-6, 4e-6)), 3)
    assert arms["uniform"].cost_median.value == pytest.approx(2e-5)
    assert arms["OBS"].accuracy.value == pytest.approx(99.41)
    assert [arms[arm].minutes.value for arm in ("AS", "OBS", "uniform")] == pytest.approx([1.5, 1.25, 1.0])
    assert (arms["uniform"].minutes_printed, arms["AS"].zeros) == (0.29, 0)


def test_unequal_lengths_meet_at_the_last_common_epoch_and_what_is_missing_is_open():
    found = tables(cell(arms=("AS", "uniform")) + cell(arms=("OBS",), epochs=12))
    assert [r.epoch for r in ratios(found).values()] == [12] * 4
    assert [r.ours.value for r in ratios(found).values()] == pytest.approx([1e-4, 1e-4, 0.5, 0.5])
    assert cells(found)["AS"].cost_mean.value == pytest.approx(3e-5)
    assert cells(found)["AS"].minutes.value == pytest.approx(1.2)
    found = tables(cell(arms=("AS", "uniform")))
    assert ratios(found)["uniform", "mean"].ours.value == pytest.approx(1e-4)
    for missing in (ratios(found)["OBS", "mean"], ratios(found, 64)["uniform", "mean"]):
        assert (missing.ours.note, missing.epoch, missing.verdict) == ("no runs", None, "open")


def test_a_median_cost_of_0_and_a_single_seed():
    found = tables([r | {"training_cost_median": 0} if r["arm"] != "uniform" else r for r in cell(seeds=1)])
    of_uniform, of_obs = ratios(found)["uniform", "median"], ratios(found)["OBS", "median"]
    assert of_uniform.ours[:4] == (0, None, None, 1)
    assert "exactly 0" in of_obs.ours.note
    assert (of_uniform.verdict, of_obs.verdict) == ("open", "open")
    assert [r.zeros for r in cells(found).values()] == [1, 1, 0]


def test_table_2_by_runs_and_as_the_thesis_did_it():
    first, second, *others = tables(cell(epochs=20)).accuracies
    assert (first.printed.against, second.printed.against) == ("uniform", "OBS")
    final = {arm: [100 * (a + 5e-4) for a in values] for arm, values in ACCURACIES.items()}
    for found in (first, second):
        welch = stats.ttest_ind(final["AS"], final[found.printed.against], equal_var=False)
        assert found.ours.welch_p == pytest.approx(float(welch.pvalue))  # pyright: ignore[reportAttributeAccessIssue]
        assert (found.epoch, found.values) == (20, 15)
        # The averaged curves are straight lines over epochs 6 to 20, a constant apart.
        steps = np.arange(6, 21) * 1e-4
        apart = np.mean(ACCURACIES["AS"]) - np.mean(ACCURACIES[found.printed.against])
        t = apart / math.sqrt(2 * np.var(steps, ddof=1) / 15)
        assert found.pooled_p == pytest.approx(2 * stats.t.sf(abs(t), 28))
    assert (first.verdict, second.verdict) == ("does not hold: AS is better", "holds")
    assert first.ours.difference == pytest.approx(0.11)
    assert all((r.verdict, r.epoch, r.ours.runs, r.pooled_p) == ("open", None, 0, None) for r in others)
    assert tables(cell(epochs=4)).accuracies[0].values == 4  # epoch 0 is none


def searched(figure: int, costs: list[object]) -> SearchRow:
    """What the search of a figure finds; costs in the order of its points, δp first."""
    (grid,) = [grid for grid in DELTA_GRIDS if grid.figure == figure]
    setting = {"experiment": "grid-search", "optimizer": grid.optimizer, "batch_size": grid.batch_size}
    points = [(p, q) for p in grid.delta_p for q in grid.delta_q]
    rows = [
        row(**setting, delta_p=p, delta_q=q, training_cost_mean=cost)
        for (p, q), cost in zip(points, costs, strict=False)
    ]
    return {found.figure: found for found in tables(rows).searches}[figure]


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


def test_the_choice_s_rank_and_what_is_better():
    found = searched(15, [0.5, 0.4, 0.3, 0.2, 0.02, 0.2, 0.1, 0.2, 0.3])  # the choice is the seventh
    assert (found.delta_p, found.delta_q, found.lowest, found.highest) == (0.6, 0.4, 0.02, 0.5)
    assert (found.chosen, found.rank, found.points, found.epoch) == (0.1, 2, 9, 15)


@pytest.mark.parametrize(
    ("figure", "costs", "verdict"),
    [
        (13, [1, 1, 1, 1, 1, 0.04, 0.1, 1, 1], "holds"),
        (13, [1, 1, 1, 1, 1, 0.03, 0.1, 1, 1], "open"),
        (13, [1, 1, 1, 1, 1, 0.0099, 0.1, 1, 1], "does not hold"),
        (13, [1, 1, 1, 1, 1, 1, "nan", 1, 1], "does not hold"),
        (13, [1, 1, 1, 1, 1, 1, 0.1, 1], "open"),
        (13, [0, 1, 1, 1, 1, 1, 0, 1, 1], "holds"),
        (14, [1, 1, 2, 1, 1, 1, 1, 1, 3], "holds"),
        (14, [1, 1, 2, 1, 1, 1, 1, 1, 10], "open"),
        (14, [1, 1, "inf", 1, 1, 1, 1, 1, 1], "does not hold"),
        (17, [9, 9, "nan", "inf", 2.4, 1, 1, 1, 1], "holds"),
        (17, [9, 9, "nan", "inf", 2.3, 1, 1, 1, 1], "does not hold"),
    ],
)
def test_verdicts_on_searches(figure: int, costs: list[object], verdict: str):
    assert searched(figure, costs).verdict == verdict
