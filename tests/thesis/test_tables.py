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


def test_ratios_after_epoch_15_under_mean_and_median():
    found = ratios(tables(cell(epochs=16)))
    assert list(found) == [("uniform", "mean"), ("uniform", "median"), ("OBS", "mean"), ("OBS", "median")]
    # By seed: over uniform 1e-4, 4e-4, 5e-5; over OBS 0.5, 0.25, 0.5.
    for (against, _), r in found.items():
        values = (1e-4, 5e-5, 4e-4) if against == "uniform" else (0.5, 0.25, 0.5)
        assert r.ours[:3] == pytest.approx(values)
        assert (r.ours.runs, r.ours.paired, r.epoch, r.verdict) == (3, True, 15, "holds")
        assert r.printed == (9.02e-5 if against == "uniform" else 0.2)


def test_the_values_of_each_arm():
    found = cells(tables(cell()))
    assert list(found) == ["AS", "OBS", "uniform"]
    assert found["AS"].cost_mean == (pytest.approx(3e-6), pytest.approx(2e-6), pytest.approx(4e-6), 3)
    assert found["uniform"].cost_median.value == pytest.approx(2e-5)
    assert found["OBS"].accuracy.value == pytest.approx(99.41)
    assert [found[arm].minutes.value for arm in ("AS", "OBS", "uniform")] == pytest.approx([1.5, 1.25, 1.0])
    assert found["uniform"].minutes_printed == 0.29
    assert found["AS"].zeros == 0


def test_unequal_lengths_meet_at_the_last_common_epoch():
    found = tables(cell(arms=("AS", "uniform")) + cell(arms=("OBS",), epochs=12))
    assert [r.epoch for r in ratios(found).values()] == [12] * 4
    assert [r.ours.value for r in ratios(found).values()] == pytest.approx([1e-4, 1e-4, 0.5, 0.5])
    assert cells(found)["AS"].cost_mean.value == pytest.approx(3e-5)
    assert cells(found)["AS"].minutes.value == pytest.approx(1.2)


def test_what_is_missing_is_open():
    found = tables(cell(arms=("AS", "uniform")))
    assert ratios(found)["uniform", "mean"].ours.value == pytest.approx(1e-4)
    for missing in (ratios(found)["OBS", "mean"], ratios(found, 64)["uniform", "mean"]):
        assert (missing.ours.value, missing.ours.note, missing.epoch) == (None, "no runs", None)
        assert missing.verdict == "open"
    assert (cells(found)["OBS"].epoch, cells(found)["OBS"].cost_mean.runs) == (None, 0)


def test_a_median_cost_of_0_and_a_single_seed():
    found = tables([r | {"training_cost_median": 0} if r["arm"] != "uniform" else r for r in cell(seeds=1)])
    of_uniform, of_obs = ratios(found)["uniform", "median"], ratios(found)["OBS", "median"]
    assert of_uniform.ours[:4] == (0, None, None, 1)
    assert of_obs.ours.value is None
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


def test_the_searches_points():
    point = {"experiment": "grid-search", "batch_size": 64}
    rows = [
        row(**point, delta_p=0.9, delta_q=0.1, seed=seed, epoch=e, training_cost_mean=(seed + 1) * cost)
        for seed in (0, 1, 2)
        for e, cost in ((1, 0.5), (2, 0.01), (3, 0.001))
    ]
    rows += [row(**point, delta_p=0.3, delta_q=0.7, epoch=e, training_cost_mean=0.7) for e in (1, 2)]
    rows += [row(**point, delta_p=0.902, delta_q=0.059, epoch=9, training_cost_mean=0.03)]
    found = {(r.figure, r.delta_p, r.delta_q): r for r in tables(rows).points}
    assert len(found) == 63
    assert found[13, 0.9, 0.1].cost == (pytest.approx(0.02), pytest.approx(0.01), pytest.approx(0.03), 3)
    assert found[13, 0.9, 0.1].epoch == 2
    assert found[13, 0.3, 0.7].cost.value == 0.7
    assert found[13, 0.6, 0.4].cost.value is None
    assert (found[14, 0.902, 0.059].epoch, found[14, 0.902, 0.059].cost.value) == (9, 0.03)
    assert found[15, 0.9, 0.1].epoch is None


def test_the_choice_s_rank_and_what_is_better():
    found = searched(15, [0.5, 0.4, 0.3, 0.2, 0.02, 0.2, 0.1, 0.2, 0.3])  # the choice is the seventh
    assert (found.delta_p, found.delta_q, found.lowest, found.highest) == (0.6, 0.4, 0.02, 0.5)
    assert (found.chosen, found.rank, found.points, found.epoch) == (0.1, 2, 9, 15)
    assert found.verdict == "open"
    not_run = tables([row()]).searches
    assert [row.figure for row in not_run] == list(range(13, 20))
    assert {row[5:] for row in not_run} == {(0, *[None] * 6, 0, "open")}


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
        (14, [1, 1, 2, 1, 1, 1, 1, 1, 11], "does not hold"),
        (14, [1, 1, "inf", 1, 1, 1, 1, 1, 1], "does not hold"),
        (17, [9, 9, "nan", "inf", 2.4, 1, 1, 1, 1], "holds"),
        (17, [9, 9, "nan", "inf", 2.3, 1, 1, 1, 1], "does not hold"),
        (17, [9, 9, 9, 9, 9, 9], "open"),
    ],
)
def test_verdicts_on_searches(figure: int, costs: list[object], verdict: str):
    assert searched(figure, costs).verdict == verdict


def test_points_where_p_collapsed_are_counted():
    point = {"experiment": "grid-search", "batch_size": 64, "delta_q": 0.1}
    distributions = {0.3: [0.0] + [1 / 9] * 9, 0.6: [9e-4] + [0.1] * 9, 0.9: [1e-3] + [0.1] * 9}
    rows = [
        row(**point, delta_p=delta_p, epoch=e, p=";".join(map(str, p if e == 1 else [0.1] * 10)))
        for delta_p, p in distributions.items()
        for e in (1, 2)
    ]
    found = tables(rows)
    assert [r.delta_p for r in found.points if r.collapsed] == [0.3, 0.6]
    assert found.searches[0].collapsed == 2
