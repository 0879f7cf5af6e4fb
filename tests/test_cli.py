import inspect
import itertools
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
import yaml

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, CIFAR10DataModule, cli
from lightning_as.cli.arguments import presets
from lightning_as.strategies.cards import cards

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
QUICK = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=2", *QUIET]
UNKEPT = ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
NO_PRESET = "adam_65` is neither a file nor a preset. The presets: adadelta_1024, .*"
NO_STRATEGY = r"Selectoin` is no strategy\. The strategies: Adaptive"
FLAG = "--trainer.callbacks.strategy"
OURS = "{class_path: AdaptiveSamplingCallback, init_args: {strategy: {class_path: AdaptiveSampling}}}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mnist: Any, capsys: Any) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lightning-as", *arguments])
        if {"--print_config", "--help"} & set(arguments):
            with pytest.raises(SystemExit, match="0"):
                runpy.run_module("lightning_as", run_name="__main__")
        else:
            cli.main()
        return capsys.readouterr().out

    return run


def settings(run: Callable[..., str], *arguments: str) -> tuple[Any, ...]:
    """Options of the callback and the strategy that a command would use; optimizer, batch size and epochs."""
    whole = yaml.safe_load(run("fit", *arguments, "--print_config"))
    (callback,) = (one["init_args"] for one in whole["trainer"]["callbacks"])
    of_all = (whole["model"]["init_args"]["optimizer"], whole["data"]["init_args"]["batch_size"])
    return callback, callback.pop("strategy"), (*of_all, whole["trainer"]["max_epochs"])


def test_fit_prints_the_table_and_the_other_commands_take_its_checkpoint(run: Any, tmp_path: Path):
    table = run("fit", *QUICK).strip().splitlines()[-4:]
    assert [line.split("  ")[0] for line in table] == ["training cost", "test accuracy", "distribution P", "time"]
    assert 0 < float(table[0].split()[2]) < 10
    assert len(table[2].split(":")) == 11
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint)["callbacks"]["AdaptiveSamplingCallback"]
    assert state["sampler"]["strategy"] == "ClosenessSampling"
    for command in ("validate", "test", "predict"):
        run(command, *QUIET, f"--ckpt_path={checkpoint}")
    assert "epochs so far: 2" in run("fit", *QUICK, "--trainer.max_epochs=2", f"--ckpt_path={checkpoint}")


def test_without_a_preset_it_starts_what_python_starts(run: Any):
    callback, strategy, of_all = settings(run)
    python = AdaptiveSamplingCallback().strategy
    options = {name: getattr(python, name) for name in inspect.signature(type(python)).parameters}
    assert strategy == {"class_path": "lightning_as.ClosenessSampling", "init_args": options}
    defaults = inspect.signature(AdaptiveSamplingCallback).parameters
    assert callback == {name: defaults[name].default for name in defaults if name != "strategy"}
    assert of_all == ("adadelta", 256, 5)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([f"{FLAG}=AdaptiveSampling"], {}),
        (["--trainer.callbacks.init_args.strategy.class_path=AdaptiveSampling"], {}),
        (["--trainer.callbacks", f"[{OURS}]"], {}),
        (["--config=thesis", "--trainer.callbacks", f"[{OURS}]"], {"floor": 0.0, "points": "independent"}),
        (
            ["--config=closeness", "--config=thesis", f"{FLAG}.beta=7"],
            {"floor": 0.0, "points": "independent", "beta": 7},
        ),
    ],
)
def test_a_strategy_in_the_default_s_place_keeps_none_of_its_options(run: Any, arguments: list[str], options: Any):
    _, strategy, _ = settings(run, *arguments)
    defaults = {name: one.default for name, one in inspect.signature(AdaptiveSampling).parameters.items()}
    assert strategy == {"class_path": "lightning_as.AdaptiveSampling", "init_args": {**defaults, **options}}


def test_paths_in_a_configuration_are_relative_to_it(run: Any, tmp_path: Path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "data.yaml").write_text(
        "{class_path: lightning_as.MNISTDataModule, init_args: {batch_size: 7}}"
    )
    (tmp_path / "conf" / "own.yaml").write_text(f"{{data: data.yaml, trainer: {{callbacks: [{OURS}]}}}}")
    _, strategy, (_, batch_size, _) = settings(run, "--config=conf/own.yaml")
    assert (batch_size, strategy["init_args"]["score"]) == (7, "loss")


def test_presets_compose_and_flags_override_them(run: Any, tmp_path: Path):
    _, strategy, of_all = settings(run, "--config=adam_64", "-c", "uniform")
    assert strategy == {"class_path": "lightning_as.Uniform", "init_args": {"replacement": False}}
    assert of_all == ("adam", 64, 5)
    arguments = ["fit", "--config", "adam_64", *QUICK, *UNKEPT, "--optimizer=SGD", "--optimizer.lr=0.01"]
    run(*arguments)
    run(*arguments, f"{FLAG}.beta=7", "--data.num_workers=0")  # a second run in the folder
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["optimizer"]["class_path"] == "torch.optim.SGD"
    options = saved["trainer"]["callbacks"][0]["init_args"]["strategy"]["init_args"]
    assert (options["beta"], options["floor"]) == (7, 0.0)
    assert "distribution P" not in run(*arguments, f"{FLAG}=UpperBoundImportanceSampling")


@pytest.mark.parametrize(
    ("given", "score"),
    [
        ('{"0": "loss", "0.5": "gradient"}', {"0": "loss", "0.5": "gradient"}),  # JSON has no keys but strings
        ("{0: loss, 0.5: gradient}", {0: "loss", 0.5: "gradient"}),
        ("[loss, closeness]", ["loss", "closeness"]),
    ],
)
def test_a_score_that_changes_is_told_in_json_or_yaml(run: Any, tmp_path: Path, given: str, score: Any):
    strategy = f"{{class_path: lightning_as.AdaptiveSampling, init_args: {{score: {given}}}}}"
    callback = f"{{class_path: lightning_as.AdaptiveSamplingCallback, init_args: {{strategy: {strategy}}}}}"
    (tmp_path / "own.yaml").write_text(f"trainer: {{callbacks: [{callback}]}}")
    for arguments in ([f"{FLAG}=AdaptiveSampling", f"{FLAG}.score={given}"], ["--config=own.yaml"]):
        whole = yaml.safe_load(run("fit", *arguments, "--print_config"))
        options = whole["trainer"]["callbacks"][0]["init_args"]["strategy"]["init_args"]
        assert options["score"] == score
    run("fit", *QUICK, *UNKEPT, f"{FLAG}=AdaptiveSampling", f"{FLAG}.score={given}")


def test_a_report_is_added_by_a_flag(run: Any, tmp_path: Path):
    report = ["--trainer.callbacks+=SamplingReport", "--trainer.callbacks.path=page.html"]
    run("fit", *QUICK, *UNKEPT, f"{FLAG}=GopalSampling", *report)
    assert "What GopalSampling drew" in (tmp_path / "page.html").read_text()


def test_the_presets_are_all_there():
    names = {card.preset for card in cards() if card.preset} | {"default", "distance_weighted", "cifar10"}
    for optimizer, size in itertools.product(("adadelta", "adam"), (64, 256, 1024)):
        names.add(f"{optimizer}_{size}")
        preset = yaml.safe_load((cli.PRESETS / f"{optimizer}_{size}.yaml").read_text())
        assert preset["model"]["init_args"] == {"optimizer": optimizer}
        assert preset["data"]["init_args"] == {"batch_size": size}
        assert preset["trainer"] == yaml.safe_load((cli.PRESETS / "thesis.yaml").read_text())["trainer"]
    assert set(presets()) == names


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({card.preset for card in cards() if card.preset} | {"distance_weighted"}))
def test_every_method_trains_mnist_by_its_preset(name: str, run: Any, mnist: Any, tmp_path: Path):
    torch.save(torch.zeros(len(mnist["train"])), tmp_path / "irreducible_losses.pt")  # RHOLoss looks for it here
    assert "epochs so far: 1" in run("fit", f"--config={name}", *QUICK, *UNKEPT)
    assert (cli.PRESETS / f"{name}.yaml").read_text().startswith("# ")


def test_colour_images_are_trained_by_their_preset(run: Any, monkeypatch: pytest.MonkeyPatch):
    def load(self: CIFAR10DataModule, part: str) -> Any:
        return self.normalised(torch.randint(256, (40, 32, 32, 3)).byte(), torch.arange(40) % 10)

    small = ["--model.width=2", "--model.blocks=1", "--data.batch_size=10"]
    with monkeypatch.context() as patch:
        patch.setattr(CIFAR10DataModule, "prepare_data", lambda self: None)
        patch.setattr(CIFAR10DataModule, "load", load)
        table = run("fit", "--config=cifar10", *small, *QUICK, *UNKEPT)
    assert all(name in table for name in ("training cost", "test accuracy", "distribution P"))
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network")))
    with pytest.raises(FileNotFoundError, match=r"Put cifar-10-python.tar.gz, .* into elsewhere: `prepare_data` takes"):
        run("fit", "--config=cifar10", "--data.data_dir=elsewhere", *small, *QUICK, *UNKEPT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[(["fit", *bad], NO_PRESET) for bad in (["--config", "adam_65"], ["--config=adam_65"], ["-c", "adam_65"])],
        (["fit", "--config=uniform_adam_64"], "gone: `--config adam_64 --config uniform` took its place"),
        (["fit", "--config=uniform_with_replacement"], "gone: `--config uniform .*replacement=true` took its place"),
        (["fit", "--config=annex"], "gone: `--config thesis/configs/annex.yaml`, in a checkout of"),
        (["experiment", "thesis"], "gone: `python -m thesis run STUDY`, in a checkout .* took its place"),
        (["report"], "`report` is gone: `python -m thesis report`, in a checkout .* took its place"),
        (["fit", f"{FLAG}.q_update=drawn"], "`q_update` is gone: .* leave the option out. .* `thesis.everywhere.Every"),
        (["fit", f"{FLAG}.unseen", "mean"], "`unseen` is gone: it was for `q_update: all` alone: leave it out"),
        (["fit", "--config=saved.yaml"], "`q_update` is gone"),
        *[(["fit", *bad], NO_STRATEGY) for bad in ([f"{FLAG}=BatchSelectoin"], [FLAG, "BatchSelectoin"])],
    ],
)
def test_what_is_not_there_or_gone(arguments: list[str], message: str, run: Any):
    Path("saved.yaml").write_text("class_path: lightning_as.AdaptiveSampling\ninit_args:\n  q_update: drawn\n")
    with pytest.raises(SystemExit, match=message):
        run(*arguments)


def test_what_is_no_mistake_passes_and_help_names_all_commands(run: Any):
    Path("adam_64").write_text("trainer: {max_epochs: 1}")  # a file goes before a preset
    arguments = ["fit", "--config", "adam_64", "-c", "trainer: {max_epochs: 1}" + 300 * " "]
    assert cli.with_preset_paths(arguments) == arguments
    Path("own.yaml").write_text("a: {class_path: lightning_as.AdaptiveSampling, init_args: {beta: 1}}\nunseen: 3\n")
    other = [f"{FLAG}=thesis.everywhere.EverywhereSampling", f"{FLAG}.unseen=mean"]  # what is gone is another class's
    for passes in (arguments, ["fit", "--config=own.yaml", *other]):
        cli.check_options(passes)
    cli.check_strategy([f"{FLAG}=OnlineBatchSelection", f"{FLAG}.floor=0.1", FLAG, "my_package.MyStrategy"])
    said = run("--help")
    assert all(name in said for name in ("strategies", "irreducible-losses", "fit"))
