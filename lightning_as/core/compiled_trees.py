"""Loops over sum trees that numba compiles for the CPU: draws and updates, and all leaves at once.

See :mod:`lightning_as.core.compiled`, which has them all. The last two are for trees as a whole, when they are saved or
loaded: in torch each of these makes several tables of the size of all leaves.
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
def sum_of(cells: NDArray[Any], start: int, end: int) -> float:
    """The sum of a row."""
    even = odd = 0.0  # two sums at a time, since each addition waits for the one before
    for j in range(start, end - 1, 2):
        even += cells[j]
        odd += cells[j + 1]
    return even + odd if (end - start) % 2 == 0 else even + cells[end - 1] + odd


@kernel
def paths_of(firsts: Integers, sizes: Integers, fanout: int, trees: Integers, leaves: Integers) -> Integers:
    """The nodes at each height above leaves, (B,) of the given trees, (B,), numbered in their trees: (height, B)."""
    if trees.size != leaves.size:
        raise ValueError("There must be a tree for each leaf.")
    paths = np.empty((firsts.shape[0] - 1, leaves.size), np.int64)
    for i in range(leaves.size):
        if trees[i] < 0 or trees[i] >= sizes.size:
            raise IndexError("A tree is not there.")
        node = leaves[i] - firsts[0, trees[i]]
        if node < 0 or node >= sizes[trees[i]]:
            raise IndexError("A leaf is not one of its tree.")
        for height in range(paths.shape[0]):
            paths[height, i] = node
            node //= fanout
    return paths


@kernel
def _sum_once(
    rows: NDArray[Any],
    sum_rows: Floats,
    firsts: Integers,
    trees: Integers,
    paths: Integers,
    height: int,
    first: int,
    count: int,
) -> None:
    """Recompute the sums of the children, which are in `rows`, of the nodes at a height."""
    cells, sums, channels, fanout = rows.reshape(-1), sum_rows.reshape(-1), rows.shape[1], rows.shape[2]
    for i in range(trees.size):
        node, above = paths[height, i], paths[height + 1, i] if height + 1 < paths.shape[0] else 0
        start = ((firsts[height, trees[i]] + node) * channels + first) * fanout
        to = ((firsts[height + 1, trees[i]] + above) * channels + first) * fanout + node - above * fanout
        for _ in range(count):
            sums[to] = sum_of(cells, start, start + fanout)
            start, to = start + fanout, to + fanout


@kernel
def set_on_paths(
    sum_rows: Floats,
    leaf_rows: NDArray[Any],
    firsts: Integers,
    trees: Integers,
    paths: Integers,
    values: Floats,
    first: int,
) -> None:
    """Set the leaves at the feet of paths, (height, B), and recompute the sums along them; see :func:`set_leaves`."""
    fanout, count = leaf_rows.shape[2], values.shape[1]
    for i in range(trees.size):
        row, column = firsts[1, trees[i]] + paths[1, i], paths[0, i] - paths[1, i] * fanout
        for c in range(count):
            leaf_rows[row, first + c, column] = values[i, c]
    # All leaves are of one height, so that a round takes all of them up a level.
    _sum_once(leaf_rows, sum_rows, firsts, trees, paths, 1, first, count)
    for height in range(2, paths.shape[0]):
        _sum_once(sum_rows, sum_rows, firsts, trees, paths, height, first, count)


@kernel
def set_leaves(
    sum_rows: Floats,
    leaf_rows: NDArray[Any],
    firsts: Integers,
    sizes: Integers,
    trees: Integers,
    leaves: Integers,
    values: Floats,
    first: int,
) -> None:
    """Set leaves of sum trees, and recompute the sums above them.

    `leaves`, (B,), are of the given `trees`, (B,); `values`, (B, count), are the new values of the channels from
    `first` on.
    """
    if values.shape[0] != leaves.size or first + values.shape[1] > leaf_rows.shape[1]:
        raise ValueError("There must be one value for each leaf and channel.")
    paths = paths_of(firsts, sizes, leaf_rows.shape[2], trees, leaves)
    set_on_paths(sum_rows, leaf_rows, firsts, trees, paths, values, first)


@kernel
def _weigh(
    cells: NDArray[Any],
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
def _descend_once(
    rows: NDArray[Any],
    firsts: Integers,
    coefficients: Floats,
    threshold: float,
    per_leaf: float,
    full: int,
    trees: Integers,
    nodes: Integers,
    below: Integers,
    targets: Floats,
    weighed: Floats,
    totals: Floats,
) -> None:
    """Walk from nodes to those of their children at which the cumulative weights exceed the targets.

    `full` is the number of leaves below a child, but perhaps the last. `nodes`, `below`, the leaves below each node,
    and `targets`, (B,), become those of the children, and `weighed`, (B,), takes the weights of these. `totals`, (B,),
    are the weights of the trees; where they are negative, the nodes are roots, the targets are shares of the whole, and
    the weights of the trees go there.
    """
    cells, width, fanout = rows.reshape(-1), rows.shape[1] * rows.shape[2], rows.shape[2]
    weights, touched = np.empty(fanout), 0.0
    for i in range(nodes.size):  # the memory that the level needs, asked for at once instead of draw by draw
        start = width * (firsts[trees[i]] + nodes[i])
        for j in range(0, fanout, 8):
            touched += cells[start + j]
    if math.isnan(touched):
        raise ValueError("A weight is not a number.")
    for i in range(nodes.size):
        start = width * (firsts[trees[i]] + nodes[i])
        _weigh(cells, start, coefficients, trees[i], threshold, per_leaf, below[i], full, weights)
        if totals[i] < 0:
            totals[i] = sum_of(weights, 0, fanout)
            targets[i] *= totals[i]
        running, before, child = 0.0, 0.0, -1
        for j in range(fanout):
            if weights[j] > 0.0:  # the last such child takes what rounding has put beyond all of them
                child, before = j, running
                running += weights[j]
                if running > targets[i]:
                    break
        if child < 0:
            raise ValueError("A tree to draw from has no weight.")
        targets[i] -= before
        weighed[i] = weights[child]
        nodes[i] = nodes[i] * fanout + child
        below[i] = min(below[i] - child * full, full)


@kernel
def draw_leaves(
    sum_rows: Floats,
    leaf_rows: NDArray[Any],
    firsts: Integers,
    sizes: Integers,
    coefficients: Floats,
    per_leaf: float,
    smallest: float,
    uniforms: Floats,
    leaves: Integers,
    probabilities: Floats,
) -> None:
    """Draw leaves of sum trees, see :meth:`lightning_as.core.sum_tree.SumTree.draw`.

    `coefficients` is what the channels count in each tree, (trees, channels), or (trees, 0) for the first channel
    alone. Combinations of leaves up to `smallest` count as zero, and each leaf weighs `per_leaf` beside. `uniforms`,
    (B,), are used up; `leaves`, (B,), are the trees at first, and become the leaves; `probabilities`, (B,), takes those
    within the trees.
    """
    if uniforms.size != leaves.size or coefficients.shape[0] != sizes.size:
        raise ValueError("There must be a uniform for each draw, and coefficients for each tree.")
    for i in range(leaves.size):
        if leaves[i] < 0 or leaves[i] >= sizes.size:
            raise IndexError("A tree to draw from is not there.")
    fanout, trees = sum_rows.shape[2], leaves.copy()
    totals, below = np.full_like(uniforms, -1.0), sizes[trees]
    leaves[:] = 0
    for height in range(firsts.shape[0] - 1, 0, -1):
        full, threshold = fanout ** (height - 1), smallest * float(fanout) ** (height - 1)
        common = coefficients, threshold, per_leaf, full, trees, leaves, below, uniforms, probabilities, totals
        if height > 1:
            _descend_once(sum_rows, firsts[height], *common)
        else:
            _descend_once(leaf_rows, firsts[height], *common)
    for i in range(leaves.size):
        leaves[i] += firsts[0, trees[i]]
        probabilities[i] /= totals[i]


@kernel
def copy_leaves(leaf_rows: NDArray[Any], firsts: Integers, sizes: Integers, leaves: NDArray[Any], back: bool) -> None:
    """Copy all leaves, tree after tree, into `leaves`, (N, channels), or `back` from it."""
    channels, fanout = leaf_rows.shape[1], leaf_rows.shape[2]
    if leaves.shape[0] != sizes.sum() or leaves.shape[1] != channels:
        raise ValueError("There must be a row for each leaf, and a column for each channel.")
    for j in range(sizes.size):
        for i in range(sizes[j]):
            row, column, at = firsts[1, j] + i // fanout, i % fanout, firsts[0, j] + i
            for c in range(channels):
                if back:
                    leaf_rows[row, c, column] = leaves[at, c]
                else:
                    leaves[at, c] = leaf_rows[row, c, column]


@kernel
def sum_up(sum_rows: Floats, leaf_rows: NDArray[Any], firsts: Integers, sizes: Integers) -> None:
    """Recompute every sum of the trees from the leaves, in the order that an update adds in."""
    cells, sums, channels, fanout = leaf_rows.reshape(-1), sum_rows.reshape(-1), leaf_rows.shape[1], leaf_rows.shape[2]
    for height in range(2, firsts.shape[0]):
        for j in range(sizes.size):
            full = fanout ** (height - 1)
            for node in range((sizes[j] + full - 1) // full):
                child_row, row = firsts[height - 1, j] + node, firsts[height, j] + node // fanout
                for c in range(channels):
                    start = (child_row * channels + c) * fanout
                    end = start + fanout
                    added = sum_of(cells, start, end) if height == 2 else sum_of(sums, start, end)
                    sums[(row * channels + c) * fanout + node % fanout] = added
