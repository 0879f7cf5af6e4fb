import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.synthetic import row, write
from thesis import grid, study
from thesis.__main__ import main

ROOT = Path(__file__).parents[2]
TWO = ["--only", "adam_64", "AS", "uniform", "--device=cpu"]


def process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "tests.helpers.in_a_process", "run", "thesis", *arguments]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A shell's background jobs ignore Ctrl-C, and hand that down.
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


def refused(arguments: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_runs_in_a_folder_of_the_studys_name_and_tells_of_what_failed(monkeypatch: Any, rows: Any, capsys: Any):
    arguments = ["run", "thesis", *TWO, "--epochs=1", "--seeds=1", "--first-seed=4"]
    with monkeypatch.context() as patch:
        patch.delitem(grid.ARMS, "uniform")
        with pytest.raises(SystemExit, match="1"):
            main(arguments)
    said = capsys.readouterr().out
    assert "thesis: 1 of 2 trainings done, 1 failed, 0 left\n" in said
    assert "Failed: thesis-uniform-adam_64-full-seed4: KeyError: 'uniform'\n" in said
    main(arguments)
    said = capsys.readouterr().out
    assert "What was measured is in experiments/thesis/epochs.csv." in said
    assert "Failed" not in said
    assert [(row["arm"], row["seed"]) for row in rows("experiments/thesis")] == [("uniform", "4")] * 2 + [
        ("AS", "4")
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "thesis", "--only", "adam_65"], "`only` names 'adam_65', but there is: "),
        (["run", "thesis", "--threads=0"], "`threads` must be at least 1, got 0"),
        (["run", "thesis", "--processes=0"], "`processes` must be at least 1, got 0"),
        (["run", "thesis", "--epochs=0"], "`epochs` must be at least 1, got 0"),
        (["run", "thesis", "--storage=sqlite:///study.db"], "`storage` is gone: processes share a `folder`"),
        (["run", "thesos"], "invalid choice: 'thesos'.*thesis.*grid-search.*time"),
        (["report", "novel"], "invalid choice: 'novel'"),
        (["report"], r'is not installed: in a checkout, pip install "\.\[thesis\]"'),
    ],
)
def test_bad_input_ends_before_the_first_training(arguments: Any, message: str, monkeypatch: Any, capsys: Any):
    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("It trains."))
    monkeypatch.setitem(sys.modules, "thesis.report", None)
    assert re.search(message, refused(arguments, capsys))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_ended_and_started_again_it_is_the_uninterrupted_one(number, code, rows: Any, tmp_path: Path, capsys: Any):
    arguments = ["--seeds=1", "--epochs=8", "--only", "adam_64", "AS", "--device=cpu"]
    main(["run", "thesis", *arguments, f"--folder={tmp_path / 'whole'}"])
    first = process(*arguments, f"--folder={tmp_path / 'study'}")
    assert any("epoch 3 of 8" in line for line in first.stdout)
    first.send_signal(number)
    said = first.stdout.read()
    assert first.wait(300) == code, said
    capsys.readouterr()
    main(["run", "thesis", *arguments, f"--folder={tmp_path / 'study'}"])
    assert "epoch 2 of 8" not in capsys.readouterr().out
    assert rows() == rows("whole")


@pytest.mark.slow
def test_two_processes_of_one_command_share_a_study_and_do_no_cell_twice(rows: Any, tmp_path: Path):
    one = process("--seeds=3", "--epochs=2", *TWO, "--processes=2", f"--folder={tmp_path / 'study'}")
    said = one.communicate(timeout=600)[0]
    assert (one.returncode, said.count("What was measured is in")) == (0, 2), said
    begun = Counter(re.findall(r"(\S+): epoch 1 of 2", said))
    assert (len(begun), set(begun.values()), len(rows())) == (6, {1}, 6 * 3)


@pytest.mark.slow
def test_if_the_first_of_several_processes_is_told_to_stop_all_do(tmp_path: Path):
    stopped = process("--seeds=1", "--epochs=200", *TWO, "--processes=2", f"--folder={tmp_path / 'study'}")
    begun = set[str]()
    for line in stopped.stdout:
        begun |= set(re.findall(r"(\S+): epoch 1 of 200", line))
        if len(begun) == 2:
            break
    stopped.send_signal(signal.SIGTERM)
    assert stopped.communicate(timeout=600)[0].count("Stopped.") == 2  # its output ends when the other one does
    assert stopped.returncode == 130


def test_reports_of_the_published_results_are_in_their_place_and_others_elsewhere(monkeypatch: Any, capsys: Any):
    monkeypatch.setattr("thesis.report.png", lambda figure: b"")
    results = Path("benchmarks/results")
    write(results / "thesis" / "epochs.csv", [row(experiment="grid-search", delta_p=0.9, delta_q=0.1, seed=1)])
    write(results / "time" / "epochs.csv", [row(experiment="time", arm="uniform"), row(experiment="time", seed=1)])
    mine = write(results / "thesis" / "report" / "mine.csv", [row()])
    main(["report"])
    assert {mine.name, "report.md"} < {path.name for path in mine.parent.iterdir()}
    assert "| Adadelta 256 | AS |" in (results / "evidence" / "tables.md").read_text()
    said = "The report of 3 runs is in benchmarks/results/thesis/report.\n"
    said += "The report of 3 runs is in benchmarks/results/evidence.\ndocs/evidence.md is made of them.\n"
    assert capsys.readouterr().out == said
    assert Path("docs/evidence.md").read_text().startswith("# The evidence\n")
    own = ["--results", str(results / "thesis"), str(results / "time" / "epochs.csv")]
    for output in ([], ["--output", "one"]):
        main(["report", "evidence", *own, *output])
    main(["report", *own, "--output", "both"])
    one, *others = (Path(of) / "tables.md" for of in ("one", "both/evidence", "experiments/report/evidence"))
    assert [other.read_text() for other in others] == [one.read_text()] * 2
    assert Path("both/thesis/report.md").is_file()


def test_a_report_that_cannot_be_made_or_written_is_refused(tmp_path: Path, monkeypatch: Any, capsys: Any):
    results, other = write(tmp_path / "epochs.csv", [row()]), write(tmp_path / "other.csv", [row(experiment="time")])
    assert "there is no file benchmarks/results" in refused(["report"], capsys)
    for file, message in ((tmp_path / "nowhere", "no file"), (other, "no trained run")):
        assert message in refused(["report", "thesis", "--results", str(file), "--output", "out"], capsys)
    monkeypatch.setattr("thesis.report.thesis_report", lambda tables: pytest.fail("was made"))
    arguments = ["report", "thesis", "--results", str(results), "--output"]
    for output in (results, results / "below"):
        assert f"{results} is not a folder that can be written to" in refused([*arguments, str(output)], capsys)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as of a read-only folder; root may write anywhere
    assert ". is not a folder that can be written to" in refused([*arguments, "out"], capsys)
    assert not (tmp_path / "out").exists()
