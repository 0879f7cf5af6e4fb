from pathlib import Path

import pytest

from tests.helpers.synthetic import row, write
from thesis.results import Run, read
from thesis.search import SearchRow, grid_rows, search_rows
from thesis.thesis import DELTA_GRIDS


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return read([write(tmp_path / "epochs.csv", rows)])


def searched(tmp_path: Path, figure: int, costs: list[object]) -> SearchRow:
    """What the search of a figure finds; costs in the order of its points, δp first."""
    (grid,) = [grid for grid in DELTA_GRIDS if grid.figure == figure]
    setting = {"experiment": "grid-search", "optimizer": grid.optimizer, "batch_size": grid.batch_size}
    points = [(p, q) for p in grid.delta_p for q in grid.delta_q]
    rows = [
        row(**setting, delta_p=p, delta_q=q, training_cost_mean=cost)
        for (p, q), cost in zip(points, costs, strict=False)
    ]
    return {found.figure: found for found in search_rows(grid_rows(runs_of(tmp_path, rows)))}[figure]


def test_the_searches_points(tmp_path: Path):
    point = {"experiment": "grid-search", "batch_size": 64}
    rows = [
        row(**point, delta_p=0.9, delta_q=0.1, seed=seed, epoch=e, training_cost_mean=(seed + 1) * cost)
        for seed in (0, 1, 2)
        for e, cost in ((1, 0.5), (2, 0.01), (3, 0.001))
    ]
    rows += [row(**point, delta_p=0.3, delta_q=0.7, epoch=e, training_cost_mean=0.7) for e in (1, 2)]
    rows += [row(**point, delta_p=0.902, delta_q=0.059, epoch=9, training_cost_mean=0.03)]
    found = {(r.figure, r.delta_p, r.delta_q): r for r in grid_rows(runs_of(tmp_path, rows))}
    assert len(found) == 63
    assert found[13, 0.9, 0.1].cost == (pytest.approx(0.02), pytest.approx(0.01), pytest.approx(0.03), 3)
    assert found[13, 0.9, 0.1].epoch == 2
    assert found[13, 0.3, 0.7].cost.value == 0.7
    assert found[13, 0.6, 0.4].cost.value is None
    assert (found[14, 0.902, 0.059].epoch, found[14, 0.902, 0.059].cost.value) == (9, 0.03)
    assert found[15, 0.9, 0.1].epoch is None


def test_the_choice_s_rank_and_what_is_better(tmp_path: Path):
    found = searched(tmp_path, 15, [0.5, 0.4, 0.3, 0.2, 0.02, 0.2, 0.1, 0.2, 0.3])  # the choice is the seventh
    assert (found.delta_p, found.delta_q, found.lowest, found.highest) == (0.6, 0.4, 0.02, 0.5)
    assert (found.chosen, found.rank, found.points, found.epoch) == (0.1, 2, 9, 15)
    assert found.verdict == "open"


@pytest.mark.parametrize(
    ("figure", "costs", "verdict"),
    [
        (13, [1, 1, 1, 1, 1, 1, 0.1, 1, 1], "holds"),
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
def test_verdicts(tmp_path: Path, figure: int, costs: list[object], verdict: str):
    assert searched(tmp_path, figure, costs).verdict == verdict


def test_points_where_p_collapsed_are_counted(tmp_path: Path):
    point = {"experiment": "grid-search", "batch_size": 64, "delta_q": 0.1}
    laws = {0.3: [0.0] + [1 / 9] * 9, 0.6: [9e-4] + [0.1] * 9, 0.9: [1e-3] + [0.1] * 9}
    rows = [
        row(**point, delta_p=p, epoch=e, p=";".join(map(str, law if e == 1 else [0.1] * 10)))
        for p, law in laws.items()
        for e in (1, 2)
    ]
    runs = runs_of(tmp_path, rows)
    assert [r.delta_p for r in grid_rows(runs) if r.collapsed] == [0.3, 0.6]
    assert search_rows(grid_rows(runs))[0].collapsed == 2


def test_a_search_that_was_not_run_has_no_best_point(tmp_path: Path):
    found = search_rows(grid_rows(runs_of(tmp_path, [row()])))
    assert [row.figure for row in found] == list(range(13, 20))
    assert {(row.points, row.delta_p, row.chosen, row.rank, row.verdict) for row in found} == {
        (0, None, None, None, "open")
    }
