"""A table of what is known of instances that have no positions, only keys.

A key is hashed to 63 bits by BLAKE2b, which is the same in all processes and sessions, as Python's own is not. Of N
keys some two have the same hash, and then share what is known of them, with a probability of N²/2⁶⁴: 5 in 10⁸ of a
million keys, 5 in 10⁴ of a hundred million.

The table has open addressing with linear probing, and doubles when three quarters of its slots are taken. A slot has 11
bytes, 8 of the hash, 2 of the value and one of a mark, and so an instance 15 to 29; for a moment, while it grows, 56.
"""

from __future__ import annotations

from hashlib import blake2b
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_as.core.execution import loops
from lightning_as.core.state import require

Key: TypeAlias = str | bytes | int
"""What tells an instance from the others, always the same."""
_CPU = torch.device("cpu")
_FULL = 0.75  # share of slots that are taken at most
_LEAST = 64  # slots
_PASSES = 255  # that a mark tells apart


class KeyTable:
    """Values of 15 bits by the hashes of keys.

    Example:
        >>> table = KeyTable()
        >>> places = table.insert(np.array([7, 9, 7]))
        >>> table.values[places] = [1, 2, 3]
        >>> found = table.find(np.array([9, 8]))
        >>> len(table), int(table.values[found[0]]), int(found[1])
        (2, 2, -1)
    """

    def __init__(self) -> None:
        loops(_CPU)  # which takes a while the first time, and not amid a step
        self._resize(_LEAST)
        self._count = 0
        self._pass = 1

    def __len__(self) -> int:
        """Number of keys."""
        return self._count

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self._slots)

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of keys, (B,), -1 for those that are not there. They hold until the next :meth:`insert`."""
        if (compiled := loops(_CPU)) is None:
            return _find(self._slots, keys)
        places = np.empty_like(keys)
        compiled.find_keys(self._slots, keys, places)
        return places

    def insert(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of keys, (B,) positive, with the value 0 for what was not there."""
        while self._count + len(keys) > _FULL * self.slots:
            self._grow()
        return self._insert(keys)

    def mark(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether keys, (B,), have come before in this pass; from now on they have. What is not there is inserted."""
        places = self.insert(keys)
        again = self._marks[places] == self._pass
        first = np.zeros_like(again)
        first[np.unique(places, return_index=True)[1]] = True
        self._marks[places] = self._pass
        return again | ~first

    def begin_pass(self) -> None:
        """Begin another pass, in which no key has come."""
        self._pass += 1
        if self._pass > _PASSES:
            self._marks[:] = 0
            self._pass = 1

    def state_dict(self) -> dict[str, Tensor]:
        """Keys, ascending, and values of those that have one, which is not 0; (M,) each."""
        places = np.flatnonzero(self.values)
        places = places[np.argsort(self._slots[places])]
        return {"keys": torch.from_numpy(self._slots[places]), "values": torch.from_numpy(self.values[places])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state, with which the passes begin anew."""
        keys, values = state["keys"].cpu().numpy(), state["values"].cpu().numpy()
        require(keys.shape == values.shape, "`values` is not one for each key")
        require(bool((keys > 0).all() and (np.diff(keys) > 0).all()), "`keys` are not positive and ascending")
        require(bool((values > 0).all()), "`values` has some of no meaning")
        slots = _LEAST
        while len(keys) > _FULL * slots:
            slots *= 2
        self._resize(slots)
        self._count, self._pass = 0, 1
        self.values[self._insert(keys)] = values

    def _resize(self, slots: int) -> None:
        """Have so many slots, all of them empty."""
        self._slots = np.zeros(slots, np.int64)
        self.values = np.zeros(slots, np.int16)
        """What is known, by the places of keys, never negative, to be written to; :meth:`insert` may replace it."""
        self._marks = np.zeros(slots, np.uint8)

    def _grow(self) -> None:
        taken = np.flatnonzero(self._slots)
        keys, values, marks = self._slots[taken], self.values[taken], self._marks[taken]
        self._resize(2 * self.slots)
        self._count = 0
        places = self._insert(keys)
        self.values[places], self._marks[places] = values, marks

    def _insert(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        if (compiled := loops(_CPU)) is None:
            places, count = _insert(self._slots, keys)
        else:
            places = np.empty_like(keys)
            count = compiled.insert_keys(self._slots, keys, places)
        self._count += count
        return places


def hash_of(key: Any) -> int:
    """The hash of a key, from 1 to 2⁶³ − 1; of "1", b"1" and 1 three different ones.

    Raises:
        TypeError: If it is neither a string nor bytes nor a whole number.
    """
    if isinstance(key, Tensor) and key.dim() == 0 and not key.is_floating_point():
        key = key.item()
    if isinstance(key, str):
        told = b"s" + key.encode(errors="surrogatepass")
    elif isinstance(key, bytes):
        told = b"b" + key
    elif isinstance(key, Integral) and not isinstance(key, bool):
        told = b"i%d" % int(key)
    else:
        raise TypeError(
            f"A key must be a string, bytes or a whole number, always the same of an instance, got {_shown(key)}: "
            "have the data set yield single samples, not batches, and give `key` what tells them apart."
        )
    return (int.from_bytes(blake2b(told, digest_size=8).digest(), "big") >> 1) or 1


def _shown(key: Any) -> str:
    text = repr(key)
    return f"the {type(key).__name__} {text if len(text) < 60 else text[:60] + '…'}"


def _find(slots: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """What :func:`lightning_as.core.compiled_keys.find_keys` finds, without compiled loops."""
    mask, places = len(slots) - 1, np.full_like(keys, -1)
    left, at = np.flatnonzero(keys > 0), keys & mask
    while len(left):
        held = slots[at[left]]
        there = held == keys[left]
        places[left[there]] = at[left[there]]
        left = left[~there & (held != 0)]
        at[left] = (at[left] + 1) & mask
    return places


def _insert(slots: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """What :func:`lightning_as.core.compiled_keys.insert_keys` does, likewise; not always in the same slots."""
    if not bool((keys > 0).all()):
        raise ValueError("A key is not positive.")
    mask, places, count = len(slots) - 1, np.full_like(keys, -1), 0
    left, at = np.arange(len(keys)), keys & mask
    while len(left):
        free = left[slots[at[left]] == 0]
        slots[at[free]] = keys[free]  # of several that want one slot the last has it
        count += len(np.unique(at[free]))
        there = slots[at[left]] == keys[left]
        places[left[there]] = at[left[there]]
        left = left[~there]
        at[left] = (at[left] + 1) & mask
    return places, count
