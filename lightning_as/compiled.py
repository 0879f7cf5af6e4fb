"""Whether the compiled loops of :mod:`lightning_as.kernels` and `law_kernels` are used: the extra ``fast``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

available: bool = find_spec("numba") is not None
"""Whether numba compiles what is slow in torch on the CPU. If you set it to False, also where numba is installed, sum
trees that are made from then on, and all gradient bounds, are left to torch."""


def in_use(device: torch.device) -> bool:
    """Whether what lies on a device is left to the compiled loops."""
    return available and device.type == "cpu"


@cache
def kernels() -> ModuleType:
    """The loops, which are loaded, and numba with them, at the first call."""
    return import_module("lightning_as.kernels")


@cache
def law_kernels() -> ModuleType:
    """Those of the two levels of the law."""
    return import_module("lightning_as.law_kernels")
