from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.helpers.synthetic import cell, row, write
from thesis.figures import (
    COLOURS,
    VARIANCES,
    accuracy_figure,
    overview_figure,
    training_cost_figure,
    variance_figure,
)
from thesis.results import Run, read


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return read([write(tmp_path / "epochs.csv", rows)])


def lines(figure: Figure, at: int, colour: str, thick: bool) -> list[np.ndarray]:
    """The data of a panel's lines, without single marks."""
    drawn = [line for line in figure.axes[at].get_lines() if line.get_linestyle() == "-"]
    return [
        np.asarray(line.get_xydata())
        for line in drawn
        if line.get_color() == colour and (line.get_linewidth() > 2) == thick
    ]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_training_cost_by_epoch_and_by_time(tmp_path: Path):
    figure = training_cost_figure(runs_of(tmp_path, cell()), "adadelta")
    left, right = figure.axes  # of batch 256 alone: there are no others
    assert (left.get_ylabel(), left.get_yscale()) == ("mean training cost (nats)", "log")
    assert (left.get_xlabel(), right.get_xlabel()) == ("epochs", "training time (minutes)")
    assert left.get_title(loc="left") == "Batch 256"
    assert right.get_title(loc="right") == "after epoch 15: AS / uniform = 1e-4, AS / OBS = 0.5"
    for arm, colour in COLOURS.items():
        assert len(lines(figure, 0, colour, thick=False)) == 3, arm
        ((by_epoch,), (by_time,)) = (lines(figure, at, colour, thick=True) for at in (0, 1))
        assert by_epoch[:, 0].tolist() == list(range(16))
        np.testing.assert_allclose(by_time[:, 0], np.arange(16) * {"AS": 0.1, "OBS": 5 / 60, "uniform": 4 / 60}[arm])
    (thick,) = lines(figure, 0, COLOURS["AS"], thick=True)
    assert thick[-1, 1] == pytest.approx(3e-6)
    assert legend(figure) == ["AS", "OBS", "uniform", "single runs (thick: median)"]


def test_a_panel_says_which_arms_have_no_runs(tmp_path: Path):
    figure = training_cost_figure(runs_of(tmp_path, cell(arms=("AS",))), "adadelta")
    assert figure.axes[0].get_title(loc="left") == "Batch 256 (no runs of OBS, uniform)"


def test_an_undefined_ratio_is_said(tmp_path: Path):
    rows = [r | {"training_cost_median": 0 if r["arm"] != "uniform" else 1e-4} for r in cell(epochs=2)]
    figure = training_cost_figure(runs_of(tmp_path, rows), "adadelta", "median")
    assert "AS / OBS undefined" in figure.axes[1].get_title(loc="right")


def test_accuracy_is_in_percent_and_begins_after_the_first_epoch(tmp_path: Path):
    figure = accuracy_figure(runs_of(tmp_path, cell()), "adadelta", 256)
    assert [axes.get_xlabel() for axes in figure.axes] == ["epochs", "training time (minutes)"]
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    (thick,) = lines(figure, 0, COLOURS["AS"], thick=True)
    assert thick[0, 0] == 1
    assert thick[-1].tolist() == pytest.approx([15, 99.42])


def test_variances_of_three_estimators_and_infinite_ones_marked_at_the_top(tmp_path: Path):
    rows = [row(epoch=e, variance_weighted="inf" if e > 2 else 0.05) for e in range(5)]
    figure = variance_figure(runs_of(tmp_path, rows), "adadelta")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Batch 256"]
    values = {"variance_uniform": 0.1, "variance_drawn": 0.2}
    for column, (label, colour) in VARIANCES.items():
        (thick,) = lines(figure, 0, colour, thick=True)
        assert label in legend(figure)
        if column in values:
            assert thick[:, 1].tolist() == [values[column]] * 5
        else:
            assert (thick[3:, 1] > 0.2).all()
    assert "not finite" in legend(figure)


def test_the_readme_s_picture_has_both_optimizers(tmp_path: Path):
    rows = cell() + cell("adam", arms=("AS", "uniform"))
    figure = overview_figure(runs_of(tmp_path, rows))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Adadelta", "Adam (no runs of OBS)"]
    assert [len(lines(figure, at, COLOURS["OBS"], thick=True)) for at in (0, 1)] == [1, 0]
    assert figure.axes[0].get_yscale() == "log"
    assert legend(figure)[0] == "adaptive sampling (AS)"
