"""Loops over the few numbers of a batch, which numba compiles for the CPU.

In a training step a tensor operation on so few numbers takes some 10 to 40 µs on a CPU, whatever it computes, because
the step has emptied the caches. What takes a dozen operations in torch is one call here. The loops give what the torch
code beside their callers gives, up to the rounding of sums and of the exponential. They check whatever would make
them read or write where they must not.

Get them by :func:`lightning_as.core.execution.loops`, which waits until they are needed: numba takes a while to load.
What was compiled is kept beside this file, or in a folder of the user's if that cannot be written.

Many take of a sum tree its `height` and three arrays: `memory`, (rows, channels, fanout), the rows of the roots first,
those of the leaves last; `parents`, (rows,), for each row but a root's the place in the memory of the sum of its first
channel; `first_child`, (rows,), for each row the row, or the leaf, of its first child. Of a partition: `sizes`, (k,),
the number of instances of each bin; `tags`, (N,), the bin of each instance; `place_of`, (N,), the place of its leaf.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_doubts import draw_blocks, draw_evenly, smooth_doubts
from lightning_as.core.compiled_keys import find_keys, insert_keys
from lightning_as.core.compiled_looks import look_at_logits, note_looks
from lightning_as.core.compiled_trees import (
    Floats,
    Integers,
    check,
    copy_leaves,
    descend,
    draw_leaves,
    kernel,
    place_instances,
    set_leaves,
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
    "insert_keys",
    "kernel",
    "look_at_logits",
    "note_looks",
    "place_instances",
    "set_leaves",
    "smooth_doubts",
    "smooth_drawn",
    "sum_up",
]


@kernel
def draw_two_levels(
    memory: Floats,
    first_child: Integers,
    sizes: Integers,
    height: int,
    instance_of: NDArray[Any],
    mass: Floats,
    ends: Floats,
    per_instance: float,
    points: Floats,
    drawn: Integers,
    probabilities: Floats,
) -> None:
    """Draw from the two levels and the floor, see :class:`lightning_as.core.two_levels.TwoLevels`.

    The memory has a tree for each bin, with the weights in the first channel; `instance_of`, (N,), is the instance of
    each leaf. `mass`, (k,), is what of a bin's part goes by the weights, and `per_instance` what each instance has
    beside; `ends`, (k,), is where the bins' parts of [0, 1) end. `drawn`, (2, B), takes the instances and their bins,
    `probabilities`, (2, B), takes r and that within the bin.
    """
    cells, width, fanout = memory.reshape(-1), memory.shape[1] * memory.shape[2], memory.shape[2]
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
    descend(memory, first_child, sizes, height, coefficients, per_instance, 0.0, instances, uniforms, within)
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
    memory: Floats,
    parents: Integers,
    place_of: Integers,
    unseen: NDArray[np.bool_],
    seen: Floats,
    sizes: Floats,
    indices: Integers,
    bins: Integers,
    scores: Floats,
    delta_q: float,
    smallest_score: float,
    smallest: float,
    largest: float,
) -> bool:
    """Enter scores into a tree of weights and scores, and move the weights of the same leaves.

    See :mod:`lightning_as.core.instance_distribution`. If the sum of the weights of a tree is not between `smallest`
    and `largest`, the weights stay and the result is False: scale them and call this again.

    The memory has a tree for each bin, with the weight in the first of two channels and the score in the second.
    `unseen`, (N,), says which instances have no score yet, and `seen`, (k,), how many of each bin have one; both are
    updated. Of equal `indices`, (B,), the last counts. Bins whose scores sum to less than `smallest_score` have no
    target: their weights stay.
    """
    roots, fanout = sizes.size, memory.shape[2]
    if bins.size != indices.size:
        raise ValueError("There must be one bin for each instance.")
    places, complete = np.empty_like(indices), np.all(seen == sizes)  # to look at an instance waits for its memory
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= place_of.size or bins[i] < 0 or bins[i] >= roots:
            raise IndexError("An instance or a bin is not there.")
        places[i] = place_of[indices[i]]
        if not complete and unseen[indices[i]]:
            unseen[indices[i]] = False
            seen[bins[i]] += 1
    set_leaves(memory, parents, roots, places.copy(), scores, 1, 1)
    cells, per_score = memory.reshape(-1), np.empty(roots)
    for j in range(roots):
        start = 2 * fanout * j
        weight_sum = sum_of(cells, start, start + fanout)
        score_sum = sum_of(cells, start + fanout, start + 2 * fanout)
        if not smallest <= weight_sum <= largest:
            return False
        # Z takes the mean of the seen for the unseen, which makes it the sum over the seen times size / seen.
        per_score[j] = -1.0
        if score_sum >= smallest_score:
            per_score[j] = (1 - delta_q) * seen[j] / sizes[j] * weight_sum / score_sum
    moved = np.empty_like(scores)
    for i in range(places.size):  # all before one is set: an instance that was drawn twice moves once
        held = cells[places[i]]
        moved[i] = held if per_score[bins[i]] < 0 else held * delta_q + per_score[bins[i]] * cells[places[i] + fanout]
    set_leaves(memory, parents, roots, places, moved, 0, 1)
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
