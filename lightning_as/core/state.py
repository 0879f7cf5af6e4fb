"""Saved states that are taken over whole or not at all: their layout, their numbers, a checksum of each part.

A state is nested dicts and lists of tensors, numbers, strings and None. A part of it is named by its path, such as
``strategy_state.inside.leaves``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_REMEDY = (
    "Load another checkpoint, or start a new training, if you like from this one's weights by `load_from_checkpoint`."
)


def damaged(what: str) -> ValueError:
    """The error that says what is wrong with a state that was to be loaded, and what to do."""
    return ValueError(f"The state to load is damaged: {what}. {_REMEDY}")


def require(condition: Tensor | bool, what: str) -> None:
    """Raise that a state is :func:`damaged` unless a condition holds."""
    if not bool(condition):
        raise damaged(what)


def require_indices(name: str, indices: Any, count: int) -> None:
    """Raise that a state is :func:`damaged` unless it is (M,) integers from 0 to `count` - 1."""
    fits = isinstance(indices, Tensor) and indices.dtype in (torch.int32, torch.int64) and indices.dim() == 1
    require(fits, f"`{name}` is not a list of numbers")
    if len(indices):
        smallest, largest = (int(end) for end in indices.aminmax())
        require(smallest >= 0 and largest < count, f"`{name}` has {smallest} … {largest}, not numbers below {count}")


def checksums(state: Any) -> dict[str, int]:
    """The CRC-32 of each part of a state, by its path."""
    return {path: _checksum(part) for path, part in _parts(state)}


def check_sums(state: Any, sums: object) -> None:
    """Raise that a state is :func:`damaged` unless its parts have the checksums that were saved with it."""
    found = checksums(state)
    require(isinstance(sums, dict), "its `checksums` are gone")
    assert isinstance(sums, dict)
    missing, strange = sorted(sums.keys() - found.keys()), sorted(found.keys() - sums.keys())
    require(not missing, f"`{', '.join(missing[:3])}` is missing")
    require(not strange, f"`{', '.join(strange[:3])}` does not belong there")
    for path, value in found.items():
        require(value == sums[path], f"`{path}` is not what was saved (its checksum is another one)")


def check_layout(state: Any, like: Any, path: str = "state") -> None:
    """Raise that a state is :func:`damaged` unless it has the layout of another one, and finite numbers.

    Keys, types and shapes must be equal. A tensor without entries and an empty list stand for any number of them, None
    for anything. Counts must not be negative, and NaN and infinity are only where the other has them as well. Strings
    are options, and must be equal.

    Args:
        state: The state, or a part of it.
        like: What it should look like: that of the same object before it has learned anything.
        path: The name of the part. Default: the whole.

    Raises:
        ValueError: If something is wrong.
    """
    if isinstance(like, dict):
        require(isinstance(state, dict), f"`{path}` is a {type(state).__name__}, not a dict")
        for key, part in like.items():  # options first: another one explains all the rest
            if isinstance(part, str) and key in state:
                _check_plain(state[key], part, f"{path}.{key}")
        for key in like.keys() | state.keys():
            require(key in state, f"`{path}.{key}` is missing")
            require(key in like, f"`{path}.{key}` does not belong there")
            check_layout(state[key], like[key], f"{path}.{key}")
    elif isinstance(like, list):
        require(isinstance(state, list), f"`{path}` is a {type(state).__name__}, not a list")
        require(not like or len(state) == len(like), f"`{path}` has {len(state)} entries, not {len(like)}")
        for at, part in enumerate(like):
            check_layout(state[at], part, f"{path}.{at}")
    elif isinstance(like, Tensor):
        _check_tensor(state, like, path)
    elif like is not None:
        _check_plain(state, like, path)


def _check_tensor(found: Any, like: Tensor, path: str) -> None:
    require(isinstance(found, Tensor), f"`{path}` is a {type(found).__name__}, not a tensor")
    require(found.dtype == like.dtype, f"`{path}` is of {found.dtype}, not {like.dtype}")
    fits = found.dim() == like.dim() and (like.numel() == 0 or found.shape == like.shape)
    require(fits, f"`{path}` has the shape {tuple(found.shape)}, not {tuple(like.shape)}")
    if not found.numel() or found.dtype == torch.bool:
        return
    ends = [float(end) for end in found.aminmax()]  # one look, in which NaN shows, too
    require(found.is_floating_point() or ends[0] >= 0, f"`{path}` has negative entries")
    if not all(math.isfinite(end) for end in ends):
        for what, is_so in (("NaN", torch.isnan), ("infinite", torch.isposinf), ("infinite", torch.isneginf)):
            require(not is_so(found).any() or is_so(like).any(), f"`{path}` has {what} entries")


def _check_plain(found: Any, like: Any, path: str) -> None:
    kind = type(like).__name__
    require(type(found) is type(like), f"`{path}` is a {type(found).__name__}, not a {kind}")
    if isinstance(like, str) and found != like:
        name = path.rpartition(".")[2]
        raise ValueError(
            f"The state to load is of another `{name}`, {found!r}, but here it is {like!r}: use the one it was saved "
            "with."
        )
    if isinstance(like, float):
        require(math.isfinite(found), f"`{path}` is {found}")
    if type(like) is int:
        require(found >= 0, f"`{path}` is {found}")


def _parts(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors and plain values of a state, with their paths."""
    if isinstance(state, (dict, list, tuple)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, part in items:
            yield from _parts(part, f"{path}.{key}" if path else str(key))
        yield f"{path}()", len(state)  # which says, too, that it is there if nothing is in it
    else:
        yield path, state


def _checksum(part: Any) -> int:
    if not isinstance(part, Tensor):
        return zlib.crc32(repr(part).encode())
    start = zlib.crc32(f"{part.dtype} {tuple(part.shape)}".encode())
    if not part.numel():  # whose strides may be anything
        return start
    return zlib.crc32(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, start)
