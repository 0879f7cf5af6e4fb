"""A number that tells data sets apart by what they hold, without loading a sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

_ROWS, _FEW = 1024, 16  # entries of a list or tensor, and of what is in each of them, evenly spread
_DEPTH = 6  # of what lies in each other
_KEYS = 64  # a mapping with more is no table but a look-up, or a cache
_TELLING = re.compile("fold|split|shard|part|task|domain|phase|seed|file|path")  # names of what tells data apart


def fingerprint(dataset: Any) -> int:
    """A number from what a data set holds: equal for equal content, and hardly ever equal for other.

    Counted are its type and length, and a sample of the tensors, arrays, tables and lists that it and the data sets in
    it hold, such as the positions of a `Subset`; of paths the last two parts, so that a folder may move; of a data set
    of Hugging Face's its own fingerprint. Single numbers and strings are counted under a name that says so, such as
    `fold`, `split`, `seed` or `path`, of which the last part. Not counted are others, transforms, other objects, and
    whatever is called a cache, or is a list with gaps to be filled.

    Args:
        dataset: Any map-style data set.

    Returns:
        An integer from 1 to 2 ** 56.
    """
    digest = hashlib.blake2b(digest_size=7)
    _Reader(digest.update).read(dataset, _DEPTH, _ROWS)
    return int.from_bytes(digest.digest(), "big") + 1


class _Reader:
    """Tells what it reads, piece by piece; what lies in itself it reads once."""

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._seen = dict[int, Any]()

    def read(self, value: Any, depth: int, rows: int) -> None:
        """Tell what a value is, if it is of a kind that counts, from so many of its entries."""
        if isinstance(value, Tensor):
            self._tensor(value, rows)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufcSUMm":
            self._array(value, rows)
        elif isinstance(value, (list, tuple, range, np.ndarray)):
            self._list(value, depth, rows)
        elif hasattr(value, "iloc"):  # a table of pandas, or a column of one
            self._say(type(value).__name__, len(value), *getattr(value, "columns", ()))
            self._entries(np.asarray(value.iloc[_spread(len(value), rows)]).ravel().tolist(), depth)
        elif depth and id(value) not in self._seen:
            self._seen[id(value)] = value
            if isinstance(value, Mapping):
                self._mapping(value, depth)
            elif isinstance(value, Dataset) or (_holds_samples(value) and not callable(value)):
                self._dataset(value, depth)

    def _dataset(self, dataset: Any, depth: int) -> None:
        self._say(type(dataset).__qualname__, len(dataset) if hasattr(dataset, "__len__") else "")
        if isinstance(its_own := getattr(dataset, "_fingerprint", None), str):
            self._say(its_own)
            return
        attributes: dict[str, Any] = getattr(dataset, "__dict__", {})
        for name in sorted(attributes):
            value = attributes[name]
            if isinstance(value, (int, str, PurePath)):
                if _TELLING.search(name.lower()):
                    self._say(name, value if isinstance(value, int) else PurePath(value).name)
            elif "cache" not in name.lower():
                self.read(value, depth - 1, _ROWS)

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> None:
        if len(mapping) <= _KEYS and all(isinstance(key, str) for key in mapping):
            for key in sorted(mapping):
                self._say(key)
                self.read(mapping[key], depth - 1, _ROWS)

    def _list(self, values: Any, depth: int, rows: int) -> None:
        self._say(len(values))
        chosen = [values[at] for at in _spread(len(values), rows)]
        numbers = np.asarray(chosen) if chosen and isinstance(chosen[0], (int, float)) else None
        if numbers is not None and numbers.dtype.kind in "biuf":
            self._tell(numbers.tobytes())
        else:
            self._entries(chosen, depth)

    def _entries(self, entries: list[Any], depth: int) -> None:
        if any(entry is None for entry in entries):
            return
        for entry in entries:
            if isinstance(entry, (str, PurePath)):
                self._say(*PurePath(entry).parts[-2:])
            elif isinstance(entry, (int, float, bytes, np.generic)):
                self._say(entry)
            elif depth:
                self.read(entry, depth - 1, _FEW)

    def _tensor(self, tensor: Tensor, rows: int) -> None:
        self._say(tensor.dtype, *tensor.shape)
        if tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel():
            chosen = tuple(torch.from_numpy(places) for places in _grid(tensor.shape, rows))
            part = tensor.detach()[chosen].cpu().contiguous()
            self._tell(part.view(-1).view(torch.uint8).numpy().tobytes())

    def _array(self, array: npt.NDArray[Any], rows: int) -> None:
        self._say(array.dtype, *array.shape)
        if array.size:
            self._tell(array[_grid(array.shape, rows)].tobytes())

    def _say(self, *words: Any) -> None:
        self._tell("".join(f"{word}\0" for word in words).encode(errors="surrogatepass"))


def _grid(shape: Sequence[int], rows: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices of some places that are spread over a tensor of that shape, without a copy of more."""
    few = max(2, round(_FEW ** (1 / max(1, len(shape) - 1))))
    return np.ix_(*(_spread(size, few if axis else rows) for axis, size in enumerate(shape)))


def _spread(size: int, count: int) -> npt.NDArray[np.int64]:
    """Up to `count` positions from the first to the last of `size`."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(np.int64)


def _holds_samples(value: Any) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and hasattr(value, "__dict__")
