import math
from pathlib import Path

import pytest

from lightning_as.comparison import report
from lightning_as.comparison.outcome import outcomes
from lightning_as.comparison.report import figure, table, write_report
from tests.comparison.test_outcome import ACCURACY, LOSS, runs

RUNS = {
    ("uniform", "steps"): runs("uniform", "steps", 0.90, 0.95),
    ("OBS", "steps"): runs("OBS", "steps", 0.92, 0.94),
    ("OBS", "time"): runs("OBS", "time", 0.91, 0.93),
}
ROWS = outcomes(RUNS, ACCURACY, "uniform")
TABLE = """
| rival   | at equal | steps | seconds | val/accuracy, % | difference from uniform |
| ------- | -------- | ----- | ------- | --------------- | ----------------------- |
| uniform |          | 100   | 11.1    | 92.50           |                         |
| OBS     | steps    | 100   | 11.1    | 93.00           | +0.50 ± 19.06           |
| OBS     | time     | 100   | 11.1    | 92.00           | −0.50 ± 19.06           |
"""


def test_the_table_is_markdown_and_text():
    assert table(ROWS, ACCURACY) == TABLE.strip()
    odd = [row._replace(value=math.nan, differences=row.differences and (math.nan,), seconds=1234.5) for row in ROWS]
    assert (
        table(odd, LOSS).splitlines()[-1]
        == "| OBS     | time     | 100   | 1234.5  | –        | –                       |"
    )


def test_the_report_has_all_there_is(tmp_path: Path):
    missing = write_report(tmp_path, ROWS, "Yes.\nNo.", ACCURACY, RUNS, ["A note."])
    page = (tmp_path / "report.md").read_text()
    assert missing is None
    for part in (
        "**Yes.**\n\n**No.**",
        TABLE.strip(),
        "(compare.png)",
        "A note.",
        "| OBS | time | 91.00 (100) | 93.00 (101) |",
    ):
        assert part in page
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_shows_each_seed_and_the_interval():
    (axes,) = figure(ROWS, ACCURACY).axes
    seeds = [line.get_ydata() for line in axes.get_lines() if line.get_marker() == "o"]
    assert [list(each) for each in seeds] == [pytest.approx([2.0, -1.0]), pytest.approx([1.0, -2.0])]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["OBS"]
    assert axes.get_legend_handles_labels()[1] == ["at equal steps", "at equal time"]
    assert "up is better" in axes.get_ylabel()
    one_seed = [row._replace(differences=row.differences[:1]) for row in ROWS]
    assert "down is better" in figure(one_seed, LOSS).axes[0].get_ylabel()


def test_without_matplotlib_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    missing = write_report(tmp_path, ROWS, "No.", ACCURACY, RUNS, [])
    assert missing is not None
    assert 'pip install "lightning-as[compare]"' in missing
    assert missing in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "compare.png").exists()
