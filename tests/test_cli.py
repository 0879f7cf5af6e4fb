import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_as import cli
from lightning_as.strategies.cards import cards

QUICK = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mnist: Any) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lightning-as", *arguments])
        cli.main()

    return run


@pytest.mark.filterwarnings("ignore")
def test_fit_prints_the_table_and_the_other_commands_take_its_checkpoint(run: Any, capsys: Any, tmp_path: Path):
    run("fit", *QUICK)
    table = capsys.readouterr().out.strip().splitlines()[-4:]
    assert [line.split("  ")[0] for line in table] == ["training cost", "test accuracy", "distribution P", "time"]
    assert 0 < float(table[0].split()[2]) < 10
    assert len(table[2].split(":")) == 11
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    callbacks = torch.load(checkpoint)["callbacks"]
    assert callbacks["AdaptiveSamplingCallback"]["sampler"]["strategy"] == "AdaptiveSampling"
    fast = [*QUICK[-3:], f"--ckpt_path={checkpoint}"]
    for command in ("validate", "test", "predict"):
        run(command, *fast)
    run("fit", *QUICK, "--trainer.max_epochs=2", f"--ckpt_path={checkpoint}")
    assert "epochs so far: 2" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_flags_override_a_preset_and_a_second_run_in_the_folder_works(run: Any, tmp_path: Path):
    arguments = ["fit", "--config", "adam_64", *QUICK, "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    run(*arguments)
    run(*arguments, "--trainer.callbacks.strategy.beta=7", "--data.num_workers=0")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["model"]["init_args"]["optimizer"] == "adam"
    assert saved["data"]["init_args"]["batch_size"] == 64
    (callback,) = saved["trainer"]["callbacks"]
    assert callback["init_args"]["strategy"]["init_args"]["beta"] == 7
    assert saved["trainer"]["max_epochs"] == 1


@pytest.mark.filterwarnings("ignore")
def test_uniform_presets_have_no_callback_and_any_optimizer_can_be_given(run: Any, capsys: Any, tmp_path: Path):
    run("fit", "--config=uniform_adadelta_256", *QUICK, "--optimizer=SGD", "--optimizer.lr=0.01")
    assert "distribution P" not in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert "AdaptiveSamplingCallback" not in torch.load(checkpoint)["callbacks"]


def test_the_presets_are_all_there():
    grid = {
        f"{kind}{opt}_{size}" for kind in ("", "uniform_") for opt in ("adadelta", "adam") for size in (64, 256, 1024)
    }
    others = {card.preset for card in cards()} | {"annex", "distance_weighted", "robust", "uniform_with_replacement"}
    assert set(cli.presets()) == grid | others
    for name in grid:
        preset = yaml.safe_load((cli.PRESETS / f"{name}.yaml").read_text())
        assert name.endswith(f"{preset['model']['init_args']['optimizer']}_{preset['data']['init_args']['batch_size']}")
        assert bool(preset["trainer"]["callbacks"]) != name.startswith("uniform")


@pytest.mark.parametrize("name", sorted({card.preset for card in cards()} | {"annex", "distance_weighted", "robust"}))
@pytest.mark.filterwarnings("ignore")
def test_every_strategy_trains_mnist_by_its_preset(name: str, run: Any, mnist: Any, capsys: Any, tmp_path: Path):
    torch.save(torch.zeros(len(mnist["train"])), tmp_path / "irreducible_losses.pt")  # RHOLoss looks for it here
    run("fit", f"--config={name}", *QUICK)
    assert "epochs so far: 1" in capsys.readouterr().out
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0


def test_an_unknown_preset_lists_them(capsys: Any):
    for arguments in (["fit", "--config", "adam_65"], ["fit", "--config=adam_65"], ["fit", "-c", "adam_65"]):
        with pytest.raises(
            SystemExit, match=r"adam_65` is neither a file nor a preset. The presets: adadelta_1024, .*"
        ):
            cli.with_preset_paths(arguments)


def test_an_unknown_strategy_lists_them():
    flag = "--trainer.callbacks.strategy"
    for arguments in (["fit", f"{flag}=OnlineBatchSelectoin"], ["fit", flag, "OnlineBatchSelectoin"]):
        with pytest.raises(SystemExit, match=r"Selectoin` is no strategy\. The strategies: Adaptive"):
            cli.check_strategy(arguments)
    cli.check_strategy(["fit", f"{flag}=OnlineBatchSelection", f"{flag}.floor=0.1", flag, "my_package.MyStrategy"])


def test_help_names_what_lightning_cli_does_not_know(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(sys, "argv", ["lightning-as", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert all(name in said for name in ("strategies", "experiment", "report", "irreducible-losses"))


def test_a_file_goes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("adam_64").write_text("trainer: {max_epochs: 1}")
    assert cli.with_preset_paths(["fit", "--config", "adam_64"]) == ["fit", "--config", "adam_64"]


def test_python_m_is_the_same(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(sys, "argv", ["lightning_as", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lightning_as", run_name="__main__")
    assert ended.value.code == 0
    assert "fit" in capsys.readouterr().out
