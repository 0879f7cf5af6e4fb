"""What the report shows: each figure with a sentence on its meaning, or the reason why there is none."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_as.plugin.figures import top_share
from lightning_as.report import drawings
from lightning_as.report.drawings import Columns
from lightning_as.report.series import Series
from lightning_as.strategies import Strategy

LARGEST = 256
"""Bins that are watched in time; of more of them the largest."""
_LETTERS = 18  # of a bin's name
_IN_TIME: tuple[tuple[str, str, str, float | None, str], ...] = (
    (
        "ess",
        "Effective sample size",
        "share of the examples",
        None,
        "The share of the examples that the draws are effectively spread over. At 100% all are drawn alike; the less, "
        "the fewer examples get most of the draws.",
    ),
    (
        "gain",
        "Gain",
        "times a uniform draw’s",
        1.0,
        "How many times the squared gradient of a drawn example is that of a uniformly drawn one. On the dotted line "
        "the sampler gains nothing; above it each step has more to learn from.",
    ),
    (
        "loss",
        "Loss of the data",
        "estimated mean loss",
        None,
        "The mean loss of all examples, estimated from the draws by weights. The training loss itself is that of what "
        "was drawn, and looks worse where hard examples are preferred.",
    ),
)
_NO_FIGURES = (
    "Not known: it is logged of index samplers, every `log_every_n_steps` batches, and for the gradient also needs the "
    "cross-entropy's logits at hand, as `logits_from` names them."
)
_NO_LOGITS = (
    "Not known: the network's sureness shows in logits, which were not at hand, or the samples have no one label each. "
    "Name the submodule that gives them, `AdaptiveSamplingCallback(logits_from=…)`."
)


class Facts(NamedTuple):
    """What the report is about."""

    strategy: Strategy
    """At work, with a record of something."""
    columns: Columns
    """The table of the examples."""
    series: Series
    classes: Mapping[int, str]
    """The names of the labels, as far as they are known."""
    hard: Sequence[int]
    """The hardest examples, the hardest first."""
    suspects: Sequence[int]
    """Those whose labels look wrong, the most suspected first."""


class Plot(NamedTuple):
    """A figure, and what it means."""

    key: str
    """Its name in a logger, after ``sampling/``."""
    title: str
    figure: Any | None
    """A matplotlib figure; None if there is nothing to draw."""
    text: str
    """What it means; or why there is none."""


def watched(strategy: Strategy) -> Tensor:
    """The bins that are watched in time, at most :data:`LARGEST`, (k,) int64."""
    sizes = torch.tensor(strategy.bins.sizes, dtype=torch.int64, device="cpu")
    return sizes.argsort(descending=True, stable=True)[:LARGEST].sort().values


def times_as_often(strategy: Strategy) -> Tensor:
    """How many times as often as uniformly an example of each of those bins is drawn, (k,) float64."""
    chosen = watched(strategy)
    sizes = torch.tensor(strategy.bins.sizes, dtype=torch.float64, device="cpu")[chosen]
    return strategy.bin_probabilities.cpu()[chosen] * len(strategy.bins) / sizes


def options_of(strategy: Strategy) -> str:
    """The strategy as one would write it, with all its options that are short."""
    said = []
    for name in inspect.signature(type(strategy)).parameters:
        value = getattr(strategy, name, strategy)  # which is no option: it keeps that one under another name
        if isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))) and len(shown := repr(value)) < 80:
            said.append(f"{name}={shown}")
    return f"{type(strategy).__name__}({', '.join(said)})"


def label_name(label: float, classes: Mapping[int, str]) -> str:
    """A class by its number and, if it is known, its name."""
    if label != label:
        return "not known"
    return f"{int(label)} {classes[int(label)]}" if int(label) in classes else str(int(label))


def bin_names(facts: Facts, chosen: Sequence[int]) -> list[str]:
    """The names of some bins: of classes the labels."""
    labels = facts.strategy.bins.labels
    if labels is None:
        return [f"bin {j}" for j in chosen]
    names = [label_name(float(labels[j]), facts.classes) for j in chosen]
    names = [f"label {name}" if name.isdecimal() else name for name in names]
    return [name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…" for name in names]


def plots(facts: Facts) -> list[Plot]:
    """All figures, in their order."""
    return [_bins(facts), *_in_time(facts.series), _lorenz(facts.columns), _draws(facts), _map(facts.columns)]


def _bins(facts: Facts) -> Plot:
    key, title, of = "bins", "Where the draws go", watched(facts.strategy).tolist()
    total = len(facts.strategy.bins.sizes)
    if total == 1:
        return Plot(key, title, None, "All examples are in one bin, so that there is nothing to share out among bins.")
    if not facts.series.at or facts.series.bins().shape[1] != len(of):
        return Plot(key, title, None, "Nothing was noted in time yet.")
    text = (
        "How many times as often as by uniform sampling an example of each bin is drawn: above the dotted line the "
        "bin is preferred, below it is spared."
    )
    if len(of) > drawings.SHOWN:
        text += f" In colour, the {drawings.SHOWN} bins that have moved furthest; in grey, the others."
    if total > len(of):
        text += f" Of {total:,} bins these are the {len(of)} largest."
    if not facts.strategy.knows_probabilities:
        text += " This is of the candidates, of which the strategy then chooses."
    return Plot(key, title, drawings.bins_in_time(facts.series, bin_names(facts, of)), text)


def _in_time(series: Series) -> list[Plot]:
    found = []
    for name, title, label, reference, text in _IN_TIME:
        known = any(map(math.isfinite, series.figure(name)))
        figure = drawings.in_time(series, name, label, reference, percent=name == "ess") if known else None
        found.append(Plot(name, title, figure, text if known else _NO_FIGURES))
    return found


def _lorenz(columns: Columns) -> Plot:
    drawn = columns["drawn"]
    text = (
        f"The most drawn tenth of the examples has {top_share(torch.from_numpy(drawn)):.0%} of all draws, and "
        f"{in_percent((drawn == 0).mean())} of the examples were never drawn. On the dotted diagonal all are drawn "
        "alike; the further below it, the fewer have most of the draws (a Lorenz curve)."
    )
    return Plot("lorenz", "How unequal the draws are", drawings.lorenz(drawn), text)


def in_percent(share: float) -> str:
    """A share to a tenth of a percent; what is less, but not nothing, as such."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _draws(facts: Facts) -> Plot:
    key, title, sizes = "draws", "Draws per example, by bin", facts.strategy.bins.sizes
    if len(sizes) == 1:
        return Plot(key, title, None, f"One bin: {facts.columns['drawn'].mean():.3g} draws of an example, on average.")
    names = bin_names(facts, range(len(sizes)))
    text = (
        f"How often an example of each bin was drawn; the mean of all examples is {facts.columns['drawn'].mean():.3g}."
    )
    if len(sizes) > drawings.SHOWN:
        text += f" Of {len(sizes):,} bins those that were drawn most and least."
    return Plot(key, title, drawings.draws_by_bin(facts.columns, names), text)


def _map(columns: Columns) -> Plot:
    key, title = "data_map", "Map of the data"
    if not (known := np.isfinite(columns["confidence"])).any():
        return Plot(key, title, None, _NO_LOGITS)
    forgotten = columns["forgotten"][known] > 0
    text = (
        "Each dot is an example: how sure the network was of its label, and how much that varied, over its last "
        "visits. Easy ones are at the top left, ambiguous ones on the right, hard ones at the bottom left: rare, or "
        f"wrongly labelled. {in_percent(forgotten.mean())} were forgotten at least once: right, and then wrong; some "
        "of them are right again."
    )
    if known.sum() > drawings.POINTS:
        text += f" Shown are {drawings.POINTS:,} of them, taken at random."
    if not known.all():
        text += f" {in_percent((~known).mean())} of the examples were not looked at, and are not on the map."
    return Plot(key, title, drawings.data_map(columns), text)
