import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_as import Bins, Uniform
from lightning_as.plugin.examples import columns_of, known_of
from lightning_as.plugin.suspects import suspects_of
from lightning_as.report.page import SHOWN, hardest, render, suspected
from lightning_as.report.samples import View, view_of
from lightning_as.report.sections import Facts, plots, times_as_often
from lightning_as.report.series import Series
from tests.helpers.browser import CHROMIUM, Page

SIZE, UNSEEN = 120, 20


def facts(logits: bool = True, classes: int = 4) -> Facts:
    """What random looks at all but some of the examples have shown."""
    draws = np.random.default_rng(0)
    strategy = Uniform()
    strategy.keep_record(True)
    labels = torch.from_numpy(draws.integers(0, classes, SIZE))
    strategy.start(Bins.from_labels(labels))
    assert strategy.record is not None
    nan = torch.full((SIZE - UNSEEN,), torch.nan, dtype=torch.float64)
    for _ in range(3):
        indices = torch.from_numpy(draws.permutation(SIZE - UNSEEN))
        losses, shares, margins = (torch.from_numpy(draws.random(SIZE - UNSEEN)) for _ in range(3))
        known = [shares, margins - 0.8, labels[indices], (labels[indices] + 1) % 4]
        look = torch.stack([losses, nan, *(known if logits else [nan] * 4)])
        strategy.record.add(indices, look)
    series = Series()
    series.note(3, {"ess": 0.25, "gain": 1.75, "variance_ratio": 0.5, "loss": 0.123}, lambda: times_as_often(strategy))
    columns = columns_of(strategy)
    names = {0: "<b>zero</b>", 1: "one & only"}
    return Facts(strategy, columns, series, names, hardest(columns), suspected(known_of(strategy)))


def page(given: Facts, views: Any) -> str:
    return render(given, plots(given), views, "Training has ended.")


def cards(text: str) -> list[list[tuple[int, str]]]:
    """The examples of each list, by their index."""
    lists = re.findall(r"<ol .*?</ol>", text, re.DOTALL)
    found = [re.findall(r'<li data-index="(\d+)">(.*?)</li>', one, re.DOTALL) for one in lists]
    return [[(int(index), card) for index, card in one] for one in found]


@pytest.mark.usefixtures("undrawn")
def test_the_lists_are_those_of_the_table_and_each_example_has_its_numbers():
    given = facts()
    table, ranked = given.columns, suspects_of(known_of(given.strategy))
    losses = table["smoothed_loss"].tolist()
    seen = range(SIZE - UNSEEN)
    hard = sorted(seen, key=lambda index: -losses[index])[:SHOWN]
    doubted = ranked["index"][ranked["suspected"]][:SHOWN].tolist()
    assert len(doubted) > 9
    found = cards(page(given, {}))
    assert [[index for index, _ in one] for one in found] == [hard, doubted]
    for index, card in found[0] + found[1]:
        assert f"<span>#{index}</span>" in card
        assert f"<span>loss {table['loss'][index]:.2f}</span>" in card
        assert f"<span>margin {table['margin'][index]:.2f}</span>".replace("-", "−") in card
        names = {0: "0 &lt;b&gt;zero&lt;/b&gt;", 1: "1 one &amp; only", 2: "2", 3: "3"}
        assert f"<b>{names[table['label'][index]]}</b>" in card
        assert f"or {names[table['other'][index]]}?" in card


@pytest.mark.usefixtures("undrawn")
def test_the_head_has_the_figures_in_force():
    given = facts()
    told = dict(re.findall(r"<dt>(.*?)</dt><dd><b>(.*?)</b>", page(given, {})))
    assert told == {
        "Examples": "120",
        "Batches": "3",
        "Never drawn": "16.7%",
        "Effective sample": "25%",
        "Gain": "1.75 ×",
        "Variance ratio": "0.50",
        "Loss of the data": "0.123",
    }
    assert "Uniform(replacement=False)" in page(given, {})


@pytest.mark.usefixtures("undrawn")
def test_texts_are_escaped_and_what_could_not_be_read_is_told():
    given = facts()
    first, second, third, *rest = given.hard
    script = "<script>alert(1)</script>"
    views = {first: View(text=script), second: View(error=f"OSError: {script}"), third: View()}
    text = page(given, views)
    assert script not in text
    assert "<blockquote>&lt;script&gt;alert(1)&lt;/script&gt;</blockquote>" in text
    assert "1 could not be read from the data set, at first for this: OSError: &lt;script&gt;" in text
    left = len(set(rest) | set(given.suspects) - {first, second, third})
    assert f"{left} were not read, since that took too long" in text


@pytest.mark.usefixtures("undrawn")
def test_without_pictures_texts_and_logits_the_page_says_so():
    given = facts(logits=False)
    text = page(given, dict.fromkeys(range(SIZE), View()))
    assert "neither pictures nor texts" in text
    assert "<img" not in text
    assert len(cards(text)) == 1  # the hardest, by their losses
    assert text.count("Not known") == 2  # the map and the suspects
    assert " or " not in "".join(card for _, card in cards(text)[0])


def noise(index: int) -> View:
    return view_of(torch.randint(0, 256, (3, 400, 400), generator=torch.Generator().manual_seed(index)).byte())


def full(tmp_path: Path) -> Path:
    """A page with all that it can have: large pictures, many bins."""
    given = facts(classes=40)
    listed = {*given.hard, *given.suspects}
    path = tmp_path / "report.html"
    path.write_text(page(given, {index: noise(index) for index in listed}), encoding="utf-8")
    return path


def test_with_the_worst_pictures_it_is_below_three_megabytes_and_asks_for_nothing(tmp_path: Path):
    text = full(tmp_path).read_text(encoding="utf-8")
    assert text.count('<img src="data:image/') == 2 * SHOWN
    assert len(text.encode()) <= 3e6
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|@import|<script', text)
    assert re.findall(r"url\((?!#)", text) == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_complaint_and_nothing_overflows(tmp_path: Path, width: int):
    with Page(full(tmp_path), tmp_path / "profile") as shown:
        for dark in (False, True):
            shown.show(width, dark=dark)
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            beyond = (
                "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
            )
            assert shown.evaluate(f"{beyond}.filter(e => !e.closest('svg')).map(e => e.outerHTML.slice(0, 80))") == []
            lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
            assert (shown.evaluate(lightness) < 128) is dark
        assert shown.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
        assert shown.complaints == []
