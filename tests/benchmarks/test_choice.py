import math

import pytest

from benchmarks.budgets.choice import AtEqualTime, at_equal_time, interpolated, markdown, standings
from benchmarks.budgets.outcomes import Run


def test_a_figure_between_two_budgets_is_linear_in_the_logarithm_of_the_time():
    figures = {0.25: 80.0, 0.5: 90.0, 1.0: 92.0}
    assert [interpolated(figures, time) for time in (0.1, 0.25, 0.5, 1.0, 3.0)] == [80, 80, 90, 92, 92]
    assert interpolated(figures, 0.25 * math.sqrt(2)) == pytest.approx(85)


def test_a_slower_method_is_held_against_more_of_uniform_sampling():
    def of(figure: float, ratio: float = 1.0) -> dict[int, Run]:
        return {seed: Run({"accuracy": figure + seed}, ratio) for seed in (0, 1, 2)}

    found = {
        ("mnist", "0.25", "uniform"): of(80),
        ("mnist", "0.5", "uniform"): of(90),
        ("mnist", "0.25", "closeness"): of(91, 2.0),
        ("mnist", "0.25", "rs2"): of(70),
    }
    (cell,) = at_equal_time(found)
    assert (cell.task, cell.budget, cell.rival) == ("mnist", "0.25", "closeness")
    assert cell.difference == pytest.approx(1)
    assert cell.half_width == pytest.approx(0)


def cell(rival: str, difference: float, half_width: float = 0.1, task: str = "mnist") -> AtEqualTime:
    return AtEqualTime(task, "1", rival, difference, half_width)


def test_the_best_mean_over_the_kinds_wins_among_those_that_lose_nowhere():
    cells = [
        cell("loser", -0.31),
        cell("loser", 9, task="covertype"),
        cell("safe", 0.1),
        cell("safe", 0.1, task="sst2"),
    ]
    cells += [cell("noisy", -0.25), cell("noisy", 0.5, task="sst2"), cell("alone", -2.0, math.nan)]
    assert [each.rival for each in standings(cells)] == ["noisy", "safe", "alone", "loser"]
    assert standings(cells)[0].mean == pytest.approx(0.125)
    assert "Lost at equal time: `loser` mnist at 1 -0.31 ± 0.10." in markdown(cells)


def test_if_all_lose_it_is_the_one_whose_worst_cell_is_the_least_bad():
    cells = [cell("one", -3.0), cell("one", 9, task="sst2"), cell("other", -2.0, 0.5), cell("other", -2.0, 0.1)]
    assert [each.rival for each in standings(cells)] == ["other", "one"]
