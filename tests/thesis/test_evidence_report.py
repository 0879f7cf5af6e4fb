from pathlib import Path

from tests.helpers.synthetic import cell, row, write
from thesis.evidence_report import evidence_report
from thesis.results import read


def test_everything_that_the_runs_allow_is_made(tmp_path: Path):
    rows = cell() + cell("adam", 64)
    rows += [r | {"experiment": "weights", "arm": "AS_weighted"} for r in cell(arms=("AS",))]
    files = evidence_report(read([write(tmp_path / "epochs.csv", rows)]))
    assert {name for name in files if name.endswith(".png")} == {f"question_{number}.png" for number in range(1, 7)}
    assert {name for name in files if name.endswith(".csv")} == {
        *(f"question_{number}.csv" for number in range(1, 7)),
        "question_3_default.csv",
    }
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith(".png"))
    assert b"*Not run.*" not in files["tables.md"]


def test_parts_without_uniform_sampling_have_no_figure(tmp_path: Path):
    rows = [row(experiment="ablation", data="noisy_10", epoch=epoch) for epoch in (0, 1)]
    files = evidence_report(read([write(tmp_path / "epochs.csv", rows)]))
    assert "question_4.csv" in files
    assert "question_4.png" not in files


def test_what_was_not_run_is_said(tmp_path: Path):
    rows = [row(experiment="mends", arm="AS_floor", epoch=epoch, seed=100) for epoch in (0, 1)]
    files = evidence_report(read([write(tmp_path / "epochs.csv", rows)]))
    assert not any(name.endswith(".png") for name in files)
    assert files["tables.md"].decode().count("*Not run.*") == 6
