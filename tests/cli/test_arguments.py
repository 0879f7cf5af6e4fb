import re
from pathlib import Path

import pytest

from lightning_as import ConvNetClassifier, MNISTDataModule
from lightning_as.cli import AdaptiveSamplingCLI
from lightning_as.cli.arguments import check_names, check_options, presets

CALLBACK = "--trainer.callbacks"


def test_presets_are_in_the_package():
    assert {"default", "thesis", "uniform", "adam_64"} <= set(presets())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{CALLBACK}.strategy.flor=0.1"], "strategy.flor` is no option of ClosenessSampling: did you mean `floor`?"),
        ([f"{CALLBACK}.strategy.init_args.flor", "0.1"], "did you mean `floor`? It has pressure, gamma"),
        ([f"{CALLBACK}.strategy.beta=7"], "AdaptiveSampling has it, which `--trainer.callbacks.strategy=AdaptiveSampl"),
        ([f"{CALLBACK}.strategy=Uniform", f"{CALLBACK}.strategy.floor=0.1"], "Uniform: it has replacement."),
        ([f"{CALLBACK}+=lightning_as.AdaptiveSamplingCallback", f"{CALLBACK}.recomput=1"], "did you mean `recompute`?"),
    ],
)
def test_a_misspelt_option_is_answered_by_the_nearest_name(arguments: list[str], message: str):
    with pytest.raises(SystemExit, match=re.escape(message)):
        check_names(["fit", *arguments], default=True)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"{CALLBACK}.strategy.init_args={{floor: 0.1}}", f"{CALLBACK}.strategy.floor=0.1", f"{CALLBACK}.weights=none"],
        [f"{CALLBACK}+=ModelCheckpoint", f"{CALLBACK}.monitor=loss"],
        ["--config=somewhere.yaml", f"{CALLBACK}.strategy.s_start=1"],
        [f"{CALLBACK}.strategy=null", f"{CALLBACK}.strategy.help"],
        ["--config=somewhere.yaml", f"{CALLBACK}.monitor=loss"],
        [f"{CALLBACK}.strategy=not_there.Strategy", f"{CALLBACK}.strategy.beta=1"],
    ],
)
def test_what_may_be_right_is_left_to_the_parser(arguments: list[str]):
    check_names(["fit", *arguments], default=True)


def test_a_command_line_of_one_s_own_has_the_nearest_name_as_well(monkeypatch: pytest.MonkeyPatch):
    named = [f"{CALLBACK}+=AdaptiveSamplingCallback", f"{CALLBACK}.strategy.flor=0.1"]
    monkeypatch.setattr("sys.argv", ["own.py", "fit", *named])
    with pytest.raises(SystemExit, match="did you mean `floor`"):
        AdaptiveSamplingCLI(ConvNetClassifier, MNISTDataModule)
    check_names(["fit", *named[1:]])  # of some other callback, as far as is known


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [1"])
def test_a_file_that_is_no_yaml_text_is_named(content: bytes, tmp_path: Path):
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(SystemExit, match=r"settings\.yaml` is no YAML text"):
        check_options(["fit", f"--config={tmp_path / 'settings.yaml'}"])
