"""Loops over the few numbers of a batch, which numba compiles for the CPU where it is installed.

In a training step a tensor operation on so few numbers takes some 10 to 40 µs on a CPU, whatever it computes, because
the step has emptied the caches. What takes a dozen operations in torch is one call here. The loops give what the torch
code beside their callers gives, but for the rounding of sums and of the exponential. They check whatever would make
them read or write where they must not.

Import them by :func:`lightning_as.core.execution.kernels`, which waits until they are needed: numba takes a while to load.
The compiled code is kept in a cache folder of numba's, if one can be written to.
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
    """Have a function compiled at its first call, and the result kept on the disk where that can be written."""
    compiler: Any = njit  # what it returns is called as the function is
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # there is no folder for a cache that can be written to
        return compiler(function)


def check() -> None:
    """Compile the smallest of the loops; whatever is wrong with numba here is raised."""
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
    """Draw leaves of sum trees; for the law see :meth:`lightning_as.core.sum_tree.SumTree.draw`.

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
    """The squared gradient bound, see :func:`lightning_as.losses.gradient_bound`.

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


@kernel
def draw_bins_and_leaves(
    probabilities: Floats,
    cumulative: Floats,
    memory: Floats,
    first_child: Integers,
    height: int,
    coefficients: Floats,
    smallest: float,
    uniforms: Floats,
    drawn: Integers,
    laws: Floats,
) -> None:
    """Draw a bin and then a leaf of the tree of that number.

    Args:
        probabilities: Of each bin, (k,).
        cumulative: Their sums, (k,), which end in 1.
        memory: As for :func:`draw_leaves`.
        first_child: As for :func:`draw_leaves`.
        height: Number of levels.
        coefficients: What the channels of each tree count, (k, channels); or (0, channels), for the first alone.
        smallest: As for :func:`draw_leaves`.
        uniforms: (1 + height, B), the first row for the bins.
        drawn: Takes the leaves in its first row and the bins in its second, (2, B).
        laws: Takes the probability of each leaf in its first row, and that within the tree in its second, (2, B).
    """
    bins = np.searchsorted(cumulative, uniforms[0], side="right").astype(np.int64)
    channels = coefficients.shape[1] if coefficients.shape[0] else 0
    each = np.empty((bins.size if channels else 0, coefficients.shape[1]))
    for i in range(bins.size):
        if bins[i] >= probabilities.size:
            raise ValueError("A uniform is not below 1.")
        drawn[1, i] = bins[i]
        for c in range(channels):
            each[i, c] = coefficients[bins[i], c]
    draw_leaves(memory, first_child, height, bins, each, smallest, uniforms[1:], drawn[0], laws[1])
    for i in range(bins.size):
        laws[0, i] = probabilities[bins[i]] * laws[1, i]


@kernel
def mix_in_uniform(
    memory: Floats,
    place_of: Integers,
    tags: NDArray[Any],
    probabilities: Floats,
    sizes: Floats,
    floor: float,
    uniforms: Floats,
    indices: Integers,
    bins: Integers,
    joint: Floats,
    within: Floats,
) -> None:
    """Put instances drawn from all alike in place of some of a draw's, and say what the mixture's law is.

    Args:
        memory: As for :func:`draw_leaves`, of trees whose first channel is the weight.
        place_of: Of each instance the place of its leaf, (N,).
        tags: Of each instance its bin, (N,).
        probabilities: Of each bin, (k,).
        sizes: Of each bin its number of instances, (k,).
        floor: The share of the uniform law, which is added to the law of the bins and leaves.
        uniforms: (B,). Those below the floor replace, and what they are as a share of it says by which instance.
        indices: Instances of the draw, (B,), replaced in place.
        bins: Their bins, (B,), likewise.
        joint: Takes the mixture's probability of each, (B,).
        within: Has the probability of each within its bin, (B,), and takes the mixture's.
    """
    cells, width, size = memory.reshape(-1), memory.shape[1] * memory.shape[2], place_of.size
    for i in range(indices.size):
        q = within[i]
        if uniforms[i] < floor:
            indices[i] = min(int(uniforms[i] / floor * size), size - 1)  # rounding may have given size
            bins[i] = tags[indices[i]]
            root = width * bins[i]
            q = cells[place_of[indices[i]]] / sum_of(cells, root, root + memory.shape[2])
        p, members = probabilities[bins[i]], sizes[bins[i]]
        joint[i] = (1 - floor) * p * q + floor / size
        within[i] = joint[i] / ((1 - floor) * p + floor * members / size)


@kernel
def smooth_drawn(
    memory: Floats,
    parents: Integers,
    place_of: Integers,
    indices: Integers,
    bins: Integers,
    scores: Floats,
    gain: Floats,
    delta_q: float,
    smallest: float,
    largest: float,
) -> bool:
    """Enter scores into a tree of weights and scores, and move the weights of the same leaves.

    For the law see :mod:`lightning_as.core.smoothed_where_drawn`. If a sum of the weights or scores of a tree is not between
    `smallest` and `largest`, the weights stay, and the result is False: they are left to the caller.

    Args:
        memory: As for :func:`set_leaves`, with the weight in the first of two channels and the score in the second.
        parents: As for :func:`set_leaves`.
        place_of: Of each instance the place of its leaf, (N,).
        indices: Instances, (B,). Of duplicates the last counts.
        bins: The tree of each instance, (B,).
        scores: Their scores, (B,).
        gain: Of each tree (1 - delta_q), times size over seen, (k,).
        delta_q: The share of its weight that an instance keeps.
        smallest: The smallest sum that is dealt with here.
        largest: The largest one.
    """
    roots, fanout = gain.size, memory.shape[2]
    if bins.size != indices.size:
        raise ValueError("There must be one bin for each instance.")
    places = np.empty_like(indices)
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= place_of.size or bins[i] < 0 or bins[i] >= roots:
            raise IndexError("An instance or a bin is not there.")
        places[i] = place_of[indices[i]]
    set_leaves(memory, parents, roots, fanout, places.copy(), scores, 1, 1)
    cells, per_score = memory.reshape(-1), np.empty(roots)
    for j in range(roots):
        start = 2 * fanout * j
        weight_sum = sum_of(cells, start, start + fanout)
        score_sum = sum_of(cells, start + fanout, start + 2 * fanout)
        if not (smallest <= min(weight_sum, score_sum) and max(weight_sum, score_sum) <= largest):
            return False
        per_score[j] = gain[j] * weight_sum / score_sum
    moved = np.empty_like(scores)
    for i in range(places.size):  # all before one is set: an instance that was drawn twice moves once
        moved[i] = cells[places[i]] * delta_q + per_score[bins[i]] * cells[places[i] + fanout]
    set_leaves(memory, parents, roots, fanout, places, moved, 0, 1)
    return True
