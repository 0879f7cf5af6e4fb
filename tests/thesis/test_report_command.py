import builtins
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_as import cli
from tests.helpers.synthetic import cell, row, write
from thesis.report_command import main


def test_the_command_writes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    rows = [row(experiment="grid-search", delta_p=0.9, delta_q=0.1, seed=seed) for seed in range(3)]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "experiments" / "thesis" / "epochs.csv", rows)
    monkeypatch.setattr(sys, "argv", ["lightning-as", "report", "thesis"])
    cli.main()
    assert (tmp_path / "experiments" / "report" / "thesis" / "report.md").is_file()
    assert "The report of 3 runs is in experiments/report/thesis." in capsys.readouterr().out


def test_the_evidence_is_of_all_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    for experiment in ("time", "weights"):
        rows = [row(experiment=experiment, arm="uniform" if experiment == "time" else "AS")]
        write(tmp_path / "experiments" / experiment / "epochs.csv", rows)
    main(["evidence"])
    assert "The report of 2 runs is in experiments/report/evidence." in capsys.readouterr().out
    assert "| Adadelta 256 | AS |" in (tmp_path / "experiments" / "report" / "evidence" / "tables.md").read_text()


def refused(arguments: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_bad_results_end_with_a_message_and_without_a_folder(tmp_path: Path, capsys: Any):
    output = tmp_path / "out"
    wrong = write(tmp_path / "wrong.csv", [{"a": 1}])
    other = write(tmp_path / "other.csv", [row(experiment="time")])
    for results, message in (
        (tmp_path / "nowhere", "there is no file"),
        (wrong, "missing ['experiment'"),
        (other, "no trained run"),
    ):
        assert message in refused(["thesis", "--results", str(results), "--output", str(output)], capsys)
        assert not output.exists()
    assert "invalid choice: 'novel'" in refused(["novel"], capsys)


def test_an_output_that_cannot_be_written_to_is_said_before_anything_is_made(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    results = write(tmp_path / "epochs.csv", cell(seeds=1, epochs=1))
    monkeypatch.setattr("thesis.report.report", lambda runs: pytest.fail("was made"))
    for output in (results, results / "below"):
        assert f"{results} is not a folder that can be written to" in refused(
            ["thesis", "--results", str(results), "--output", str(output)], capsys
        )
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as of a read-only folder; root may write anywhere
    arguments = ["thesis", "--results", str(results), "--output", str(tmp_path / "report")]
    assert f"{tmp_path} is not a folder that can be written to" in refused(arguments, capsys)
    assert not (tmp_path / "report").exists()


def test_without_the_extra_the_command_names_it(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    there = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "thesis.report":
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert 'scipy is not installed: in a checkout, pip install ".[experiments]"' in refused(["thesis"], capsys)
