"""Loops over sum trees that numba compiles for the CPU: draws and updates, and all leaves at once.

See :mod:`lightning_as.core.compiled`, which has them all. The last four are for trees as a whole, when they are made,
saved or loaded: in torch each of these makes several tables of the size of all leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Have a function compiled at its first call, and the result kept on the disk where that can be written.

    Division by zero gives what torch gives, infinity or NaN.
    """
    compiler: Any = njit  # what it returns is called as the function is
    try:
        return compiler(cache=True, error_model="numpy")(function)
    except RuntimeError:  # there is no folder for a cache that can be written to
        return compiler(error_model="numpy")(function)


def check() -> None:
    """Compile the smallest of the loops; whatever is wrong with numba on this machine is raised."""
    sum_of(np.zeros(2), 0, 2)


@kernel
def sum_of(cells: Floats, start: int, end: int) -> float:
    """The sum of a row."""
    even = odd = 0.0  # two sums at a time, since each addition waits for the one before
    for j in range(start, end - 1, 2):
        even += cells[j]
        odd += cells[j + 1]
    return even + odd if (end - start) % 2 == 0 else even + cells[end - 1] + odd


@kernel
def set_leaves(
    memory: Floats, parents: Integers, roots: int, places: Integers, values: Floats, first: int, count: int
) -> None:
    """Set leaves of a sum tree, and recompute the sums above them.

    `roots` is the number of trees, `places`, (B,), where the first channel of each leaf lies, which is overwritten;
    `values`, (B · count,), are the new values of the channels from `first` on.
    """
    cells, width, fanout = memory.reshape(-1), memory.shape[1] * memory.shape[2], memory.shape[2]
    if values.size != places.size * count:
        raise ValueError("There must be one value for each place and channel.")
    for i in range(places.size):
        if places[i] < 0 or places[i] + (first + count - 1) * fanout >= cells.size:
            raise IndexError("A place is not one of the tree.")
    for i in range(places.size):
        for c in range(count):
            cells[places[i] + (first + c) * fanout] = values[i * count + c]
    # All leaves are of one height, so that a round takes all places up a level.
    while places.size and places[0] // width >= roots:
        for i in range(places.size):
            row = places[i] // width
            places[i] = parents[row]
            for c in range(first, first + count):
                start = row * width + c * fanout
                cells[places[i] + c * fanout] = sum_of(cells, start, start + fanout)


@kernel
def _weigh(
    cells: Floats,
    start: int,
    coefficients: Floats,
    tree: int,
    threshold: float,
    per_leaf: float,
    below: int,
    full: int,
    weights: Floats,
) -> None:
    """The weights of a node's children, whose first channels lie from `start` on, into `weights`, (fanout,).

    They are the first channel, or the tree's combination of the first ones, which is 0 up to the threshold; and
    `per_leaf` for each of the `below` leaves of the node. Its first children have `full` leaves each, and one the rest.
    """
    fanout, channels = weights.size, coefficients.shape[1]
    for j in range(fanout):
        weights[j] = cells[start + j] * (coefficients[tree, 0] if channels > 0 else 1.0)
    if channels > 0:
        for j in range(fanout):
            for c in range(1, channels):
                weights[j] += cells[start + c * fanout + j] * coefficients[tree, c]
            weights[j] = 0.0 if weights[j] <= threshold else weights[j]
    if per_leaf > 0:
        whole = below // full
        for j in range(whole):
            weights[j] += per_leaf * full
        if whole < fanout:
            weights[whole] += per_leaf * (below - whole * full)


@kernel
def descend(
    memory: Floats,
    first_child: Integers,
    sizes: Integers,
    height: int,
    coefficients: Floats,
    per_leaf: float,
    smallest: float,
    nodes: Integers,
    uniforms: Floats,
    probabilities: Floats,
) -> None:
    """Walk from trees to the leaves at the uniforms' places in their cumulative distributions.

    Each leaf weighs `per_leaf` beside what the memory says. `nodes`, (B,), are the trees, and become the leaves;
    `uniforms`, (B,), are used up; `probabilities`, (B,), takes that of each leaf within its tree.
    """
    cells, width, fanout, trees = memory.reshape(-1), memory.shape[1] * memory.shape[2], memory.shape[2], nodes.copy()
    totals, weights, below = np.empty_like(uniforms), np.empty(fanout), sizes[nodes]  # leaves below a node
    for level in range(height - 1, -1, -1):
        touched = 0.0  # the memory that the level needs, asked for at once instead of draw by draw
        for i in range(nodes.size):
            for j in range(0, fanout, 8):
                touched += cells[width * nodes[i] + j]
        if math.isnan(touched):
            raise ValueError("A weight is not a number.")
        full, threshold = fanout**level, smallest * float(fanout) ** level
        for i in range(nodes.size):
            _weigh(cells, width * nodes[i], coefficients, trees[i], threshold, per_leaf, below[i], full, weights)
            if level == height - 1:
                totals[i] = sum_of(weights, 0, fanout)
                uniforms[i] *= totals[i]
            target, running, before, child = uniforms[i], 0.0, 0.0, -1
            for j in range(fanout):
                if weights[j] > 0.0:  # the last such child takes what rounding has put beyond all of them
                    child, before = j, running
                    running += weights[j]
                    if running > target:
                        break
            if child < 0:
                raise ValueError("A tree to draw from has no weight.")
            uniforms[i], probabilities[i] = target - before, weights[child]
            nodes[i] = first_child[nodes[i]] + child
            below[i] = min(below[i] - child * full, full)
    probabilities /= totals


@kernel
def draw_leaves(
    memory: Floats,
    first_child: Integers,
    sizes: Integers,
    height: int,
    coefficients: Floats,
    per_leaf: float,
    smallest: float,
    uniforms: Floats,
    leaves: Integers,
    probabilities: Floats,
) -> None:
    """Draw leaves of sum trees, see :meth:`lightning_as.core.sum_tree.SumTree.draw`.

    `coefficients` is what the channels count in each tree, (trees, channels), or (trees, 0) for the first channel
    alone. Combinations of leaves up to `smallest` count as zero. `uniforms`, (B,), are used up; `leaves`, (B,), are the
    trees at first, and become the leaves; `probabilities`, (B,), takes those within the trees.
    """
    if uniforms.size != leaves.size or coefficients.shape[0] != sizes.size:
        raise ValueError("There must be a uniform for each draw, and coefficients for each tree.")
    for i in range(leaves.size):
        if leaves[i] < 0 or leaves[i] >= sizes.size:
            raise IndexError("A tree to draw from is not there.")
    descend(memory, first_child, sizes, height, coefficients, per_leaf, smallest, leaves, uniforms, probabilities)


@kernel
def place_instances(
    tags: NDArray[Any],
    places: Integers,
    leaves: Integers,
    channels: int,
    fanout: int,
    place_of: Integers,
    instance_of: NDArray[Any],
) -> None:
    """Give each instance the next leaf of its bin's tree.

    `tags`, (N,), are the bins; `places` and `leaves`, (k,), the place and the number of the first leaf of each tree,
    which are used up. `place_of`, (N,), takes the place of each instance's leaf, `instance_of`, (N,), the instance of
    each leaf.
    """
    columns = np.zeros_like(places)
    if place_of.size != tags.size or instance_of.size != tags.size or leaves.size != places.size:
        raise ValueError("There must be a place and a leaf for each instance.")
    for i in range(tags.size):
        j = tags[i]
        if j < 0 or j >= places.size or leaves[j] >= tags.size:
            raise IndexError("A bin is not there, or has more instances than leaves.")
        place_of[i] = places[j]
        instance_of[leaves[j]] = i
        leaves[j] += 1
        places[j] += 1
        columns[j] += 1
        if columns[j] == fanout:
            columns[j] = 0
            places[j] += (channels - 1) * fanout


@kernel
def copy_leaves(memory: Floats, first: int, sizes: Integers, leaves: Floats, back: bool) -> None:
    """Copy all leaves, tree after tree, from the rows from `first` on into `leaves`, (N, channels), or `back` from it.

    `sizes`, (k,), are the numbers of leaves of the trees.
    """
    channels, fanout, row, at = memory.shape[1], memory.shape[2], first, 0
    if leaves.shape[0] != sizes.sum() or leaves.shape[1] != channels:
        raise ValueError("There must be a row for each leaf, and a column for each channel.")
    for j in range(sizes.size):
        for start in range(0, sizes[j], fanout):
            count = min(fanout, sizes[j] - start)
            for i in range(count):
                for c in range(channels):
                    if back:
                        memory[row, c, i] = leaves[at + i, c]
                    else:
                        leaves[at + i, c] = memory[row, c, i]
            at += count
            row += 1


@kernel
def sum_up(memory: Floats, parents: Integers, roots: int) -> None:
    """Recompute every sum of `roots` trees from the leaves, in the order that an update adds in."""
    cells, width, fanout = memory.reshape(-1), memory.shape[1] * memory.shape[2], memory.shape[2]
    for row in range(memory.shape[0] - 1, roots - 1, -1):  # a row comes after that of its parent
        for c in range(memory.shape[1]):
            start = row * width + c * fanout
            cells[parents[row] + c * fanout] = sum_of(cells, start, start + fanout)
