"""The tables of the evidence page, as Markdown: one section for each question."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from thesis.comparison import as_text, interval, markdown_table
from thesis.evidence import (
    FIRST_SELECTION_SEED,
    LAST_EPOCHS,
    WORST,
    ArmRow,
    CollapseRow,
    DefaultRow,
    Evidence,
    TimeRow,
)
from thesis.evidence_figures import LABELS
from thesis.printed import OPTIMIZERS
from thesis.results import COLLAPSED
from thesis.tables import RatioRow
from thesis.variance import LayerRow, NoiseRow

QUESTIONS = (
    "What AS gains over uniform sampling and OBS",
    "Weights on or off",
    "Does P collapse, and what prevents it",
    "Which part of AS the gain comes from",
    "Time to a training cost and to an accuracy",
    "The best batch size, sampler and optimizer for time to accuracy",
    "The variance of the gradient estimate",
)
_INTRODUCTION = f"""Made by `python -m thesis report evidence` from what `python -m thesis run` measured; what it means
stands in `docs/evidence.md`. Values are medians over the runs (seeds), with bootstrap intervals of 95 % in brackets,
which of two to five runs are only the smallest and the largest of them. But for the first question a cost is the
geometric mean of the mean training cost over the last {LAST_EPOCHS} epochs, and an accuracy the mean over them."""
_LONGER = f"""Longer trainings, one run each. Collapsed is a P whose smallest entry is below {COLLAPSED:g}."""
_RULE = f"""The rule, on seeds from {FIRST_SELECTION_SEED} on, which enter nothing else: of the candidates that have
been run in all six settings and that cost at most {WORST:g} times as much as the thesis's settings in each of them, the
one with the smallest geometric mean of the ratios."""

_NOISE = """Of all studies: the variance of the weighted estimate of the mean gradient with respect to the logits, of
one draw from the sampler's distribution, over that of a uniform draw, whether the training has these weights or not.
Medians over epochs, then over runs."""
_LAYER = """Of the study `variance`: what `thesis/gradients.py` defines."""


def evidence_markdown(
    evidence: Evidence, noise: Sequence[NoiseRow], layer: Sequence[LayerRow], figures: Sequence[str]
) -> str:
    """The page.

    Args:
        evidence: The rows of questions 1 to 6.
        noise: Those of question 7, of all studies.
        layer: Those of question 7, of its own study.
        figures: Names of the files that were made.
    """
    parts = ["# Tables of the evidence", fill(_INTRODUCTION.replace("\n", " "), 120)]
    for number, title in enumerate(QUESTIONS, 1):
        parts.append(f"## {number}. {title}")
        name = f"question_{number}.png"
        parts.append(f"![{title}]({name})" if name in figures else "*Not run.*")
        if number == 1:
            parts.append(_claims(evidence.claims))
        elif number in evidence.arms:
            parts.append(_arms(evidence.arms[number]))
        elif number in evidence.times:
            parts.append(_times(evidence.times[number]))
        else:
            parts += [fill(_NOISE.replace("\n", " "), 120), _noise(noise), *([_LAYER, _layer(layer)] if layer else [])]
        if number == 3:
            parts += [_LONGER, _collapses(evidence.collapses)] if evidence.collapses else []
            parts += [fill(_RULE.replace("\n", " "), 120), _defaults(evidence.defaults)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(rows: Sequence[RatioRow]) -> str:
    lines = [
        [
            f"{OPTIMIZERS[row.optimizer]} {row.batch_size}",
            f"AS / {row.against}",
            row.statistic,
            as_text(row.printed, 3),
            interval(row.ours),
            row.verdict,
            str(row.epoch),
        ]
        for row in rows
    ]
    return _table(["setting", "ratio", "training cost", "thesis", "ours", "verdict", "epoch"], lines)


def _arms(rows: Sequence[ArmRow]) -> str:
    lines = [
        [
            f"{OPTIMIZERS[row.optimizer]} {row.batch_size}" + ("" if row.data == "full" else f", {row.data}"),
            LABELS[row.arm],
            interval(row.cost),
            interval(row.ratio),
            interval(row.accuracy, 4),
            interval(row.smallest_p),
            str(row.cost.runs),
            str(row.epoch),
        ]
        for row in rows
    ]
    header = ["setting", "arm", "training cost (nats)", "ratio", "test accuracy (%)", "smallest P ever"]
    return _table([*header, "runs", "epoch"], lines)


def _times(rows: Sequence[TimeRow]) -> str:
    lines = [
        [
            row.target,
            f"{OPTIMIZERS[row.optimizer]} {row.batch_size}",
            LABELS[row.arm],
            "not reached" if row.epochs is None else as_text(row.epochs, 3),
            interval(row.minutes) if row.minutes.runs else "–",
            f"{row.minutes.runs} of {row.runs}",
        ]
        for row in rows
    ]
    return _table(["target", "setting", "arm", "epochs", "minutes, where reached", "runs that reach it"], lines)


def _collapses(rows: Sequence[CollapseRow]) -> str:
    lines = [
        [
            f"{OPTIMIZERS[row.optimizer]} {row.batch_size}",
            LABELS[row.arm],
            str(row.seed),
            str(row.epochs),
            as_text(row.smallest_p),
            str(row.collapsed_epochs),
            "–" if row.collapsed_since is None else f"epoch {row.collapsed_since}",
            as_text(row.cost),
            as_text(row.accuracy, 4),
        ]
        for row in rows
    ]
    header = ["setting", "arm", "seed", "epochs", "smallest P ever", "epochs collapsed", "for good since"]
    return _table([*header, "training cost (nats)", "test accuracy (%)"], lines)


def _defaults(rows: Sequence[DefaultRow]) -> str:
    lines = [
        [
            LABELS[row.arm],
            f"{row.settings} of 6",
            as_text(row.mean_ratio),
            "–" if row.worst_ratio is None else f"{as_text(row.worst_ratio)} ({row.worst})",
            "yes" if row.chosen else "",
        ]
        for row in rows
        if row.settings
    ]
    header = ["candidate", "settings run", "cost / that of the thesis's settings", "worst of the settings", "chosen"]
    return _table(header, lines)


def _noise(rows: Sequence[NoiseRow]) -> str:
    lines = [
        [
            f"{OPTIMIZERS[row.optimizer]} {row.batch_size}",
            LABELS[row.arm],
            interval(row.early),
            interval(row.middle),
            f"{row.below} of {row.of}",
            str(row.middle.runs),
            str(row.epochs),
        ]
        for row in rows
    ]
    header = ["setting", "arm", "first 3 epochs", "all epochs", "epochs below 1", "runs", "epochs"]
    return _table(header, lines)


def _layer(rows: Sequence[LayerRow]) -> str:
    settings = dict.fromkeys((row.optimizer, row.batch_size, row.quantity) for row in rows)
    arms = list(dict.fromkeys(row.arm for row in rows))
    found = {(row.optimizer, row.batch_size, row.quantity, row.arm): row for row in rows}
    lines = []
    for optimizer, size, quantity in settings:
        own = [found.get((optimizer, size, quantity, arm)) for arm in arms]
        texts = ["–" if row is None or row.trained.value != row.trained.value else interval(row.trained) for row in own]
        lines.append([f"{OPTIMIZERS[optimizer]} {size}", f"`{quantity}`", *texts])
    return _table(["setting", "quantity", *(LABELS[arm] for arm in arms)], lines)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, lines) if lines else ""
