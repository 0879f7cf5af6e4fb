from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from lightning_as import cli, strategies
from lightning_as.strategies import BatchSelector, cards

ROOT = Path(__file__).parent.parent
CARDS = cards.cards()


def test_every_strategy_has_a_card():
    public = {name for name in strategies.__all__ if inspect.isclass(getattr(strategies, name))}
    assert {card.name for card in CARDS} == public - {"Strategy", "BatchSelector", "Scores", "Selection"}
    assert [card.name for card in CARDS] == sorted(card.name for card in CARDS)


@pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])
def test_a_card_says_all_that_a_reader_asks(card: cards.Card):
    for label in cards.LABELS:
        assert card.text.count(f"**{label}.**") == 1, label
    assert 20 < len(card.line) < 100
    assert card.line.endswith(".")
    assert card.preset in cli.presets()
    method = getattr(strategies, card.name)
    assert (card.kind == "batch selector") == issubclass(method, BatchSelector)
    assert ":class:" not in card.text


def test_the_page_of_methods_is_made_from_the_cards():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert page == cards.document(), "lightning-as strategies --cards > docs/methods.md"


def test_the_listing_has_a_line_for_each():
    lines = cards.listing().splitlines()
    assert [line.split()[0] for line in lines] == [card.name for card in CARDS]
    assert all(line.endswith(card.line) for line, card in zip(lines, CARDS, strict=True))
