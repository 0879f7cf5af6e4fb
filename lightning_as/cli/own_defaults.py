"""A strategy that takes another one's place keeps none of its options.

jsonargparse, where a class takes another one's place, lets the new one have what the old one had under the same names,
its defaults too: AdaptiveSampling would get the score of the default strategy. So the options that both have are
written out, with the new one's own defaults, wherever the class changes along the arguments.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_as.cli.arguments import is_file

_FLAGS = ("--trainer.callbacks.strategy", "--trainer.callbacks.strategy.class_path")
_CONFIG = ("--config", "-c")


def with_own_defaults(arguments: Sequence[str], before: str) -> list[str]:
    """The arguments, in each of which that names another strategy than was named before it that is told more.

    Args:
        arguments: Those of the command line, with the paths of presets.
        before: The strategy that there is without any.
    """
    result, at = list(arguments), 0
    while at < len(result):
        flag, equals, value = result[at].partition("=")
        if flag in (*_FLAGS, *_CONFIG) and (equals or at + 1 < len(result)):
            value = value if equals else result[at + 1]
            told, before = (_config if flag in _CONFIG else _strategy)(value, before)
            if told is not None:
                result[at : at + (1 if equals else 2)] = [f"{flag if flag in _CONFIG else _FLAGS[0]}={told}"]
        at += 1
    return result


def _strategy(value: str, before: str) -> tuple[str | None, str]:
    """What a flag is to say instead of its value, None for the same; and what strategy there is then."""
    try:
        given = yaml.safe_load(value)
    except yaml.YAMLError:
        return None, before  # which the parser says
    given = {"class_path": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or "class_path" not in given or _name(given) == before:
        return None, before
    return json.dumps(_filled(given, before)), _name(given)


def _config(value: str, before: str) -> tuple[str | None, str]:
    """The same of a configuration, which is a file or a YAML text."""
    try:
        config = yaml.safe_load(value if ":" in value and not is_file(value) else Path(value).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None, before  # which the parser says
    changed = False
    for options in _callbacks(config):
        given = options.get("strategy")
        given = {"class_path": given} if isinstance(given, str) else given
        if isinstance(given, dict) and isinstance(given.get("class_path"), str):
            if _name(given) != before:
                options["strategy"], changed = _filled(given, before), True
            before = _name(given)
    return (yaml.safe_dump(config, sort_keys=False) if changed else None), before


def _callbacks(config: Any) -> Iterator[dict[str, Any]]:
    """The options of each AdaptiveSamplingCallback in a configuration, however deep."""
    if isinstance(config, dict):
        path, options = config.get("class_path"), config.get("init_args")
        if str(path).rpartition(".")[2] == "AdaptiveSamplingCallback" and isinstance(options, dict):
            yield options
    for part in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _callbacks(part)


def _filled(given: Mapping[str, Any], before: str) -> dict[str, Any]:
    """A strategy with its own defaults for the options that the one before has as well."""
    own, others = _defaults(str(given["class_path"])), _defaults(before)
    shared = {name: value for name, value in own.items() if name in others and value is not inspect.Parameter.empty}
    return {**given, "init_args": shared | (given.get("init_args") or {})}


def _defaults(class_path: str) -> dict[str, Any]:
    """The default of each option of a strategy, which is known by its name or path; none if it is unknown."""
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "lightning_as"), name)
        parameters = inspect.signature(found).parameters.values()
    except (AttributeError, ImportError, TypeError, ValueError):
        return {}
    return {parameter.name: parameter.default for parameter in parameters}


def _name(given: Mapping[str, Any]) -> str:
    """The path of a strategy's class; one of ours by its name alone."""
    module, _, name = str(given["class_path"]).rpartition(".")
    return name if module.partition(".")[0] in ("", "lightning_as") else str(given["class_path"])
