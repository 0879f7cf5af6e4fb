"""The arguments of the command line, looked at before jsonargparse does: presets by name, what is gone or misspelt."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_as.strategies import AdaptiveSampling
from lightning_as.strategies.cards import cards

PRESETS = Path(__file__).parent.parent / "configs"
DEFAULT_PRESET = "default"
"""The preset that all others go on top of."""


_STRATEGY = "--trainer.callbacks.strategy"
DEFAULT_STRATEGY = "ClosenessSampling"
"""What samples unless something else is named."""
_GONE_PRESETS = {
    **{
        f"uniform_{setting}": f"`--config {setting} --config uniform`"
        for setting in (f"{optimizer}_{size}" for optimizer in ("adadelta", "adam") for size in (64, 256, 1024))
    },
    "uniform_with_replacement": "`--config uniform --trainer.callbacks.strategy.replacement=true`",
    "annex": "`--config thesis/configs/annex.yaml`, in a checkout of the repository,",
    "robust": "`--config thesis/configs/robust.yaml`, in a checkout of the repository,",
}
_ADAPTIVE = ("AdaptiveSampling", "lightning_as.AdaptiveSampling", "lightning_as.strategies.AdaptiveSampling")
_GONE_OPTIONS = {
    "q_update": "AdaptiveSampling moves Q where it was drawn, which was the default: leave the option out. To move all "
    "of Q there is `thesis.everywhere.EverywhereSampling`, in a checkout of the repository",
    "unseen": "it was for `q_update: all` alone: leave it out",
}


def presets() -> list[str]:
    """Names of the presets in the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def with_preset_paths(arguments: Sequence[str]) -> list[str]:
    """Replace the names of presets after ``--config`` or ``-c`` by their paths.

    Raises:
        SystemExit: If a name is neither a preset nor a file; for a preset that is gone, with what took its place.
    """
    result = list(arguments)
    for at, name in _given(arguments, "--config", "-c"):
        result[at] = result[at].removesuffix(name) + _preset_path(name)
    return result


def check_options(arguments: Sequence[str]) -> None:
    """Look for options of AdaptiveSampling that are gone, among the arguments and in configurations of older versions.

    Raises:
        SystemExit: If there is one, with what took its place.
    """
    strategy = [name for _, name in _given(arguments, _STRATEGY)] or ["AdaptiveSampling"]
    gone = [
        option for option in _GONE_OPTIONS if strategy[-1] in _ADAPTIVE and _given(arguments, f"{_STRATEGY}.{option}")
    ]
    for _, name in _given(arguments, "--config", "-c"):
        if is_file(name):
            gone += _gone_options(_read(Path(name)))
    if gone:
        sys.exit(f"lightning-as: the option `{gone[0]}` is gone: {_GONE_OPTIONS[gone[0]]}.")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        sys.exit(f"lightning-as: `--config {path}` is no YAML text: {' '.join(str(error).split())}.")


def _gone_options(config: Any) -> list[str]:
    """The options that are gone of every AdaptiveSampling in a configuration, however deep."""
    if isinstance(config, list):
        return [option for part in config for option in _gone_options(part)]
    if not isinstance(config, dict):
        return []
    given = config.get("init_args") if config.get("class_path") in _ADAPTIVE else None
    own = [option for option in _GONE_OPTIONS if isinstance(given, dict) and option in given]
    return own + _gone_options(list(config.values()))


def check_strategy(arguments: Sequence[str]) -> None:
    """Look at the name of a strategy before jsonargparse does, whose message does not tell the names.

    Raises:
        SystemExit: If a name after ``--trainer.callbacks.strategy`` is neither one of a strategy nor a path to a class.
    """
    known = [card.name for card in cards()]
    for _, name in _given(arguments, _STRATEGY):
        if name.isidentifier() and name not in (*known, "null"):
            sys.exit(f"lightning-as: `{_STRATEGY}={name}` is no strategy. The strategies: {', '.join(known)}.")


def check_names(arguments: Sequence[str], default: bool = False) -> None:
    """Look for misspelt options of the callback and of its strategy, where the arguments tell which these are.

    Args:
        arguments: Those of the command line.
        default: Whether the callback and the strategy are the default's where nothing else is named. Default: False.

    Raises:
        SystemExit: If there is one, with the nearest name and all others.
    """
    flags = ("--trainer.callbacks", "--trainer.callbacks+")
    callbacks = sorted(found for flag in flags for found in _given(arguments, flag))
    default = default and not callbacks and not _given(arguments, "--config", "-c")  # which may name others
    ours = [name.rpartition(".")[2] == "AdaptiveSamplingCallback" for _, name in callbacks]
    if all(ours) and (ours or default):
        _check_names(arguments, "--trainer.callbacks", "AdaptiveSamplingCallback")
    named = [name for _, name in _given(arguments, _STRATEGY) if name != "null"]
    if named or default or (ours and all(ours)):
        _check_names(arguments, _STRATEGY, named[-1] if named else DEFAULT_STRATEGY)


def _check_names(arguments: Sequence[str], flag: str, class_path: str) -> None:
    """Raise if an option after a flag is none of a class, which is known by its path, or if it is ours by its name."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module or "lightning_as"), name)).parameters
    except (AttributeError, ImportError, TypeError, ValueError):
        return  # no path of a class, which the parser says
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in arguments:
        given = argument.partition("=")[0]
        option = given.removeprefix(f"{flag}.").removeprefix("init_args.").partition(".")[0]
        if given.startswith(f"{flag}.") and option not in (*parameters, "class_path", "init_args", "help"):
            nearest = get_close_matches(option, parameters, 1)
            hint = f"did you mean `{nearest[0]}`? It" if nearest else "it"
            if name == DEFAULT_STRATEGY and option in inspect.signature(AdaptiveSampling).parameters:
                hint = f"AdaptiveSampling has it, which `{_STRATEGY}=AdaptiveSampling` names. {name}"
            sys.exit(f"lightning-as: `{given}` is no option of {name}: {hint} has {', '.join(parameters) or 'none'}.")


def _given(arguments: Sequence[str], *flags: str) -> list[tuple[int, str]]:
    """Where among the arguments the values of a flag are, and the values: ``--flag value`` or ``--flag=value``."""
    found = [(at + 1, value) for at, (flag, value) in enumerate(pairwise(arguments)) if flag in flags]
    for at, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals and flag in flags:
            found.append((at, value))
    return found


def _preset_path(name: str) -> str:
    if is_file(name) or ":" in name:  # a YAML text
        return name
    if name in _GONE_PRESETS:
        sys.exit(f"lightning-as: the preset `{name}` is gone: {_GONE_PRESETS[name]} took its place.")
    if name not in presets():
        sys.exit(
            f"lightning-as: `--config {name}` is neither a file nor a preset. The presets: {', '.join(presets())}."
        )
    return str(PRESETS / f"{name}.yaml")


def is_file(name: str) -> bool:
    """Whether a name is that of a file."""
    try:
        return Path(name).is_file()
    except OSError:  # a YAML text is too long for a name
        return False
