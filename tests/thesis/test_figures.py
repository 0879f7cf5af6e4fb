from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.helpers.synthetic import cell, row, tables
from thesis.figures import COLOURS, VARIANCES, accuracy_figure, overview_figure, training_cost_figure, variance_figure


def lines(figure: Figure, at: int, colour: str, thick: bool = True) -> list[np.ndarray]:
    """The data of a panel's lines, without single marks."""
    drawn = [line for line in figure.axes[at].get_lines() if (line.get_linestyle(), line.get_color()) == ("-", colour)]
    return [np.asarray(line.get_xydata()) for line in drawn if (line.get_linewidth() > 2) == thick]


def test_training_cost_by_epoch_and_by_time():
    figure = training_cost_figure(tables(cell()), "adadelta")
    _, right = figure.axes  # of batch 256 alone: there are no others
    assert right.get_title(loc="right") == "after epoch 15: AS / uniform = 1e-4, AS / OBS = 0.5"
    for arm, colour in COLOURS.items():
        assert len(lines(figure, 0, colour, thick=False)) == 3, arm
        ((by_epoch,), (by_time,)) = (lines(figure, at, colour) for at in (0, 1))
        assert by_epoch[:, 0].tolist() == list(range(16))
        np.testing.assert_allclose(by_time[:, 0], np.arange(16) * {"AS": 0.1, "OBS": 5 / 60, "uniform": 4 / 60}[arm])
    assert lines(figure, 0, COLOURS["AS"])[0][-1, 1] == pytest.approx(3e-6)


def test_costs_of_0_stand_at_the_bottom_with_a_mark_and_make_ratios_undefined():
    rows = [r | {"training_cost_median": 0 if r["arm"] != "uniform" else 1e-4} for r in cell(epochs=2)]
    figure = training_cost_figure(tables(rows), "adadelta", "median")
    marked: list[Any] = [line for line in figure.axes[0].get_lines() if line.get_marker() == "v"]
    heights = {line.get_color(): set(line.get_ydata().tolist()) for line in marked}
    assert set(heights) == {COLOURS["AS"], COLOURS["OBS"]}
    assert all(0 < height < 1e-4 for own in heights.values() for height in own)
    assert heights[COLOURS["AS"]].isdisjoint(heights[COLOURS["OBS"]])  # neither hides the other
    assert "AS / OBS undefined" in figure.axes[1].get_title(loc="right")


def test_the_median_ends_with_the_shortest_run_and_one_that_diverged_is_the_highest_of_three():
    rows = [r for r in cell(epochs=6, arms=("OBS",)) if r["seed"] != 1 or int(str(r["epoch"])) <= 4]
    rows = [r | ({"training_cost_mean": "nan"} if (r["seed"], r["epoch"]) == (2, 4) else {}) for r in rows]
    figure = overview_figure(tables(rows))
    assert sorted(len(line) for line in lines(figure, 0, COLOURS["OBS"], thick=False)) == [5, 7, 7]
    (thick,) = lines(figure, 0, COLOURS["OBS"])
    assert len(thick) == 5
    assert thick[-1].tolist() == pytest.approx([4, 16e-5])  # of 4e-5, 16e-5 and it


def test_accuracy_is_in_percent_from_epoch_1_and_infinite_variances_are_marked_at_the_top():
    (thick,) = lines(accuracy_figure(tables(cell()), "adadelta", 256), 0, COLOURS["AS"])
    assert thick[0, 0] == 1
    assert thick[-1].tolist() == pytest.approx([15, 99.42])
    rows = [row(epoch=e, variance_weighted="inf" if e > 2 else 0.05) for e in range(5)]
    figure = variance_figure(tables(rows), "adadelta")
    uniform, weighted, drawn = (lines(figure, 0, colour)[0][:, 1].tolist() for _, colour in VARIANCES.values())
    assert (uniform, weighted[:3], drawn) == ([0.1] * 5, [0.05] * 3, [0.2] * 5)
    assert min(weighted[3:]) > 0.2
