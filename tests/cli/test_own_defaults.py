import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_as import strategies
from lightning_as.cli.arguments import DEFAULT_STRATEGY, PRESETS, presets
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
    for given in ([f"{FLAG}={path}{name}"], [FLAG, path + name], [f"{FLAG}.class_path={path}{name}"]):
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
    first, second, flag = with_own_defaults([thesis, thesis, f"{FLAG}=AdaptiveSampling"], DEFAULT_STRATEGY)
    options = {**shared("AdaptiveSampling", DEFAULT_STRATEGY), "floor": 0.0, "points": "independent"}
    assert strategy_of(yaml.safe_load(first.removeprefix("--config=")))["init_args"] == options
    assert options["score"] == "loss"
    assert (second, flag) == (thesis, f"{FLAG}=AdaptiveSampling")
    given = f'{FLAG}={{"class_path": "ClosenessSampling", "init_args": {{"floor": 0.5}}}}'
    back = json.loads(with_own_defaults([thesis, given], DEFAULT_STRATEGY)[1].partition("=")[2])
    assert back["init_args"] == {**shared("ClosenessSampling", "AdaptiveSampling"), "floor": 0.5}


@pytest.mark.parametrize("preset", presets())
def test_a_preset_says_all_else_as_before(preset: str, tmp_path: Path):
    path = PRESETS / f"{preset}.yaml"
    (told,) = with_own_defaults([f"-c={path}"], DEFAULT_STRATEGY)
    before = yaml.safe_load(path.read_text())
    after = before if told == f"-c={path}" else yaml.safe_load(told.removeprefix("-c="))
    if after is not before:
        own, new = strategy_of(before), strategy_of(after)
        assert own["class_path"] == new["class_path"]
        assert (own.get("init_args") or {}).items() <= new.pop("init_args").items()
        own.pop("init_args", None)
    assert after == before


@pytest.mark.parametrize("given", ["not_there.yaml", "a: [1", "{}", "trainer: {callbacks: [{class_path: Other}]}"])
def test_what_names_no_strategy_is_left_to_the_parser(given: str):
    arguments = [f"--config={given}", FLAG, "null", f"{FLAG}=not_there.Strategy", "--config"]
    told = with_own_defaults(arguments, DEFAULT_STRATEGY)
    assert told[:3] == arguments[:3]
    assert told[-1] == "--config"
