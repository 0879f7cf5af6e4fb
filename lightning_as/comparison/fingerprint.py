"""Whether two runs were of the same setting: what can be seen of the parts of a run, as a short checksum.

Seen are options, layers, optimizers, schedules and data; the code of functions and methods is not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import Tensor, nn

from lightning_as.core.state import checksums

_DEPTH = 5  # of objects in each other
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits, equal for parts that look equal in every process."""
    return hashlib.sha256(describe(parts).encode()).hexdigest()[:12]


def describe(value: Any, depth: int = _DEPTH) -> str:
    """A text of what a value holds, without anything that is another in the next process.

    Args:
        value: Options, a module, a callback, a strategy, an optimizer, …
        depth: How far to look into objects in objects.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Tensor):
        return f"Tensor {checksums(value.detach())}"
    if isinstance(value, functools.partial):
        return f"partial {describe((value.func, value.args, value.keywords), depth)}"
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return _name(value)
    if depth == 0:
        return _name(type(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key!r}: {describe(part, depth - 1)}' for key, part in value.items()))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(describe(part, depth - 1) for part in value)}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(describe(part, depth - 1) for part in value))}}}"
    if isinstance(value, nn.Module):
        return _module(value, depth - 1)
    return f"{_name(type(value))} {describe(_open(value), depth - 1)}"


def _module(module: nn.Module, depth: int) -> str:
    """Layer by layer: its class and its plain attributes, and the shapes of what is trained."""
    layers = [
        (name, type(layer), {k: v for k, v in _open(layer).items() if _is_plain(v)})
        for name, layer in module.named_modules()
    ]
    shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]
    return describe((layers, shapes), depth + 2)


def _open(value: object) -> dict[str, Any]:
    """The attributes that are not private."""
    return {name: part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
