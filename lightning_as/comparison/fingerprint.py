"""Whether two runs were of the same setting: what can be seen of the parts of a run, as a short checksum.

Seen are options, layers with their weights, optimizers, schedules and data; the code of functions and methods is not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset

from lightning_as.core.state import checksums
from lightning_as.data.fingerprint import fingerprint as fingerprint_of_data

_DEPTH = 12  # of what lies in each other; an object is described once, so that this is not dear
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_NAMES = (torch.dtype, torch.device, torch.layout, torch.memory_format)  # known by what they print
# Handles count up over all that a process has hooked; a Trainer has its folder, and its options are looked at anyway.
_CHANGING = (Trainer, torch.utils.hooks.RemovableHandle)


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits, equal for parts that look equal in every process."""
    return hashlib.sha256(describe(parts).encode()).hexdigest()[:12]


def describe(value: Any) -> str:
    """A text of what a value holds, without anything that is another in the next process.

    Args:
        value: Options, a module, a callback, a strategy, an optimizer, …
    """
    return _Describer().describe(value, _DEPTH)


def describe_dataset(dataset: Any) -> str:
    """A text of what a data set holds, and of what it and the data sets in it do with a sample: transforms, options."""
    inside, options = [dataset], []
    for one in inside:  # which grows
        own = getattr(one, "__dict__", {})
        options.append({name: part for name, part in own.items() if _is_option(name, part)})
        inside += [part for part in (own.get("dataset"), *(own.get("datasets") or ())) if part is not None]
    return describe((fingerprint_of_data(dataset), options))


def _is_option(name: str, value: object) -> bool:
    path = isinstance(value, str) and ("/" in value or "\\" in value)  # where data lie makes no other data of them
    return (isinstance(value, _PLAIN) and not path) or callable(value) or "transform" in name


class _Describer:
    """Describes what it meets, and each object once."""

    def __init__(self) -> None:
        self._met = dict[int, Any]()  # which keeps them, so that none takes the place of another

    def describe(self, value: Any, depth: int) -> str:
        """The text of a value, looking so far into objects in objects."""
        text = _simple(value)
        if text is not None:
            return text
        if isinstance(value, functools.partial):
            return f"partial {self.describe((value.func, value.args, value.keywords), depth)}"
        if depth == 0:
            return _name(type(value))
        if isinstance(value, Mapping):
            parts = [f"{self.describe(key, depth - 1)}: {self.describe(value[key], depth - 1)}" for key in value]
            return f"{{{', '.join(sorted(parts))}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self.describe(part, depth - 1) for part in value)}]"
        if isinstance(value, (set, frozenset)):
            return f"{{{', '.join(sorted(self.describe(part, depth - 1) for part in value))}}}"
        if isinstance(value, np.ndarray):  # of objects
            return f"array {value.shape} {self.describe(value.ravel().tolist(), depth - 1)}"
        if isinstance(value, Dataset):
            return f"{_name(type(value))} {fingerprint_of_data(value)}"
        if id(value) in self._met:
            return f"again {_name(type(value))}"
        self._met[id(value)] = value
        if isinstance(value, nn.Module):
            return self._module(value, depth - 1)
        return f"{_name(type(value))} {self.describe(_open(value), depth - 1)}"

    def _module(self, module: nn.Module, depth: int) -> str:
        """Layer by layer: its class and its attributes; and all parameters and buffers, and whether each is trained."""
        machinery = _machinery()
        layers: list[str] = []
        for name, layer in module.named_modules():
            self._met[id(layer)] = layer
            own = {name: part for name, part in _attributes(layer).items() if name not in machinery}
            layers.append(f"{name} {_name(type(layer))} {self.describe(own, depth)}")
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            layers.append(f"{name} {tensor.requires_grad} {_simple(tensor)}")
        return "; ".join(layers)


def _simple(value: Any) -> str | None:
    """The text of what has no parts that would have to be described; None for others."""
    if isinstance(value, Enum):  # before integers, which it may be one of
        return f"{_name(type(value))} {value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (PurePath, *_NAMES)):
        return str(value)
    if isinstance(value, np.generic):
        return f"{value.dtype} {value.tolist()!r}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return _name(value)
    if isinstance(value, _CHANGING):
        return _name(type(value))
    if not _has_attributes(value) and not isinstance(value, (Mapping, list, tuple, set, frozenset, np.ndarray)):
        text = repr(value)
        return _name(type(value)) if " at 0x" in text else f"{_name(type(value))} {text}"
    return None


def _tensor(value: Tensor) -> str:
    if is_lazy(value):
        return "Tensor to be made"
    value = value.detach()
    if value.layout is not torch.strided or value.device.type == "meta" or value.is_quantized:
        return f"Tensor {value.dtype} {tuple(value.shape)}"
    return f"Tensor {checksums(value.resolve_conj().resolve_neg())}"


@functools.cache
def _machinery() -> frozenset[str]:
    """The attributes in which every module keeps its parts, hooks, and what it is attached to."""
    return frozenset(vars(LightningModule())) - {"training", "_automatic_optimization"}


def _open(value: object) -> dict[str, Any]:
    """The attributes; of what is ours those that are not private, since these are not its options."""
    ours = type(value).__module__.partition(".")[0] == "lightning_as"
    return {name: part for name, part in _attributes(value).items() if not (ours and name.startswith("_"))}


def _attributes(value: object) -> dict[str, Any]:
    """What an object has of its own, in a dict or in slots; of torch's inside nothing, such as a compiler's numbers."""
    if type(value).__module__.startswith("torch._"):
        return {}
    slots = [slot for base in type(value).__mro__ for slot in getattr(base, "__slots__", ()) if slot != "__dict__"]
    found = {slot: getattr(value, slot) for slot in slots if isinstance(slot, str) and hasattr(value, slot)}
    found |= getattr(value, "__dict__", {})
    return {name: part for name, part in found.items() if not name.startswith("_torchdynamo")}


def _has_attributes(value: object) -> bool:
    return hasattr(value, "__dict__") or bool(_attributes(value))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
