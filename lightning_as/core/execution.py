"""Who draws and learns: compiled loops on the CPU, torch on other devices."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def loops(device: torch.device) -> ModuleType | None:
    """The compiled loops, :mod:`lightning_as.core.compiled`, for what lies on the CPU; None where torch takes over.

    The first call loads numba, in about half a second; each loop is compiled once on a machine, all in some five.
    """
    return _compiled() if device.type == "cpu" else None


class Viewing:
    """Has numpy's views of its tensors, which the loops take, made once: a dozen of them cost a step some 20 µs."""

    _views: tuple[Any, ...] | None = None

    def views(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The views of tensors of its own on the CPU, always the same ones, none of which is ever replaced."""
        if self._views is None:
            self._views = tuple(tensor.numpy() for tensor in tensors)
        return self._views

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_views": None}  # which see the tensors of this one, not those of a copy


@cache
def _compiled() -> ModuleType | None:
    """The loops, or None and a warning on a machine on which numba cannot compile."""
    try:
        module = import_module("lightning_as.core.compiled")
        module.check()
    except Exception as error:  # of numba, of LLVM, of the file system: whatever it is, torch can do without
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(
            f"numba cannot compile on this machine ({reason}), so that torch draws and learns instead: the results are "
            "the same, a training step takes some hundredths longer. Reinstall numba and numpy to fix it.",
            stacklevel=3,
        )
        return None
    return module
