from pathlib import Path

import pytest

from tests.helpers.synthetic import cell, row, tables
from thesis import report
from thesis.report import evidence_report, thesis_report
from thesis.results import read
from thesis.tables import Tables

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_published_tables_are_what_the_published_results_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "png", lambda figure: b"")
    published = Tables(read(sorted(RESULTS.glob("*/epochs.csv"))))
    for make, folder in ((thesis_report, RESULTS / "thesis" / "report"), (evidence_report, RESULTS / "evidence")):
        made = make(published)
        assert set(made) == {path.name for path in folder.iterdir()}
        for name, content in made.items():
            if not name.endswith(".png"):
                assert content.decode() == (folder / name).read_text(), name


def test_what_the_runs_allow_is_made():
    rows = [*cell(seeds=2), row(experiment="grid-search", delta_p=0.9, delta_q=0.1)]
    files = thesis_report(tables(rows))
    shown = ["training_cost.png", *(f"figure_{name}.png" for name in (15, 20, "20_median", 22, 27))]
    assert {name for name in files if name.endswith(".png")} == set(shown)
    assert all(files[name].startswith(b"\x89PNG") for name in shown)
    with pytest.raises(ValueError, match=r"no trained run .* but of \['time'\]"):
        thesis_report(tables([row(experiment="time")]))
    files = evidence_report(tables([row(experiment="ablation", data="noisy_10")]))  # without uniform sampling
    assert "question_4.csv" in files
    assert "question_4.png" not in files


def test_what_was_not_run_or_is_undefined_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "png", lambda figure: b"")
    found = tables(cell(arms=("AS", "uniform"), seeds=1))
    page = thesis_report(found)["report.md"].decode()
    for line in (
        "| Adadelta | 256 | 1 run of 15 epochs | not run | 1 run of 15 epochs |",
        "**Not run: Adadelta, batch 64, AS; Adadelta, batch 64, OBS;",
        "| 256 | AS / OBS | mean | 0.2 | not run | open | – | – |",
        "| 256 | AS / uniform | mean | 9.02e-5 | 1e-4 (one run) | open | 1 pair | 15 |",
        "| 14 | Adadelta 64 | the costs are alike | – | – | – | 0 of 0 | open | – |",
        "*Figure 13: not run.*",
    ):
        assert line in page
    assert "*Figure 20: not run.*" not in page
    page = evidence_report(found)["tables.md"].decode()
    assert page.count("*Not run.*") == 3  # questions 2, 3 and 7
    assert "| training cost 1e-3 | Adadelta 256 | uniform | not reached | – | 0 of 1 |" in page
