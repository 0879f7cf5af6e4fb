"""Loops over the few numbers of a batch, which numba compiles for the CPU where it is installed.

In a training step a tensor operation on so few numbers takes some 10 to 40 µs on a CPU, whatever it computes, because
the step has emptied the caches. What takes a dozen operations in torch is one call here. The loops give what the torch
code beside their callers gives, but for the rounding of sums and of the exponential. They check whatever would make
them read or write where they must not.

Import them by :func:`lightning_as.compiled.kernels`, which waits until they are needed: numba takes a while to load.
The compiled code is kept in a cache folder of numba's, if one can be written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

try:
    from numba import njit  # pyright: ignore[reportMissingImports]
except ImportError:  # the loops are then plain Python, right but slow
    njit = None

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Have a function compiled at its first call, where numba is installed."""
    if njit is None:
        return function
    compiler: Any = njit  # what it returns is called as the function is
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # there is no folder for a cache that can be written to
        return compiler(function)


@kernel
def sum_of(cells: Floats, start: int, end: int) -> float:
    """The sum of a row."""
    even = odd = 0.0  # two sums at a time, since each addition waits for the one before
    for j in range(start, end - 1, 2):
        even += cells[j]
        odd += cells[j + 1]
    return even + odd if (end - start) % 2 == 0 else even + cells[end - 1] + odd


@kernel
def _sum_up(
    cells: Floats, parents: Integers, width: int, roots: int, fanout: int, places: Integers, first: int, count: int
) -> None:
    """Recompute the sums above leaves at some places, which it overwrites."""
    # All leaves are of one height, so that a round takes all places up a level.
    while places.size and places[0] // width >= roots:
        for i in range(places.size):
            row = places[i] // width
            places[i] = parents[row]
            for c in range(first, first + count):
                start = row * width + c * fanout
                cells[places[i] + c * fanout] = sum_of(cells, start, start + fanout)


@kernel
def set_leaves(
    memory: Floats, parents: Integers, roots: int, fanout: int, places: Integers, values: Floats, first: int, count: int
) -> None:
    """Set leaves of a sum tree, and recompute the sums above them.

    Args:
        memory: The tree's numbers, (rows, channels, fanout): those of the roots first, those of the leaves last.
        parents: Of each row that is not a root's, where in the memory the sum of its first channel lies, (rows,).
        roots: Number of trees.
        fanout: Length of a row.
        places: Where the first channel of each leaf lies, (B,). Overwritten.
        values: New values, (B · count,).
        first: The first channel to set.
        count: How many channels to set.
    """
    cells = memory.reshape(-1)
    width = cells.size // memory.shape[0]
    if values.size != places.size * count:
        raise ValueError("There must be one value for each place and channel.")
    for i in range(places.size):
        if places[i] < 0 or places[i] + (first + count - 1) * fanout >= cells.size:
            raise IndexError("A place is not one of the tree.")
    for i in range(places.size):
        for c in range(count):
            cells[places[i] + (first + c) * fanout] = values[i * count + c]
    _sum_up(cells, parents, width, roots, fanout, places, first, count)


@kernel
def _combine(row: Floats, coefficients: Floats, threshold: float, weights: Floats) -> None:
    """Put a linear combination of channels, (C, fanout), into the weights; it is 0 where it is below the threshold."""
    for j in range(weights.size):
        weight = row[0, j] * coefficients[0]
        for c in range(1, coefficients.size):
            weight += row[c, j] * coefficients[c]
        weights[j] = 0.0 if weight <= threshold else weight


@kernel
def draw_leaves(
    memory: Floats,
    first_child: Integers,
    height: int,
    trees: Integers,
    coefficients: Floats,
    smallest: float,
    uniforms: Floats,
    leaves: Integers,
    probabilities: Floats,
) -> None:
    """Draw leaves of sum trees; for the law see :meth:`lightning_as.sum_tree.SumTree.draw`.

    Args:
        memory: As for :func:`set_leaves`.
        first_child: Of each row the row below, or the leaf, that is its first child, (rows,).
        height: Number of levels.
        trees: The tree to draw each from, (B,).
        coefficients: What the channels count, (B, channels); or (0, channels), for the first channel alone.
        smallest: Combinations of leaves up to this one count as zero.
        uniforms: (height, B), the last row for the roots; or (1, B), one uniform for all levels.
        leaves: Takes the numbers of the leaves, (B,).
        probabilities: Takes the probability of each within its tree, (B,).
    """
    rows, channels, fanout = memory.shape
    weighted = coefficients.shape[0] > 0
    if uniforms.shape[0] not in (1, height) or uniforms.shape[1] != trees.size:
        raise ValueError("There must be a uniform, or one for each level, for each draw.")
    if weighted and coefficients.shape != (trees.size, channels):
        raise ValueError("There must be a coefficient for each draw and channel.")
    roots = first_child[0] if height > 1 else rows
    weights, cumulative = np.empty(fanout), np.empty(fanout)
    for i in range(trees.size):
        if trees[i] < 0 or trees[i] >= roots:
            raise IndexError("A tree to draw from is not there.")
        node, total, share, weight = trees[i], 0.0, uniforms[uniforms.shape[0] - 1, i], 0.0
        for level in range(height - 1, -1, -1):
            threshold = smallest * float(fanout) ** level
            if weighted:
                _combine(memory[node], coefficients[i], threshold, weights)
            else:
                weights[:] = memory[node, 0]
            running = 0.0
            for j in range(fanout):
                running += weights[j]
                cumulative[j] = running
            if level == height - 1:
                total = running
            if uniforms.shape[0] > 1:
                share = uniforms[level, i]
            target, child = running * share, 0
            for j in range(fanout):
                child += not cumulative[j] > target
            if child == fanout:
                raise ValueError("A tree to draw from has no weight.")
            weight = weights[child]
            below = cumulative[child - 1] if child > 0 else 0.0
            share = min((target - below) / weight, 1 - 2**-53)
            node = first_child[node] + child
        leaves[i] = node
        probabilities[i] = weight / total


@kernel
def bound_gradients(logits: NDArray[Any], targets: Integers, bounds: Floats) -> None:
    """The squared gradient bound, see :func:`lightning_as.gradient_bound.gradient_bound`.

    Args:
        logits: (B, C), float32 or float64.
        targets: Class of each instance, (B,).
        bounds: Takes the bounds, (B,).
    """
    classes = logits.shape[1]
    exponentials = np.empty(classes)
    for i in range(bounds.size):
        if targets[i] < 0 or targets[i] >= classes:
            raise RuntimeError("A target is not the index of a class.")  # as torch
        largest = -math.inf
        for j in range(classes):
            largest = max(largest, np.float64(logits[i, j]))
        total = 0.0
        for j in range(classes):
            exponentials[j] = math.exp(np.float64(logits[i, j]) - largest)
            total += exponentials[j]
        rest = squares = 0.0
        for j in range(classes):
            if j != targets[i]:
                other = exponentials[j] / total
                rest += other
                squares += other * other
        bounds[i] = squares + rest * rest
