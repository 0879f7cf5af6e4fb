"""Loops over instances in the order of their bins that numba compiles for the CPU.

See :mod:`lightning_as.core.compiled`, which has them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_trees import Integers, kernel


@kernel
def sort_by_tag(tags: NDArray[Any], starts: Integers, order: NDArray[Any]) -> None:
    """Put the instances, bin after bin and in each as they come, into `order`, (N,).

    `tags`, (N,), are their bins; `starts`, (k,), where each bin begins, which are used up.
    """
    if order.size != tags.size:
        raise ValueError("There must be a place for each instance.")
    for i in range(tags.size):
        j = tags[i]
        if j < 0 or j >= starts.size or starts[j] >= tags.size:
            raise IndexError("A bin is not there, or has more instances than places.")
        order[starts[j]] = i
        starts[j] += 1


@kernel
def find_leaves(
    firsts: Integers, sizes: Integers, instance_of: NDArray[Any], indices: Integers, bins: Integers, leaves: Integers
) -> None:
    """The leaves, (B,), of instances in their bins, (B,) both.

    `instance_of`, (N,), is the instance of each leaf, in ascending order in each bin: a search takes the place of a
    table of the leaf of each instance.
    """
    if bins.size != indices.size:
        raise ValueError("There must be one bin for each instance.")
    left, most = np.empty_like(leaves), 0
    for i in range(indices.size):
        if bins[i] < 0 or bins[i] >= sizes.size:
            raise IndexError("A bin is not there.")
        leaves[i], left[i] = firsts[0, bins[i]], sizes[bins[i]]
        most = max(most, left[i])
    # A round halves what is left of all, so that they wait for the memory together, and there is no branch to guess.
    while most > 1:
        for i in range(indices.size):
            half = left[i] >> 1
            middle = leaves[i] + half
            leaves[i] = middle if instance_of[middle] <= indices[i] else leaves[i]
            left[i] -= half
        most -= most >> 1
    for i in range(indices.size):
        if instance_of[leaves[i]] != indices[i]:
            raise IndexError("An instance is not in its bin.")
