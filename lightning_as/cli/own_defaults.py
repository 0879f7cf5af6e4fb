"""A strategy that takes another one's place keeps none of its options.

jsonargparse, where a class takes another one's place, lets the new one have what the old one had under the same names,
its defaults too: AdaptiveSampling would get the score of the default strategy. So the options that both have are
written out, with the new one's own defaults, wherever the class changes along the arguments.

A file stays as it is, since paths in it are relative to it; behind it stands a text of no more than these options.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_as.cli.arguments import is_file

_CALLBACKS = ("trainer", "callbacks")
_STRATEGY = "--trainer.callbacks.strategy"
_STRATEGIES = [
    f"--trainer.callbacks{init}.strategy{path}" for init in ("", ".init_args") for path in ("", ".class_path")
]
_CONFIGS = ("--config", "-c")
_PARTS = ("--trainer", "--trainer.callbacks", "--trainer.callbacks+")


def with_own_defaults(arguments: Sequence[str], before: str) -> list[str]:
    """The arguments, where each that names another strategy than was named before it is told more.

    Args:
        arguments: Those of the command line, with the paths of presets.
        before: The strategy that there is without any.
    """
    result, at = list(arguments), 0
    while at < len(result):
        flag, equals, value = result[at].partition("=")
        end = at + (1 if equals else 2)
        if flag in (*_STRATEGIES, *_CONFIGS, *_PARTS) and end <= len(result):
            value = value if equals else result[at + 1]
            try:
                if flag in _STRATEGIES:
                    told, before = _of_strategy(value, before)
                    result[at:end] = told or result[at:end]
                else:
                    told, before = _of_config(value if flag in _CONFIGS else {flag.removeprefix("--"): value}, before)
                    result[end:end] = told
                    at += len(told)
            except (OSError, UnicodeDecodeError, yaml.YAMLError):
                pass  # which the parser says
        at += 1
    return result


class _Part(NamedTuple):
    """A part of a configuration."""

    value: Any
    folder: Path
    """What paths in it are relative to."""

    def opened(self) -> _Part:
        """What a text holds, or the file of that name."""
        if not isinstance(self.value, str):
            return self
        path = self.folder / self.value
        if is_file(str(path)):
            return _Part(yaml.safe_load(path.read_text("utf-8")), path.parent)
        return _Part(yaml.safe_load(self.value), self.folder)

    def of_class(self) -> _Part:
        """The same of a class, which may be given by its name alone."""
        value, folder = self.opened()
        return _Part({"class_path": value} if isinstance(value, str) else value, folder)


def _of_strategy(value: str, before: str) -> tuple[list[str], str]:
    """What a flag is to say instead of its value, if anything; and what strategy there is then."""
    given = _Part(value, Path()).of_class().value
    if not _has_class(given) or _name(given) == before:
        return [], before
    filled = {**given, "init_args": _shared(given, before) | (given.get("init_args") or {})}
    return [f"{_STRATEGY}={json.dumps(filled)}"], _name(given)


def _of_config(config: Any, before: str) -> tuple[list[str], str]:
    """What is to stand behind a configuration, if anything; and what strategy there is then."""
    result: list[str] = []
    for path, callbacks in _callbacks(_Part(config, Path())):
        told, before = _of_callbacks(callbacks, before)
        if told and path[-1] == "callbacks" and isinstance(callbacks.value, list):  # what else there is begins anew
            nested: Any = told
            for key in reversed(path):
                nested = {key: nested}
            result.append(f"--config={yaml.safe_dump(nested, sort_keys=False)}")
    return result, before


def _callbacks(config: _Part, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], _Part]]:
    """The callbacks in a configuration, which may be one of a subcommand, with their place."""
    opened, folder = config.opened()
    for key, value in opened.items() if isinstance(opened, Mapping) else ():
        at, part = (*path, *str(key).split(".")), _Part(value, folder)
        if (*at[-2:-1], at[-1].rstrip("+")) == _CALLBACKS:
            yield at, part.opened()
        elif at[-1] == "trainer" or (len(at) == 1 and isinstance(value, Mapping)):
            yield from _callbacks(part, at)


def _of_callbacks(callbacks: _Part, before: str) -> tuple[list[Any], str]:
    """What is to be said of callbacks behind them: their classes, and own defaults; nothing if no strategy changes."""
    value, folder = callbacks
    result, changed = list[Any](), False
    for one in value if isinstance(value, list) else [value]:
        given, inside = _Part(one, folder).of_class()
        if not _has_class(given):
            result.append(given)
            continue
        result.append({"class_path": given["class_path"]})
        options = given.get("init_args")
        if given["class_path"].rpartition(".")[2] != "AdaptiveSamplingCallback" or not isinstance(options, Mapping):
            continue
        strategy = _Part(options.get("strategy"), inside).of_class().value
        if _has_class(strategy):
            if _name(strategy) != before:
                own, changed = {**strategy, "init_args": _shared(strategy, before)}, True
                result[-1]["init_args"] = {"strategy": own}
            before = _name(strategy)
    return result if changed else [], before


def _has_class(given: Any) -> bool:
    return isinstance(given, Mapping) and isinstance(given.get("class_path"), str)


def _shared(given: Mapping[str, Any], before: str) -> dict[str, Any]:
    """The options of a strategy that the one before has as well: as they were given, or its own defaults."""
    own, others, options = _defaults(given["class_path"]), _defaults(before), given.get("init_args") or {}
    return {
        name: options.get(name, value)
        for name, value in own.items()
        if name in others and (name in options or value is not inspect.Parameter.empty)
    }


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
