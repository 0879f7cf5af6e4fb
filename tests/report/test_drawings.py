import math
import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from lightning_as.report.drawings import (
    POINTS,
    SHOWN,
    as_picture,
    as_svg,
    bins_in_time,
    data_map,
    draws_by_bin,
    in_time,
    lorenz,
    lorenz_curve,
)
from lightning_as.report.series import Series
from tests.helpers.statistics import double


def series(*rows: tuple[float, ...]) -> Series:
    found = Series()
    for at, row in enumerate(rows, 1):
        found.note(10 * at, {"ess": 0.1 * at} if at != 2 else {}, lambda row=row: double(*row))
    return found


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}


def test_bins_are_drawn_with_the_names_of_those_that_moved():
    found = lines(bins_in_time(series((1, 1, 1), (1, 2, 0.25)), ["a", "b", "$c"]))
    assert {name: found[name] for name in ("a", "b", r"\$c")} == {
        "a": ([10, 20], [1, 1]),
        "b": ([10, 20], [1, 2]),
        r"\$c": ([10, 20], [1, 0.25]),
    }
    many = [1 + j / 100 for j in range(SHOWN + 5)]
    figure = bins_in_time(series(tuple(many), tuple(many)), [f"bin {j}" for j in range(len(many))])
    (legend,) = [figure.axes[0].get_legend()]
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [f"bin {j}" for j in range(SHOWN + 4, 4, -1)]


def test_a_figure_in_time_leaves_out_what_was_not_known():
    figure = in_time(series((1,), (1,), (1,)), "ess", "share", 1.0)
    (x, y), *reference = lines(figure).values()
    assert x == [10, 30]
    assert y == pytest.approx([0.1, 0.3])
    assert len(reference) == 1


def test_a_figure_in_time_has_room_for_what_is_below_nothing():
    losses = Series()
    for at, loss in enumerate((-1.0, math.inf, -3.0), 1):
        losses.note(at, {"loss": loss}, lambda: double(1))
    least, largest = in_time(losses, "loss", "mean").axes[0].get_ylim()
    assert least < -3
    assert 0 <= largest < 0.1


def test_the_lorenz_curve_is_that_of_the_examples_one_by_one():
    drawn = np.array([3, 0, 0, 1, 5, 1])
    sorted_draws, total = sorted(drawn.tolist()), drawn.sum()
    whole = {
        (at / 6, math.fsum(sorted_draws[:at]) / total)
        for at in range(7)
        if at in (0, 6) or sorted_draws[at - 1] != sorted_draws[at]
    }
    x, y = lorenz_curve(drawn)
    assert set(zip(x.tolist(), y.tolist(), strict=True)) == whole
    assert [list(found) for found in lines(lorenz(drawn)).values()][1] == [x.tolist(), y.tolist()]


def test_draws_are_averaged_in_each_bin_and_of_many_bins_the_outermost_are_shown():
    columns = {"bin": np.array([0, 1, 0, 2]), "drawn": np.array([4, 1, 2, 9])}
    bars = draws_by_bin(columns, ["a", "b", "c"]).axes[0].patches
    assert [bar.get_width() for bar in bars] == [1, 3, 9]
    many = {"bin": np.arange(30), "drawn": np.arange(30)}
    bars = draws_by_bin(many, [f"bin {j}" for j in range(30)]).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0, 1, 2, 3, 4, 25, 26, 27, 28, 29]


def test_the_map_has_each_example_that_was_looked_at_in_the_colour_of_what_became_of_it():
    columns = {
        "confidence": np.array([0.9, 0.1, np.nan, 0.5, 0.7]),
        "variability": np.array([0.0, 0.1, np.nan, 0.3, 0.2]),
        "learnt": np.array([1.0, 0.0, np.nan, 2.0, 1.0]),
        "forgotten": np.array([0.0, 0.0, np.nan, 1.0, 1.0]),
    }
    kinds = {kind.get_label(): kind.get_offsets().tolist() for kind in data_map(columns).axes[0].collections}
    assert kinds == {
        "right": [[0.0, 0.9]],
        "right again": [[0.3, 0.5]],
        "wrong": [[0.1, 0.1], [0.2, 0.7]],
    }
    many = {name: np.repeat(column, POINTS) for name, column in columns.items()}
    assert sum(len(kind.get_offsets()) for kind in data_map(many).axes[0].collections) == POINTS


def test_figures_are_drawn_alike_in_any_style_of_the_user_s():
    def drawn() -> bytes:
        return as_picture(draws_by_bin({"bin": np.array([0, 1]), "drawn": np.array([1, 2])}, ["a", "\ud83d"])).tobytes()

    plain = drawn()
    styles: Any = {"text.usetex": True, "font.size": 30, "figure.autolayout": True, "savefig.bbox": "tight"}
    with matplotlib.rc_context(styles):
        before = dict(matplotlib.rcParams)
        assert drawn() == plain
        assert dict(matplotlib.rcParams) == before


def test_figures_take_the_page_s_colours_and_leave_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    figures = [lorenz(np.array([1, 2, 3])), in_time(series((1,)), "ess", "<share>")]
    texts = [as_svg(figure, "what &lt;it&gt; shows") for figure in figures]
    for text in texts:
        ElementTree.fromstring(text.replace("xlink:", ""))  # well-formed
        assert text.startswith('<svg viewBox="')
        assert 'role="img" aria-label="what &lt;it&gt; shows"' in text
        assert "var(--ink)" in text or "var(--quiet)" in text
        assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
        assert set(re.findall(r"url\(#(\w+)\)|href=\"#(\w+)\"", text)) <= {
            pair for name in re.findall(r' id="(\w+)"', text) for pair in ((name, ""), ("", name))
        }
    ids = Counter(re.findall(r' id="(\w+)"', "".join(texts)))
    assert max(ids.values()) == 1
    formula = draws_by_bin({"bin": np.array([0, 1]), "drawn": np.array([1, 2])}, [r"$\no$", "b"])
    assert r">$\no$<" in as_svg(formula, "")
    as_picture(formula)  # drawn without the page's settings, as loggers do
    assert as_picture(figures[0]).size == (660, 435)
    assert dict(matplotlib.rcParams) == before
