import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.helpers.synthetic import cell, evidence, titles
from thesis.evidence_figures import LABELS, claims_figure, collapse_figure, parts_figure, time_figure
from thesis.grid import ARMS


def marks(axes: Axes, marker: str) -> list[tuple[float, float]]:
    return [tuple(line.get_xydata()[0].tolist()) for line in axes.get_lines() if line.get_marker() == marker]


def test_claims_stand_beside_the_thesis_s_and_an_exact_0_at_the_edge():
    rows = [r | ({"training_cost_median": 0.0} if r["arm"] == "AS" else {}) for r in cell()]
    uniform, obs = claims_figure(evidence(rows).claims).axes
    assert marks(uniform, "D") == [(9.02e-5, 0.25)]
    assert marks(uniform, "o") == [(pytest.approx(1e-4), 0.0)]
    assert marks(uniform, "<")[0][1] == -0.25
    assert marks(obs, "o") == [(pytest.approx(0.5), 0.0)]
    rows = [r | ({"training_cost_mean": 1e-9} if (r["arm"], r["seed"]) == ("AS", 2) else {}) for r in cell()]
    assert claims_figure(evidence(rows).claims).axes[0].get_xlim()[0] < 1e-9 / 6e-2  # the interval is on the axis


def test_curves_have_a_colour_for_each_arm_and_parts_a_column_for_each_data():
    assert set(LABELS) == set(ARMS)
    rows = [r | {"arm": arm, "batch_size": 64} for arm in ("AS", "AS_floor") for r in cell("adam", arms=("AS",))]
    figure = collapse_figure(evidence(rows).runs)
    smallest, costs = ([line for line in axes.get_lines() if line.get_linewidth() > 2] for axes in figure.axes)
    assert len({line.get_color() for line in smallest}) == 2
    assert np.asarray(smallest[0].get_ydata()).tolist() == [0.1] * 16
    of_three = (3e-5 * 3e-5 * 3e-6) ** (1 / 3)  # epochs
    assert np.asarray(costs[0].get_ydata())[[0, 1, -1]] == pytest.approx([3e-5, 3e-5, of_three])
    rows = cell() + [r | {"data": "noisy_10"} for r in cell(arms=("AS", "uniform"), epochs=10)]
    figure = parts_figure(evidence(rows).arms[4])
    assert titles(figure) == ["whole MNIST, epoch 15", "10 % wrong labels, epoch 10", "", ""]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["uniform", "AS", "OBS"]
    assert marks(figure.axes[0], "o")[0] == (pytest.approx(1.0), 2.0)


def test_times_say_what_is_not_reached():
    rows = [r | ({} if r["arm"] == "AS" else {"training_cost_mean": 1.0}) for r in cell()]
    figure = time_figure(evidence(rows).times[5], "title")
    assert titles(figure) == ["training cost 1e-2", "training cost 1e-3", "test accuracy 99.3 %"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["not reached"] * 2
