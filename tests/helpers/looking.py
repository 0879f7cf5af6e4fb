"""A guard against what makes the CPU wait for a GPU: looking at the numbers of a tensor."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lightning_as.core import points

LOOKS = {
    getattr(Tensor, name)
    for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__contains__")
}
SIZED = {"_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "repeat_interleave"}


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LOOKS and sys._getframe(1).f_globals["__name__"] == points.__name__:
            with _disable_current_modes():  # at the key of a pass, which is on the CPU wherever the rest is
                return func(*args, **(kwargs or {}))
        assert func not in LOOKS, f"{func} looks at a tensor"
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        told = (kwargs or {}).get("output_size") is not None
        assert told or name not in SIZED | {"_unique2", "unique_consecutive", "unique_dim"}, (
            f"{func} has a result whose size depends on the numbers"
        )
        assert not by_mask, f"{func} indexes by a mask"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_looking() -> Iterator[None]:
    """Whatever would have to wait for a GPU, if the tensors were there, is an `AssertionError`."""
    with _Methods(), _Operators():
        yield
