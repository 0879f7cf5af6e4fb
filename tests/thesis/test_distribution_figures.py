from typing import Any

from tests.helpers.synthetic import row, tables
from thesis.distribution_figures import cost_scale, delta_grid_figure, distribution_figure


def test_a_search_has_a_tile_for_each_point_and_hatches_what_was_not_run():
    costs = {(0.9, 0.1): 1e-4, (0.3, 0.1): 1e-1, (0.6, 0.1): 0.0, (0.3, 0.7): "nan"}
    rows = [
        row(experiment="grid-search", batch_size=64, delta_p=p, delta_q=q, epoch=5, training_cost_mean=cost)
        | ({"p": "0" + 9 * ";0.11"} if p == 0.3 else {})
        for (p, q), cost in costs.items()
    ]
    points = tables(rows).points
    scale = cost_scale(points)  # without what has no logarithm
    assert (scale.vmin, scale.vmax, cost_scale([]).vmin) == (1e-4, 1e-1, 1)
    axes, fine = (delta_grid_figure([r for r in points if r.figure == at], scale).axes[0] for at in (13, 14))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.4", "0.7"]
    assert [text.get_text() for text in fine.get_yticklabels()] == ["0.902", "0.91", "0.93"]
    texts = {tuple(int(v) for v in text.get_position()): text.get_text() for text in axes.texts}  # by δq and δp
    assert (texts[0, 2], texts[0, 1], texts[2, 0]) == ("1e-4", "0", "not finite\nP collapsed")
    assert sorted(texts.values()).count("not run") == 5


def test_p_at_the_beginnings_of_epochs():
    later = [["0.1"] * 10, ["0", "0.2", *["0.1"] * 8], ["0", "0.1", "0.2", *["0.1"] * 7]]
    rows = [
        row(optimizer="adam", batch_size=64, seed=seed, epoch=epoch, p=";".join(later[seed if epoch else 0]))
        for epoch in range(11)
        for seed in range(3)
    ]
    found = tables(rows)
    figure: Any = distribution_figure(found, "adam", 64)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    said = [f"epoch {epoch}: lowest in any run {p}" for epoch, p in ((0, "0.1"), (5, "0"), (10, "0"))]
    assert [axes.get_title(loc="left") for axes in shown] == said
    assert [bar.get_height() for bar in shown[1].patches] == [0.0, *[0.1] * 9]  # medians of the three runs
    assert distribution_figure(found, "adadelta", 256) is None
