from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_as import Uniform, cli
from thesis import command, grid
from thesis.grid import Arm

Rows = Callable[..., list[dict[str, str]]]
ROOT = Path(__file__).parent.parent.parent
TWO = ["--only", "adam_64", "AS", "uniform", "--device=cpu"]


def process(*arguments: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-u", str(Path(__file__).parent / "in_a_process.py")]
    return subprocess.Popen(
        [*script, "experiment", "thesis", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        # A shell's background jobs ignore Ctrl-C, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """The command in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lightning-as", "experiment", *arguments])
        cli.main()

    return run


def test_it_runs_by_its_defaults_in_a_folder_of_the_experiments_name(run: Any, tmp_path: Path, capsys: Any):
    run("thesis", *TWO, "--epochs=1", "--seeds=1", "--first-seed=4")
    said = capsys.readouterr().out
    assert "What was measured is in experiments/thesis/epochs.csv." in said
    lines = (tmp_path / "experiments" / "thesis" / "epochs.csv").read_text().splitlines()
    assert [line.split(",")[:7] for line in lines[1:]] == [
        ["thesis", arm, "adam", "64", "full", "4", epoch] for arm in ("uniform", "AS") for epoch in ("0", "1")
    ]
    options = command._parser().parse_args(["thesis"])
    assert (options.epochs, options.seeds, options.first_seed, options.device, options.threads) == (15, 3, 0, "auto", 1)


def test_a_failed_training_is_shown_at_the_end_with_exit_code_1(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
):
    def fail() -> Uniform:
        raise RuntimeError("no such law")

    with monkeypatch.context() as patch:
        patch.setitem(grid.ARMS, "uniform", Arm(fail))
        with pytest.raises(SystemExit) as ended:
            run("thesis", *TWO, "--epochs=1", "--seeds=1")
    assert ended.value.code == 1
    assert "Failed: thesis-uniform-adam_64-full-seed0: RuntimeError: no such law\n" in capsys.readouterr().out
    run("thesis", *TWO, "--epochs=1", "--seeds=1")
    assert "Failed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["thesis", "--only", "adam_65"], "`only` names 'adam_65', but there is: "),
        (["thesis", "--seeds=0"], "`seeds` must be at least 1, got 0"),
        (["thesis", "--epochs=0"], "`epochs` must be at least 1, got 0"),
        (["thesis", "--threads=0"], "`threads` must be at least 1, got 0"),
        (["thesis", "--folder=file/below"], "`folder` file/below cannot be written"),
        (["thesis", "--storage=nonsense"], "`storage` cannot be opened"),
    ],
)
def test_bad_input_ends_before_the_first_training(
    arguments: list[str], message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command.Study, "run", lambda self: pytest.fail("It trains."))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=f"^lightning-as experiment: {re.escape(message)}"):
        run(*arguments)


def test_an_unknown_experiment_lists_them(run: Any, capsys: Any):
    with pytest.raises(SystemExit):
        run("thesos")
    assert re.search("invalid choice: 'thesos'.*thesis.*grid-search.*time", capsys.readouterr().err)


def test_without_its_packages_it_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "thesis.command")
    monkeypatch.delattr("thesis.command")
    with pytest.raises(SystemExit, match=r'optuna is missing: in a checkout, pip install "\.\[experiments\]"'):
        run("thesis")


def test_a_fit_needs_no_optuna():
    code = "import lightning_as.cli, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_process_that_is_ended_and_started_again_is_the_uninterrupted_one(
    number: int, code: int, run: Any, rows: Rows, tmp_path: Path, capsys: Any
):
    arguments = ["--seeds=1", "--epochs=8", "--only", "adam_64", "AS", "--device=cpu"]
    run("thesis", *arguments, f"--folder={tmp_path / 'whole'}")
    first = process(*arguments, f"--folder={tmp_path / 'study'}")
    assert first.stdout is not None
    for line in first.stdout:
        if "epoch 3 of 8" in line:
            first.send_signal(number)
            break
    said = first.stdout.read()
    assert first.wait(60) == code, said
    capsys.readouterr()
    run("thesis", *arguments, f"--folder={tmp_path / 'study'}")
    again = capsys.readouterr().out
    assert again.startswith("thesis: 0 of 1 trainings done, 1 left")
    assert "epoch 2 of 8" not in again
    assert rows() == rows("whole")


def test_two_processes_share_a_study_and_do_no_cell_twice(rows: Rows, tmp_path: Path):
    arguments = ["--seeds=3", "--epochs=2", *TWO, f"--folder={tmp_path / 'study'}"]
    processes = [process(*arguments) for _ in range(2)]
    said = [one.communicate(timeout=120)[0] for one in processes]
    assert [one.returncode for one in processes] == [0, 0], said
    begun = Counter(re.findall(r"(\S+): epoch 1 of 2", "".join(said)))
    names = {f"thesis-{arm}-adam_64-full-seed{seed}" for arm in ("AS", "uniform") for seed in range(3)}
    assert begun == dict.fromkeys(names, 1)
    assert len(rows()) == 6 * 3
