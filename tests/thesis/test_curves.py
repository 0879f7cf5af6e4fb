from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.helpers.synthetic import cell, write
from thesis.curves import curves, epochs, legend, minutes, new_figure
from thesis.results import read

COLOURS = {"AS": "#0072B2", "OBS": "#D55E00", "uniform": "#000000"}


def drawn(tmp_path: Path, rows: list[dict[str, object]], column: str, logarithmic: bool = True) -> Axes:
    runs = read([write(tmp_path / "epochs.csv", rows)])
    axes = new_figure("title", (4, 3)).subplots()
    lines = [([run for run in runs if run.cell.arm == arm], column, colour) for arm, colour in COLOURS.items()]
    curves(axes, lines, epochs, logarithmic)
    return axes


def lines(axes: Axes, colour: str, thick: bool) -> list[np.ndarray]:
    """The data of the lines of a colour, without single marks."""
    return [
        np.asarray(line.get_xydata())
        for line in axes.get_lines()
        if line.get_linestyle() == "-" and line.get_color() == colour and (line.get_linewidth() > 2) == thick
    ]


def test_costs_of_0_stand_at_the_bottom_with_a_mark(tmp_path: Path):
    rows = [r | {"training_cost_median": 0 if r["arm"] != "uniform" else 1e-4} for r in cell(epochs=2)]
    axes = drawn(tmp_path, rows, "training_cost_median")
    marked = [line for line in axes.get_lines() if line.get_marker() == "v"]
    heights = {line.get_color(): set(np.asarray(line.get_ydata()).tolist()) for line in marked}
    assert set(heights) == {COLOURS["AS"], COLOURS["OBS"]}
    assert all(0 < height < 1e-4 for own in heights.values() for height in own)
    assert heights[COLOURS["AS"]].isdisjoint(heights[COLOURS["OBS"]])  # neither hides the other
    assert len(lines(axes, COLOURS["AS"], thick=True)[0]) == 3
    figure = axes.get_figure()
    assert figure is not None
    legend(figure, [("AS", COLOURS["AS"])])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "AS",
        "single runs (thick: median)",
        "exactly 0",
    ]


def test_the_median_ends_where_the_shortest_run_does(tmp_path: Path):
    rows = [r for r in cell(epochs=6) if r["seed"] != 1 or int(str(r["epoch"])) <= 4]
    axes = drawn(tmp_path, rows, "training_cost_mean")
    assert sorted(len(line) for line in lines(axes, COLOURS["OBS"], thick=False)) == [5, 7, 7]
    assert [len(line) for line in lines(axes, COLOURS["OBS"], thick=True)] == [5]


def test_one_run_that_diverged_is_the_highest_of_three(tmp_path: Path):
    rows = [r | ({"training_cost_mean": "nan"} if r["seed"] == 2 and r["epoch"] == 15 else {}) for r in cell()]
    (thick,) = lines(drawn(tmp_path, rows, "training_cost_mean"), COLOURS["OBS"], thick=True)
    assert thick[-1].tolist() == [15, 16e-6]  # of 4e-6, 16e-6 and it


def test_shares_are_in_percent_from_epoch_1(tmp_path: Path):
    (thick,) = lines(drawn(tmp_path, cell(), "test_accuracy", logarithmic=False), COLOURS["AS"], thick=True)
    assert thick[0, 0] == 1
    assert thick[-1].tolist() == pytest.approx([15, 99.42])


def test_abscissas(tmp_path: Path):
    run = read([write(tmp_path / "epochs.csv", cell(arms=("AS",), seeds=1, epochs=2))])[0]
    assert epochs(run).tolist() == [0, 1, 2]
    np.testing.assert_allclose(minutes(run), [0, 0.1, 0.2])
