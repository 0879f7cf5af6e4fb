import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_as import cli
from lightning_as.cli.compare import check_strategies
from lightning_as.comparison.results import Results

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=2"]
QUICK += ["--trainer.accelerator=cpu", "--data.batch_size=64"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mnist: Any, capsys: Any) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lightning-as", "compare", *arguments])
        cli.main()
        return capsys.readouterr().out

    return run


def test_it_compares_on_the_configuration_of_fit(run: Any, tmp_path: Path):
    obs = "{class_path: OnlineBatchSelection, init_args: {s_start: 50}}"
    given = ["--config=adam_64", *QUICK, "--strategies", "ClosenessSampling", obs, "--seeds", "0", "1", "--out=found"]
    said = run(*given, "--optimizer=SGD", "--optimizer.lr=0.01")
    lines = said.strip().splitlines()
    assert lines[-2].startswith("ClosenessSampling ")
    assert lines[-1].startswith("OnlineBatchSelection(s_start=50.0) ")
    assert all("uniform sampling at equal time: " in line and "points of val/accuracy" in line for line in lines[-2:])
    assert (tmp_path / "found" / "report.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["found"]  # no logs, no checkpoints
    runs = Results(tmp_path / "found").runs
    assert {run.trial.steps for run in runs if run.budget == "steps"} == {4}
    assert {run.rival for run in runs} == {"uniform", "ClosenessSampling", "OnlineBatchSelection(s_start=50.0)"}
    assert len(runs) == len(set(run[:3] for run in runs))
    run(*given, "--optimizer=SGD", "--optimizer.lr=0.01")
    assert Results(tmp_path / "found").runs == runs
    run(*given, "--optimizer=SGD", "--optimizer.lr=0.02")
    assert len(Results(tmp_path / "found").runs) > len(runs)


def test_a_configuration_that_fit_saved_serves_and_the_strategy_is_that_of_its_callback(run: Any, tmp_path: Path):
    saved = {"seed_everything": 3, "ckpt_path": None, "trainer": {"logger": True, "max_epochs": 1}}
    saved["trainer"]["callbacks"] = [
        {
            "class_path": "lightning_as.AdaptiveSamplingCallback",
            "init_args": {"strategy": {"class_path": "lightning_as.Uniform", "init_args": {"replacement": True}}},
        }
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    said = run("--config=config.yaml", *QUICK, "--seeds", "4", "--monitor=val/loss")
    assert said.strip().splitlines()[-1].startswith("One seed says little: Uniform(replacement=True) less uniform")
    assert "of val/loss." in said
    with pytest.raises(SystemExit, match="begins with initial weights: leave `ckpt_path` out"):
        run("--config=config.yaml", *QUICK, "--ckpt_path=some.ckpt")


def test_one_that_is_broken_off_ends_with_a_line(run: Any, monkeypatch: pytest.MonkeyPatch):
    def broken_off(*_: Any) -> None:
        raise KeyboardInterrupt("2 runs are there.")

    monkeypatch.setattr("lightning_as.cli.compare.compare", broken_off)
    with pytest.raises(SystemExit, match=r"lightning-as: 2 runs are there\."):
        run(*QUICK)


def test_a_name_that_is_none_is_answered_by_the_nearest():
    check_strategies(["--strategies", "ClosenessSampling", "my.Strategy", "{class_path: X}", "--seeds", "Closeness"])
    for given in (["--strategies", "Uniform", "ClosenesSampling"], ["--strategies=ClosenesSampling"]):
        with pytest.raises(SystemExit, match=r"`--strategies ClosenesSampling` is no strategy: did you mean `Closene"):
            check_strategies(given)
