"""Loops over a table of keys, which numba compiles for the CPU; see :class:`lightning_as.core.key_table.KeyTable`."""

from __future__ import annotations

from lightning_as.core.compiled_trees import Integers, kernel


@kernel
def find_keys(slots: Integers, keys: Integers, places: Integers) -> None:
    """Where keys, (B,), are in the slots of a table, a power of two of them with 0 in those that are empty.

    `places`, (B,), takes the answer, -1 for what is not there.
    """
    if places.size != keys.size:
        raise ValueError("There must be a place for each key.")
    mask = slots.size - 1
    for i in range(keys.size):
        at, places[i] = keys[i] & mask, -1
        for _ in range(slots.size):
            if slots[at] == 0 or slots[at] == keys[i]:
                break
            at = (at + 1) & mask
        if keys[i] > 0 and slots[at] == keys[i]:
            places[i] = at


@kernel
def insert_keys(slots: Integers, keys: Integers, places: Integers) -> int:
    """Likewise, but what is not there is put into an empty slot, of which there must be enough; how many were put."""
    if places.size != keys.size:
        raise ValueError("There must be a place for each key.")
    mask, count = slots.size - 1, 0
    for i in range(keys.size):
        if keys[i] <= 0:
            raise ValueError("A key is not positive.")
        at = keys[i] & mask
        for _ in range(slots.size):
            if slots[at] == 0 or slots[at] == keys[i]:
                break
            at = (at + 1) & mask
        if slots[at] == 0:
            slots[at] = keys[i]
            count += 1
        elif slots[at] != keys[i]:
            raise ValueError("The table is full.")
        places[i] = at
    return count
