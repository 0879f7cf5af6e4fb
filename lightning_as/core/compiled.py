"""Loops over the few numbers of a batch, which numba compiles for the CPU.

In a training step a tensor operation on so few numbers takes some 10 to 40 µs on a CPU, whatever it computes, because
the step has emptied the caches. What takes a dozen operations in torch is one call here. The loops give what the torch
code beside their callers gives, up to the rounding of sums and of the exponential. They check whatever would make
them read or write where they must not.

Get them by :func:`lightning_as.core.execution.loops`, which waits until they are needed: numba takes a while to load.
What was compiled is kept beside this file, or in a folder of the user's if that cannot be written.

Many take of k sum trees four arrays: `sum_rows` and `leaf_rows`, (rows, channels, fanout), the sums below each node,
those of the roots first, and the leaves; `firsts`, (height + 1, k), the first leaf of each tree, its first row of
leaves, and at each height from 2 on its first row of sums; `sizes`, (k,), the number of leaves of each. Where there is
a tree for each bin, `instance_of`, (N,), is the instance of each leaf, in ascending order in each bin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_doubts import draw_blocks, draw_evenly, smooth_doubts
from lightning_as.core.compiled_keys import find_keys, insert_keys
from lightning_as.core.compiled_looks import look_at_logits, note_looks
from lightning_as.core.compiled_order import find_leaves, sort_by_tag
from lightning_as.core.compiled_trees import (
    Floats,
    Integers,
    check,
    copy_leaves,
    draw_leaves,
    kernel,
    paths_of,
    set_leaves,
    set_on_paths,
    sum_of,
    sum_up,
)

__all__ = [
    "add_bounds",
    "bound_gradients",
    "check",
    "copy_leaves",
    "draw_blocks",
    "draw_evenly",
    "draw_leaves",
    "draw_two_levels",
    "find_keys",
    "find_leaves",
    "insert_keys",
    "kernel",
    "look_at_logits",
    "note_looks",
    "set_leaves",
    "smooth_doubts",
    "smooth_drawn",
    "sort_by_tag",
    "sum_up",
]


@kernel
def draw_two_levels(
    sum_rows: Floats,
    leaf_rows: NDArray[Any],
    firsts: Integers,
    sizes: Integers,
    instance_of: NDArray[Any],
    mass: Floats,
    ends: Floats,
    per_instance: float,
    points: Floats,
    drawn: Integers,
    probabilities: Floats,
) -> None:
    """Draw from the two levels and the floor, see :class:`lightning_as.core.two_levels.TwoLevels`.

    There is a tree for each bin, with the weights in the first channel. `mass`, (k,), is what of a bin's part goes by
    the weights, and `per_instance` what each instance has beside; `ends`, (k,), is where the bins' parts of [0, 1) end.
    `drawn`, (2, B), takes the instances and their bins, `probabilities`, (2, B), takes r and that within the bin.
    """
    cells, width, fanout = sum_rows.reshape(-1), sum_rows.shape[1] * sum_rows.shape[2], sum_rows.shape[2]
    instances, bins, joint, within = drawn[0], drawn[1], probabilities[0], probabilities[1]
    if mass.size != sizes.size or ends.size != sizes.size or instance_of.size != sizes.sum():
        raise ValueError("P must be of as many bins, and the table of as many instances, as there are.")
    uniforms = np.empty_like(points)
    coefficients = np.full((sizes.size, 1 if per_instance > 0 else 0), -1.0)  # of the bins that are drawn from
    for i in range(points.size):
        if not 0 <= points[i] < 1:
            raise ValueError("A point is not in [0, 1).")
        j = np.searchsorted(ends, points[i], side="right")
        start = ends[j - 1] if j > 0 else 0.0
        uniforms[i] = min((points[i] - start) / (ends[j] - start), 1 - 2**-53)
        bins[i] = instances[i] = j
        if per_instance > 0 and coefficients[j, 0] < 0:
            weight_sum = sum_of(cells, width * j, width * j + fanout)
            if weight_sum <= 0:
                raise ValueError("A tree to draw from has no weight.")
            coefficients[j, 0] = mass[j] / weight_sum
    draw_leaves(sum_rows, leaf_rows, firsts, sizes, coefficients, per_instance, 0.0, uniforms, instances, within)
    for i in range(points.size):
        j = bins[i]
        instances[i] = instance_of[instances[i]]
        joint[i] = within[i] * (mass[j] + per_instance * sizes[j])


@kernel
def add_bounds(
    sums: Floats, counts: Floats, bins: Integers, bounds: Floats, within: Floats, power: int, counted: bool
) -> None:
    """Add bounds over a power of the probabilities within the bins to the sums of their bins, (k,).

    See :class:`lightning_as.core.bin_distribution.GradientBinDistribution`. `bins`, `bounds` and `within` are (B,); NaN
    is left out. With `counted` the number of those added goes to `counts`, (k,).
    """
    if bounds.size != bins.size or within.size != bins.size or counts.size != sums.size:
        raise ValueError("There must be a bin and a probability for each bound, and a count for each sum.")
    for i in range(bins.size):
        if bins[i] < 0 or bins[i] >= sums.size:
            raise IndexError("A bin is not there.")
        divisor = 1.0
        for _ in range(power):
            divisor *= within[i]
        bound = bounds[i] / divisor
        if not math.isnan(bound):
            sums[bins[i]] += bound
            counts[bins[i]] += counted


@kernel
def smooth_drawn(
    sum_rows: Floats,
    leaf_rows: NDArray[Any],
    firsts: Integers,
    sizes: Integers,
    instance_of: NDArray[Any],
    seen: Floats,
    indices: Integers,
    bins: Integers,
    scores: Floats,
    delta_q: float,
    largest_score: float,
    smallest_score: float,
    smallest_weight: float,
    smallest: float,
    largest: float,
) -> bool:
    """Enter scores into trees of weights and scores, and move the weights of the same leaves.

    See :mod:`lightning_as.core.instance_distribution`. If the sum of the weights of a tree is not between `smallest`
    and `largest`, the weights stay and the result is False: scale them and call this again.

    There is a tree for each bin, with the weight in the first of two channels and the score in the second, -0.0 where
    there is none yet. `seen`, (k,), is how many of each bin have one, and updated. Of equal `indices`, (B,), the last
    counts. Bins whose scores sum to less than `smallest_score` have no target: their weights stay. A score that is not
    0 gives at least the `smallest_weight`.
    """
    fanout = leaf_rows.shape[2]
    leaves, values = np.empty_like(indices), np.empty((indices.size, 1))
    find_leaves(firsts, sizes, instance_of, indices, bins, leaves)
    paths = paths_of(firsts, sizes, fanout, bins, leaves)
    for i in range(indices.size):
        row, column = firsts[1, bins[i]] + paths[1, i], paths[0, i] - paths[1, i] * fanout
        if math.copysign(1.0, leaf_rows[row, 1, column]) < 0:
            leaf_rows[row, 1, column] = 0.0
            seen[bins[i]] += 1
        values[i, 0] = min(abs(scores[i]), largest_score)  # a score of -0.0 is one
    set_on_paths(sum_rows, leaf_rows, firsts, bins, paths, values, 1)
    sums, per_score = sum_rows.reshape(-1), np.empty(sizes.size)
    for j in range(sizes.size):
        start = 2 * fanout * j
        weight_sum = sum_of(sums, start, start + fanout)
        score_sum = sum_of(sums, start + fanout, start + 2 * fanout)
        if not smallest <= weight_sum <= largest:
            return False
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        per_score[j] = -1.0
        if score_sum >= smallest_score:
            per_score[j] = (1 - delta_q) * seen[j] / sizes[j] * weight_sum / score_sum
    for i in range(leaves.size):  # all before one is set: an instance that was drawn twice moves once
        row, column = firsts[1, bins[i]] + paths[1, i], paths[0, i] - paths[1, i] * fanout
        held, score = np.float64(leaf_rows[row, 0, column]), np.float64(leaf_rows[row, 1, column])
        values[i, 0] = held
        if per_score[bins[i]] >= 0:
            moved = held * delta_q + per_score[bins[i]] * score
            values[i, 0] = max(moved, smallest_weight) if score > 0 else moved
    set_on_paths(sum_rows, leaf_rows, firsts, bins, paths, values, 0)
    return True


@kernel
def bound_gradients(logits: NDArray[Any], targets: Integers, bounds: Floats) -> None:
    """The squared gradient bounds, (B,), of logits, (B, C), see :func:`lightning_as.losses.gradient_bound`."""
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
