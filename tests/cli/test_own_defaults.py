import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_as import strategies
from lightning_as.cli.arguments import DEFAULT_STRATEGY, PRESETS
from lightning_as.cli.own_defaults import with_own_defaults

FLAG = "--trainer.callbacks.strategy"
NAMES = sorted(name for name in strategies.__all__ if name.endswith(("Sampling", "Selection")))


def shared(name: str, other: str) -> dict[str, Any]:
    """The defaults of the options that both have, of the first."""
    own, others = (inspect.signature(getattr(strategies, one)).parameters for one in (name, other))
    return {option: own[option].default for option in own if option in others}


def strategy_of(config: Any) -> Any:
    return config["trainer"]["callbacks"][-1]["init_args"]["strategy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ["", "lightning_as.", "lightning_as.strategies."])
def test_another_strategy_has_its_own_defaults_for_what_both_have(name: str, path: str):
    flags = [f"--trainer.callbacks{init}.strategy{way}" for init in ("", ".init_args") for way in ("", ".class_path")]
    for given in ([FLAG, path + name], *([f"{flag}={path}{name}"] for flag in flags)):
        told = with_own_defaults(["fit", *given, f"{FLAG}.a=1"], DEFAULT_STRATEGY)
        if name == DEFAULT_STRATEGY:
            assert told == ["fit", *given, f"{FLAG}.a=1"]
            continue
        assert (told[0], told[2]) == ("fit", f"{FLAG}.a=1")
        flag, _, value = told[1].partition("=")
        assert flag == FLAG
        expected = {"class_path": path + name, "init_args": shared(name, DEFAULT_STRATEGY)}
        assert json.loads(value) == json.loads(json.dumps(expected))


def test_what_is_told_stays_and_only_a_change_counts():
    thesis = f"--config={PRESETS / 'thesis.yaml'}"
    first, behind, second, flag = with_own_defaults([thesis, thesis, f"{FLAG}=AdaptiveSampling"], DEFAULT_STRATEGY)
    options = strategy_of(yaml.safe_load(behind.removeprefix("--config=")))["init_args"]
    assert options == {**shared("AdaptiveSampling", DEFAULT_STRATEGY), "floor": 0.0, "points": "independent"}
    assert options["score"] == "loss"
    assert (first, second, flag) == (thesis, thesis, f"{FLAG}=AdaptiveSampling")
    given = f'{FLAG}={{"class_path": "ClosenessSampling", "init_args": {{"floor": 0.5}}}}'
    back = json.loads(with_own_defaults([thesis, given], DEFAULT_STRATEGY)[2].partition("=")[2])
    assert back["init_args"] == {**shared("ClosenessSampling", "AdaptiveSampling"), "floor": 0.5}


STRATEGY = {"class_path": "AdaptiveSampling"}
OURS = {
    "class_path": "lightning_as.AdaptiveSamplingCallback",
    "init_args": {"logits_from": "net", "strategy": STRATEGY},
}
OTHER = {"class_path": "EarlyStopping", "init_args": {"monitor": "x"}}


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({"config": {"trainer": {"callbacks": [OTHER, OURS]}}}, ("trainer", "callbacks")),
        ({"config": {"trainer.callbacks": [OTHER, OURS]}}, ("trainer", "callbacks")),
        ({"config": {"fit": {"trainer": {"callbacks": [OTHER, OURS]}}}}, ("fit", "trainer", "callbacks")),
        ({"config": {"trainer": "more.yaml"}, "more": {"callbacks": [OTHER, OURS]}}, ("trainer", "callbacks")),
        ({"config": {"trainer": {"callbacks": "more.yaml"}}, "more": [OTHER, OURS]}, ("trainer", "callbacks")),
        (
            {"config": {"trainer": {"callbacks": ["EarlyStopping", "more.yaml"]}}, "more": OURS},
            ("trainer", "callbacks"),
        ),
    ],
)
def test_a_configuration_stays_a_file_and_what_is_behind_it_says_own_defaults_alone(
    files: Any, path: Any, tmp_path: Path
):
    for name, part in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(part))
    given = [f"--config={tmp_path / 'config.yaml'}", "--data.a=1"]
    first, behind, last = with_own_defaults(given, DEFAULT_STRATEGY)
    assert [first, last] == given
    told = yaml.safe_load(behind.removeprefix("--config="))
    for key in path:
        told = told[key]
    strategy = {**STRATEGY, "init_args": shared("AdaptiveSampling", DEFAULT_STRATEGY)}
    assert told == [
        {"class_path": "EarlyStopping"},
        {"class_path": OURS["class_path"], "init_args": {"strategy": strategy}},
    ]


def test_callbacks_that_begin_anew_are_told_nothing_but_count():
    for flag, value in (("--trainer.callbacks", json.dumps(OURS)), ("--trainer.callbacks+", json.dumps([OURS]))):
        given = [flag, value, f"{FLAG}=AdaptiveSampling"]
        assert with_own_defaults(given, DEFAULT_STRATEGY) == given


@pytest.mark.parametrize("given", ["not_there.yaml", "a: [1", "{}", "trainer: {callbacks: [{class_path: Other}]}"])
def test_what_names_no_strategy_is_left_to_the_parser(given: str):
    arguments = [f"--config={given}", FLAG, "null", f"{FLAG}=not_there.Strategy", "--config"]
    told = with_own_defaults(arguments, DEFAULT_STRATEGY)
    assert told[:3] == arguments[:3]
    assert told[-1] == "--config"
