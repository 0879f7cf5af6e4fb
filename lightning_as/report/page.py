"""The report as a page: one file of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from lightning_as.plugin.suspects import suspects_of
from lightning_as.report.drawings import Columns, as_svg
from lightning_as.report.samples import View
from lightning_as.report.sections import Facts, Plot, in_percent, label_name, options_of

SHOWN = 36
"""Examples of each list."""
_TEMPLATE = Path(__file__).with_name("template.html")


def hardest(columns: Columns) -> list[int]:
    """The examples with the largest smoothed losses, the largest first."""
    return _first(-columns["smoothed_loss"])


def suspected(known: Columns) -> list[int]:
    """The examples that :func:`suspects_of` suspects of all that is known, the most suspected first."""
    if not np.isfinite(known["margin"]).any():
        return []
    table = suspects_of(known)
    return table["index"][table["suspected"]][:SHOWN].tolist()


def _first(ranked: np.ndarray) -> list[int]:
    known = np.flatnonzero(np.isfinite(ranked))
    if len(known) > SHOWN:  # not all of very many need be sorted
        known = known[ranked[known] <= np.partition(ranked[known], SHOWN - 1)[SHOWN - 1]]
    return known[np.argsort(ranked[known], kind="stable")][:SHOWN].tolist()


def render(facts: Facts, plots: Sequence[Plot], views: Mapping[int, View], status: str) -> str:
    """The page.

    Args:
        facts: What it is about.
        plots: Its figures.
        views: What there is to be seen of the examples that it lists, as far as that was read.
        status: How far the fit has come, in a sentence.
    """
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        strategy=escape(type(facts.strategy).__name__),
        options=escape(options_of(facts.strategy)),
        status=escape(status),
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        tiles="\n".join(_tile(*tile) for tile in _tiles(facts)),
        **{plot.key: _plot(plot) for plot in plots},
        hardest=_examples(facts.hard, facts, views, "No losses of single examples are known."),
        suspected=_examples(facts.suspects, facts, views, _none_suspected(facts.columns)),
        reading=_reading([*facts.hard, *facts.suspects], views),
    )


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """What is told in numbers: a name, the number, and what it means."""
    drawn, last, record = facts.columns["drawn"], facts.series.last, facts.strategy.record
    assert record is not None
    bins = len(facts.strategy.bins.sizes)
    tiles = [
        ("Examples", f"{len(drawn):,}", f"in {bins:,} bins" if bins > 1 else "in one bin"),
        ("Batches", f"{record.batches:,}", f"{int(drawn.sum()):,} draws, {drawn.mean():.3g} per example"),
        ("Never drawn", in_percent((drawn == 0).mean()), f"{int((drawn == 0).sum()):,} examples"),
    ]
    meanings: dict[str, tuple[str, Callable[[float], str], str]] = {
        "ess": ("Effective sample", "{:.0%}".format, "of the examples; 100% is uniform"),
        "gain": ("Gain", "{:.2f} ×".format, "a uniform draw’s squared gradient"),
        "variance_ratio": ("Variance ratio", "{:.2f}".format, "below 1 weighted steps have less noise"),
        "loss": ("Loss of the data", "{:.3g}".format, "estimated mean of all examples"),
    }
    return tiles + [(name, said(last[key]), what) for key, (name, said, what) in meanings.items() if key in last]


def _tile(name: str, number: str, meaning: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd><b>{escape(number)}</b> {escape(meaning)}</dd></div>"


def _plot(plot: Plot) -> str:
    drawn = "" if plot.figure is None else as_svg(plot.figure, escape(f"{plot.title}. {plot.text}"))
    return f"<figure>\n<h3>{escape(plot.title)}</h3>\n{drawn}\n<figcaption>{escape(plot.text)}</figcaption>\n</figure>"


def _examples(indices: Sequence[int], facts: Facts, views: Mapping[int, View], none: str) -> str:
    if not indices:
        return f"<p>{escape(none)}</p>"
    cards = [_card(index, facts, views.get(index, View())) for index in indices]
    kind = "pictures" if any(views.get(index, View()).picture for index in indices) else "rows"
    return f'<ol class="{kind}">\n' + "\n".join(cards) + "\n</ol>"


def _card(index: int, facts: Facts, view: View) -> str:
    """An example: what there is to be seen of it, and what the table has."""
    row = {name: float(facts.columns[name][index]) for name in ("label", "other", "loss", "margin")}
    label, other = (escape(label_name(row[name], facts.classes)) for name in ("label", "other"))
    seen = ""
    if view.picture is not None:
        seen = f'<img src="{view.picture}" alt="Example {index}, label {label}">'
    elif view.text is not None:
        seen = f"<blockquote>{escape(view.text)}</blockquote>"
    if row["label"] == row["label"]:
        rival = f' <span class="other">or {other}?</span>' if row["other"] == row["other"] else ""
        seen += f"<p><b>{label}</b>{rival}</p>"
    numbers = [f"{name} {_signed(row[name])}" for name in ("loss", "margin") if row[name] == row[name]]
    lines = "".join(f"<span>{line}</span>" for line in (f"#{index}", *numbers))
    return f'<li data-index="{index}">{seen}<p class="small">{lines}</p></li>'


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def _none_suspected(columns: Columns) -> str:
    if not np.isfinite(columns["margin"]).any():
        return "Not known: the logits were not at hand, or the samples have no one label each."
    return "None: no label stands out, and has another class preferred to it on average."


def _reading(indices: Sequence[int], views: Mapping[int, View]) -> str:
    """What a reader has to know of how the samples were read."""
    listed = set(indices)
    errors = [view.error for index, view in views.items() if index in listed and view.error]
    left = len(listed - views.keys())
    said = []
    if views and not any(view.picture or view.text or view.error for view in views.values()):
        said.append("The samples of the data set are neither pictures nor texts: their positions tell which they are.")
    if errors:
        said.append(f"{len(errors)} could not be read from the data set, at first for this: {errors[0]}.")
    if left:
        said.append(f"{left} were not read, since that took too long.")
    return f'<p class="note">{escape(" ".join(said))}</p>' if said else ""
