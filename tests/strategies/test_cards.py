import inspect
import re
from pathlib import Path

import pytest
import yaml

from lightning_as import cli, strategies
from lightning_as.strategies import BatchSelector, Strategy, cards
from lightning_as.strategies.stream_filter import StreamFilter
from tests.helpers.catalogue import CATALOGUE

CARDS = cards.cards()
CLASSES = [value for value in vars(strategies).values() if inspect.isclass(value) and issubclass(value, Strategy)]
METHODS = sorted(value.__name__ for value in CLASSES if not inspect.isabstract(value))


def test_every_strategy_has_a_card_a_line_and_a_place_in_the_catalogue():
    assert [card.name for card in CARDS] == METHODS
    of_positions = [card.name for card in CARDS if card.kind != "stream filter"]
    assert sorted({type(make()).__name__ for make in CATALOGUE.values()}) == of_positions
    assert all(name.split()[0] == type(make()).__name__ for name, make in CATALOGUE.items())
    lines = cards.listing().splitlines()
    assert [line.split()[0] for line in lines] == METHODS
    assert all(line.endswith(card.line) for line, card in zip(lines, CARDS, strict=True))


@pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])
def test_a_card_says_all_that_a_reader_asks(card: cards.Card):
    for label in cards.LABELS:
        assert len(re.findall(rf"^\*\*{label}\.\*\* [A-Z`]", card.text, re.MULTILINE)) == 1, label
    assert 20 < len(card.line) < 100
    assert card.line.endswith(".")
    method = getattr(strategies, card.name)
    assert (card.kind == "batch selector") == issubclass(method, BatchSelector)
    assert (card.weighted, card.reads) == (method.weighted, tuple(sorted(method.reads)))
    assert ":class:" not in card.text
    assert (card.kind == "stream filter") == issubclass(method, StreamFilter) == (not card.preset)
    if not card.preset:
        return
    preset = (cli.PRESETS / f"{card.preset}.yaml").read_text()
    assert preset.startswith("# ")
    (callback,) = yaml.safe_load(preset)["trainer"]["callbacks"]
    assert callback["init_args"]["strategy"]["class_path"] == f"lightning_as.{card.name}"


def test_the_page_of_methods_is_made_from_the_cards():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert page.read_text() == cards.document(), "lightning-as strategies --cards > docs/methods.md"
