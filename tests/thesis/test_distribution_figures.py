from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from thesis.search import GridRow, grid_rows

from tests.helpers.synthetic import row, write
from thesis.distribution_figures import cost_scale, delta_grid_figure, distribution_figure
from thesis.results import Run, read


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return read([write(tmp_path / "epochs.csv", rows)])


def search(tmp_path: Path) -> list[GridRow]:
    costs = {(0.9, 0.1): 1e-4, (0.3, 0.1): 1e-1, (0.6, 0.1): 0.0, (0.3, 0.7): "nan"}
    rows = [
        row(experiment="grid-search", batch_size=64, delta_p=p, delta_q=q, epoch=5, training_cost_mean=cost)
        | ({"p": ";".join(["0"] + ["0.11111"] * 9)} if p == 0.3 else {})
        for (p, q), cost in costs.items()
    ]
    return grid_rows(runs_of(tmp_path, rows))


def test_one_scale_for_all_searches_leaves_out_what_has_no_logarithm(tmp_path: Path):
    scale = cost_scale(search(tmp_path))
    assert (scale.vmin, scale.vmax) == (1e-4, 1e-1)
    assert cost_scale([]).vmin == 1


def test_a_search_has_a_tile_for_each_point_and_hatches_what_was_not_run(tmp_path: Path):
    rows = [r for r in search(tmp_path) if r.figure == 13]
    axes = delta_grid_figure(rows, cost_scale(rows)).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("smoothing of Q, δq", "smoothing of P, δp")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.4", "0.7"]
    texts = {tuple(int(v) for v in text.get_position()): text.get_text() for text in axes.texts}
    assert texts[0, 2] == "1e-4"  # δq 0.1, δp 0.9
    assert texts[0, 1] == "0"
    assert texts[2, 0] == "not finite\nP collapsed"
    assert sorted(texts.values()).count("not run") == 5
    tiles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert sum(bool(tile.get_hatch()) for tile in tiles) == 5
    (frame,) = [tile for tile in tiles if not tile.get_fill()]
    assert np.allclose(frame.get_center(), (0, 2))


def test_the_fine_search_has_no_frame(tmp_path: Path):
    rows = [r for r in search(tmp_path) if r.figure == 14]
    axes = delta_grid_figure(rows, cost_scale(rows)).axes[0]
    assert all(patch.get_fill() for patch in axes.patches)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.902", "0.91", "0.93"]


def test_p_at_the_beginnings_of_epochs(tmp_path: Path):
    laws = [[0.1] * 10, [0.0, 0.2, *[0.1] * 8], [0.0, 0.1, 0.2, *[0.1] * 7]]
    rows = [
        row(optimizer="adam", batch_size=64, seed=seed, epoch=epoch, p=";".join(map(str, law)))
        for epoch in range(11)
        for seed, law in enumerate([laws[0]] * 3 if epoch == 0 else laws)
    ]
    figure = distribution_figure(runs_of(tmp_path, rows), "adam", 64)
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [
        "epoch 0: lowest in any run 0.1",
        "epoch 5: lowest in any run 0",
        "epoch 10: lowest in any run 0",
    ]
    heights = [bar.get_height() for bar in shown[1].patches if isinstance(bar, Rectangle)]
    assert heights == [0.0, *[0.1] * 9]  # medians of the three runs
    dots, uniform = shown[1].get_lines()
    assert len(np.asarray(dots.get_xdata())) == 30
    assert set(np.asarray(uniform.get_ydata()).tolist()) == {0.1}
    assert [text.get_text() for text in shown[1].texts] == ["0"]  # the bar that cannot be seen
    assert shown[0].get_ylabel() == "probability P"
    assert all(axes.get_xlabel() == "digit (bin)" for axes in shown)


def test_without_runs_there_is_no_figure(tmp_path: Path):
    assert distribution_figure(runs_of(tmp_path, [row(arm="OBS")]), "adadelta", 256) is None
