"""The figures of the report, drawn by matplotlib from the table of the examples and the series."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from lightning_as.report.series import Series

Columns = Mapping[str, np.ndarray]
"""The table of the examples, see `lightning_as.plugin.examples.COLUMNS`."""
SHOWN = 10
"""Bins that a figure shows one by one."""
POINTS = 10_000
"""Examples that the data map shows at most."""
_SIZE = (4.4, 2.9)  # inches
_INK, _QUIET, _GRID, _ACCENT = "#1f2430", "#5b6472", "#e1e4e8", "#2c6fb0"
# Of Okabe and Ito, which the colour-blind tell apart, and tones between them.
_COLOURS = (
    "#0a84c6",
    "#d55e00",
    "#109b77",
    "#c469a0",
    "#c98f00",
    "#5a67d8",
    "#8c6d4f",
    "#46a6d8",
    "#b3475d",
    "#7a9a01",
)
_STATES = (("right", "#0a84c6"), ("right again", "#c98f00"), ("wrong", "#d3452b"))
# By these names a page has its own colours, in light and in dark.
_VARIABLES = {_INK: "--ink", _QUIET: "--quiet", _GRID: "--line", _ACCENT: "--accent"}
_IDS = re.compile(r' id="(?!m[0-9a-f]{10}|p[0-9a-f]{10}|image)[^"]*"')  # of what nothing points to
_STYLE: Any = {
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _QUIET,
    "axes.edgecolor": _QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "axes.axisbelow": True,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def bins_in_time(series: Series, names: Sequence[str]) -> Any:
    """How many times as often as uniformly each bin is drawn, by the number of batches.

    Of many bins those that have moved furthest have a colour.

    Args:
        series: Has these numbers, (T, k).
        names: Of the bins, k.
    """
    times = series.bins().double().numpy()
    moved = np.abs(np.log(np.maximum(times, 1e-3))).max(0)
    chosen = sorted(np.argsort(-moved, kind="stable")[:SHOWN], key=lambda j: -times[-1, j])
    with _figure() as (figure, axes):
        for j in set(range(len(names))) - set(chosen):
            axes.plot(series.at, times[:, j], color=_GRID, linewidth=0.8)
        for j in chosen:
            axes.plot(
                series.at, times[:, j], color=_COLOURS[int(j) % SHOWN], label=_plain(names[int(j)]), **_marks(series)
            )
        axes.axhline(1, color=_QUIET, linewidth=1, linestyle=":")
        axes.set(ylabel="times as often as uniformly", ylim=(0, 1.08 * max(1.0, times.max())))
        _by_batches(axes, series)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1, labelspacing=0.3)
    return figure


def in_time(series: Series, name: str, label: str, reference: float | None = None, percent: bool = False) -> Any:
    """One figure by the number of batches."""
    values = np.array(series.figure(name))
    known = np.isfinite(values)
    with _figure() as (figure, axes):
        axes.plot(np.array(series.at)[known], values[known], color=_ACCENT, **_marks(series))
        if reference is not None:
            axes.axhline(reference, color=_QUIET, linewidth=1, linestyle=":")
        least, largest = min(0.0, values[known].min()), max(values[known].max(), reference or 0.0, 1e-12)
        axes.set(ylabel=label, ylim=(1.08 * least, 1.08 * largest))
        _by_batches(axes, series)
        if percent:
            _in_percent(axes.yaxis)
    return figure


def lorenz(drawn: np.ndarray) -> Any:
    """The share of all draws that the least drawn examples have.

    Args:
        drawn: Times that each example was drawn, (N,).
    """
    examples, draws = lorenz_curve(drawn)
    with _figure() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=":")
        axes.plot(examples, draws, color=_ACCENT, linewidth=1.8)
        axes.fill_between(examples, draws, examples, color=_ACCENT, alpha=0.12, linewidth=0)
        axes.set(xlabel="share of the examples, the least drawn first", ylabel="share of all draws")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _in_percent(axes.xaxis, axes.yaxis)
    return figure


def lorenz_curve(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the Lorenz curve: one for each number of draws that some examples have, and the origin."""
    times, counts = np.unique(drawn, return_counts=True)
    examples, draws = np.cumsum(counts), np.cumsum(times * counts)
    return np.append(0, examples / examples[-1]), np.append(0, draws / max(draws[-1], 1))


def draws_by_bin(columns: Columns, names: Sequence[str]) -> Any:
    """The mean number of draws of an example of each bin; of many bins of those that have most and least."""
    sizes = np.bincount(columns["bin"])
    means = np.bincount(columns["bin"], columns["drawn"]) / sizes
    order = np.argsort(means, kind="stable")
    if len(order) > SHOWN:
        order = np.append(order[: SHOWN // 2], order[-(SHOWN // 2) :])
    with _figure() as (figure, axes):
        bars = axes.barh([_plain(names[int(j)]) for j in order], means[order], color=_ACCENT, height=0.7)
        axes.bar_label(bars, [f"{mean:#.3g}".rstrip(".") for mean in means[order]], padding=3, color=_INK)
        axes.set_xlabel("draws per example")
        axes.margins(x=0.15)
        axes.grid(visible=False, axis="y")
    return figure


def data_map(columns: Columns) -> Any:
    """Confidence against variability of the examples that were looked at; of very many of a sample.

    After Swayamdipta et al., "Dataset Cartography" (EMNLP 2020).
    """
    known = np.flatnonzero(np.isfinite(columns["confidence"]))
    if len(known) > POINTS:
        known = np.random.default_rng(0).choice(known, POINTS, replace=False)
    x, y = columns["variability"][known], columns["confidence"][known]
    right, forgotten = columns["learnt"][known] > columns["forgotten"][known], columns["forgotten"][known] > 0
    kinds = (right & ~forgotten, right & forgotten, ~right)
    size = 5 if len(known) > 1000 else 16
    with _figure(height=3.3) as (figure, axes):
        for (name, colour), kind in zip(_STATES, kinds, strict=True):
            axes.scatter(x[kind], y[kind], s=size, alpha=0.45, color=colour, linewidths=0, rasterized=True, label=name)
        axes.set(xlabel="variability of that probability", ylabel="confidence: probability of the label")
        axes.set(xlim=(0, max(0.05, float(x.max()) * 1.05)), ylim=(-0.02, 1.02))
        keys = figure.legend(loc="outside upper center", ncols=3, handletextpad=0)
        for key in keys.legend_handles:
            key.set(alpha=1, sizes=[20])
    return figure


def as_svg(figure: Any, described: str) -> str:
    """A figure to be put into a page, whose colours and letters it takes.

    Args:
        figure: By one of the functions above.
        described: What it shows, for those who cannot see it; escaped.
    """
    file = io.StringIO()
    with styled():
        figure.savefig(file, format="svg", transparent=True, dpi=200, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = _IDS.sub("", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head = re.match(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', text)
    assert head is not None
    return f'<svg {head[1]} role="img" aria-label="{described}">' + text[head.end() :]


def as_picture(figure: Any) -> Any:
    """A PIL image of a figure, on white."""
    from PIL import Image

    file = io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=150, facecolor="white")
    return Image.open(file)


def styled() -> AbstractContextManager[None]:
    """Within it matplotlib draws in the page's style, whatever the user's is, which is back after it."""
    from matplotlib import style

    return style.context(_STYLE, after_reset=True)


@contextmanager
def _figure(height: float = _SIZE[1]) -> Iterator[tuple[Any, Any]]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(_SIZE[0], height))
        yield figure, figure.subplots()


def _marks(series: Series) -> dict[str, Any]:
    """How a line is drawn: of few points with a mark on each."""
    return {"linewidth": 1.6, "marker": "o" if len(series.at) < 10 else "", "markersize": 3}


def _plain(name: str) -> str:
    """A name that is no formula and can be written, whatever is in it."""
    return name.replace("$", r"\$").encode("utf-8", "replace").decode("utf-8")


def _by_batches(axes: Any, series: Series) -> None:
    axes.set(xlabel="batches", xlim=(0, 1.03 * series.at[-1]))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _in_percent(*axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
