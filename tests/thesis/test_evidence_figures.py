from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.helpers.synthetic import cell, write
from thesis.evidence import arm_rows, pool, time_rows
from thesis.evidence_figures import (
    LABELS,
    claims_figure,
    collapse_figure,
    parts_figure,
    time_figure,
    weights_figure,
)
from thesis.grid import PARTS, TIMED
from thesis.results import Run, read
from thesis.tables import ratio_rows


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return pool(read([write(tmp_path / "epochs.csv", rows)]))


def marks(axes: Axes, marker: str) -> list[tuple[float, float]]:
    return [
        (float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0]))
        for line in axes.get_lines()
        if line.get_marker() == marker
    ]


def test_claims_stand_beside_the_thesis_s_and_an_exact_0_at_the_edge(tmp_path: Path):
    rows = [r | ({"training_cost_median": 0.0} if r["arm"] == "AS" else {}) for r in cell()]
    found = [row for row in ratio_rows(runs_of(tmp_path, rows), "adadelta") if row.ours.runs]
    figure = claims_figure(found)
    uniform, obs = figure.axes
    assert marks(uniform, "D") == [(9.02e-5, 0.25)]
    assert marks(uniform, "o") == [(pytest.approx(1e-4), 0.0)]
    assert marks(uniform, "<")[0][1] == -0.25
    assert marks(obs, "o") == [(pytest.approx(0.5), 0.0)]
    assert uniform.get_xlim() == pytest.approx((1e-5, 10.0))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["exactly 0", "interval over the runs"]


def test_intervals_are_on_the_axis(tmp_path: Path):
    rows = [r | ({"training_cost_mean": 1e-9} if r["arm"] == "AS" and r["seed"] == 2 else {}) for r in cell()]
    found = [row for row in ratio_rows(runs_of(tmp_path, rows), "adadelta") if row.ours.runs]
    assert claims_figure(found).axes[0].get_xlim()[0] < 1e-9 / 6e-2


def test_curves_of_questions_2_and_3_have_a_colour_for_each_arm(tmp_path: Path):
    rows = cell() + [r | {"arm": "AS_weighted"} for r in cell(arms=("AS",))]
    assert [axes.get_title(loc="left") for axes in weights_figure(runs_of(tmp_path, rows)).axes] == ["Adadelta", "Adam"]
    rows = [r | {"arm": arm, "batch_size": 64} for arm in ("AS", "AS_floor") for r in cell("adam", arms=("AS",))]
    figure = collapse_figure(runs_of(tmp_path, rows))
    thick = [line for line in figure.axes[0].get_lines() if line.get_linewidth() > 2]
    assert len({line.get_color() for line in thick}) == 2
    assert np.asarray(thick[0].get_ydata()).tolist() == [0.1] * 16
    costs = np.asarray(next(line for line in figure.axes[1].get_lines() if line.get_linewidth() > 2).get_ydata())
    assert costs[[0, 1, -1]] == pytest.approx([3e-5, 3e-5, (3e-5 * 3e-5 * 3e-6) ** (1 / 3)])  # of three epochs
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == [LABELS["AS"], LABELS["AS_floor"]]


def test_parts_have_a_column_for_each_data(tmp_path: Path):
    runs = runs_of(tmp_path, cell() + [r | {"data": "noisy_10"} for r in cell(arms=("AS", "uniform"), epochs=10)])
    rows = [r for data in ("full", "noisy_10") for r in arm_rows(runs, PARTS, "adadelta", 256, data)]
    figure = parts_figure(rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["whole MNIST, epoch 15", "10 % wrong labels, epoch 10", "", ""]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["uniform", "AS", "OBS"]
    assert marks(figure.axes[0], "o")[0] == (pytest.approx(1.0), 2.0)


def test_times_say_what_is_not_reached_and_what_some_runs_reach(tmp_path: Path):
    rows = [r for r in cell() if r["arm"] != "uniform"] + [
        r | {"training_cost_mean": 1.0 if r["seed"] else r["training_cost_mean"]} for r in cell(arms=("uniform",))
    ]
    for r in rows:
        if r["arm"] == "OBS":
            r["training_cost_mean"] = 1.0
    figure = time_figure(time_rows(runs_of(tmp_path, rows), TIMED, (256,)), "title")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "training cost 1e-2",
        "training cost 1e-3",
        "test accuracy 99.3 %",
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["not reached"] * 2  # OBS, and uniform: above 1e-2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "all runs reach it",
        "interval over the runs",
    ]
    for r in rows:
        if r["arm"] == "uniform" and r["seed"] == 0:
            r["training_cost_mean"] = 1e-4
    figure = time_figure(time_rows(runs_of(tmp_path, rows), TIMED, (256,)), "title")
    assert len(figure.legends[0].get_texts()) == 3


def test_settings_are_set_apart(tmp_path: Path):
    runs = runs_of(tmp_path, cell(batch_size=64) + cell())
    figure = time_figure(time_rows(runs, ("AS", "OBS"), (64, 256)), "title")
    assert figure.axes[0].get_yticks().tolist() == [3.7, 2.7, 1.0, 0.0]
