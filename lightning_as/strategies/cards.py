"""The card of every method, read from its module's docstring: for ``lightning-as strategies`` and ``docs/methods.md``.

A card begins with one sentence and a description, and goes on with the paragraphs that :data:`LABELS` begin.
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import lightning_as.strategies as strategies
from lightning_as.strategies import BatchSelector, Strategy
from lightning_as.strategies.stream_filter import StreamFilter

LABELS = ("Source", "Cost per step", "Verified", "When to use it", "When not")


class Card(NamedTuple):
    """What there is to know of a method before one uses it."""

    name: str
    """Its class."""
    kind: str
    """``index sampler``, ``batch selector`` or ``stream filter``."""
    line: str
    """What it is, in one line."""
    weighted: bool
    """Whether its source weights the losses."""
    reads: tuple[str, ...]
    """What it wants to know of the batches and instances."""
    preset: str
    """The configuration that trains with it: ``lightning-as fit --config PRESET``; empty if it needs a stream."""
    text: str
    """The card itself, in Markdown."""


def cards() -> list[Card]:
    """The cards of all strategies, by name."""
    return [_card(getattr(strategies, name)) for name in strategies.__all__ if _is_method(getattr(strategies, name))]


def listing() -> str:
    """All strategies with one line each."""
    width = max(len(card.name) for card in cards())
    return "\n".join(f"{card.name:<{width}}  {card.line}" for card in cards())


def document() -> str:
    """All cards as one page of Markdown."""
    rows = "\n".join(
        f"| [`{card.name}`](#{card.name.lower()}) | {card.kind} | {', '.join(card.reads) or 'nothing'} "
        f"| {'on' if card.weighted else 'off'} | {f'`{card.preset}`' if card.preset else 'needs a stream'} |"
        for card in cards()
    )
    body = "\n\n".join(f"## {card.name}\n\n*{card.line}*\n\n{card.text}" for card in cards())
    return f"""# The methods

Each is one class in one file. `lightning-as fit --config PRESET` trains the thesis's network on MNIST with it, and
`--trainer.callbacks.strategy=NAME` swaps it into any other configuration. An *index sampler* decides which instances
are loaded; a *batch selector* has a larger candidate batch loaded and scored, and trains on a part; a *stream filter*
keeps or skips what an `IterableDataset` brings. An epoch is always the data set's size over the batch size, or what you
say: schedules and progress bars need to know nothing.

This page is made from the modules' docstrings: `lightning-as strategies --cards > docs/methods.md`.

| strategy | kind | reads | weights by its source | preset |
|---|---|---|---|---|
{rows}

{body}
"""


def _is_method(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Strategy) and not inspect.isabstract(value)


def _card(method: type[Strategy]) -> Card:
    module = inspect.getmodule(method)
    assert module is not None
    line = (inspect.getdoc(method) or "").partition("\n")[0]
    kinds = {BatchSelector: "batch selector", StreamFilter: "stream filter"}
    kind = next((name for base, name in kinds.items() if issubclass(method, base)), "index sampler")
    preset = "" if issubclass(method, StreamFilter) else module.__name__.rpartition(".")[2]
    return Card(
        method.__name__,
        kind,
        line,
        method.weighted,
        tuple(sorted(method.reads)),
        "thesis" if preset == "adaptive" else preset,
        _markdown(inspect.getdoc(module) or ""),
    )


def _markdown(text: str) -> str:
    """A docstring as Markdown: roles and double backticks become code, labels bold."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    text = text.replace("``", "`")
    text = re.sub(rf"^({'|'.join(LABELS)}):", r"\n**\1.**", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
