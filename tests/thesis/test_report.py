import io
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.synthetic import cell, row, runs_of
from thesis import report
from thesis.report import evidence_report, figures, thesis_report, write
from thesis.results import read
from thesis.tables import Tables

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_published_tables_are_what_the_published_results_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "png", lambda figure: b"")
    tables = Tables(read(sorted(RESULTS.glob("*/epochs.csv"))))
    for made, folder in (
        (thesis_report(tables), RESULTS / "thesis" / "report"),
        (evidence_report(tables), RESULTS / "evidence"),
    ):
        assert set(made) == {path.name for path in folder.iterdir()}
        for name, content in made.items():
            if not name.endswith(".png"):
                assert content.decode() == (folder / name).read_text(), name


def test_what_the_runs_allow_is_made_and_what_was_not_run_is_said():
    rows = [*cell(seeds=2), row(experiment="grid-search", delta_p=0.9, delta_q=0.1)]
    files = thesis_report(Tables(runs_of(rows)))
    shown = [f"figure_{name}.png" for name in (15, 20, "20_median", 22, 27)]
    assert [name for name in files if name.endswith(".png")] == [*shown, "training_cost.png"]
    for name in shown:
        assert Image.open(io.BytesIO(files[name])).size[0] > 600
        assert len(files[name]) < 150_000
        assert f"]({name})" in files["report.md"].decode()
    assert "figure_13.png" in figures(Tables(runs_of([r | {"batch_size": 64} for r in rows])))
    files = evidence_report(Tables(runs_of([row(experiment="mends", arm="AS_floor", seed=100)])))
    assert set(files) == {"tables.md", "question_3_default.csv"}
    assert files["tables.md"].decode().count("*Not run.*") == 6
    files = evidence_report(Tables(runs_of([row(experiment="ablation", data="noisy_10")])))  # without uniform sampling
    assert "question_4.csv" in files
    assert "question_4.png" not in files
    with pytest.raises(ValueError, match=r"no trained run .* but of \['time'\]"):
        thesis_report(Tables(runs_of([row(experiment="time")])))


def test_writing_replaces_and_leaves_the_rest(tmp_path: Path):
    folder = tmp_path / "new" / "report"
    write({"a": b"1", "b": b"2"}, folder)
    (folder / "mine").write_text("3")
    write({"a": b"4"}, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "4", "b": "2", "mine": "3"}
