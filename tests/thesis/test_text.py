import math

import pytest

from thesis.comparison import Estimate, Ratio
from thesis.text import as_text, interval, markdown_table


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (3.84e-5, "3.8e-5"), (0.0123, "0.012"), (17e2, "1.7e3"), (123.4, "120"), (1.0, "1"),
     (-0.251, "-0.25"), (math.inf, "not finite"), (math.nan, "not finite"), (2e-10, "2e-10")],
)  # fmt: skip
def test_numbers_as_text(value: float | None, text: str):
    assert as_text(value) == text


def test_an_interval_or_why_there_is_none():
    assert interval(Estimate(0.5, 0.25, 1.0, 3)) == "0.5 [0.25, 1]"
    assert interval(Estimate(0.5, None, None, 1)) == "0.5 (one run)"
    assert interval(Estimate(None, None, None, 0)) == "not run"
    assert interval(Ratio(None, None, None, 2, True, "a cost is not finite")) == "undefined: a cost is not finite"
    assert interval(Ratio(None, None, None, 0, True, "no runs")) == "not run"


def test_a_table():
    assert markdown_table(["a", "b"], [["1", "2"], ["3", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
