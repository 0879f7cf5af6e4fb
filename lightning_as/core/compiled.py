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
    "bound_gradients",
    "check",
    "copy_leaves",
    "draw_leaves",
    "draw_two_levels",
    "kernel",
    "place_instances",
    "set_leaves",
    "smooth_drawn",
    "sum_up",
]


@kernel
def draw_two_levels(
    memory: Floats,
    first_child: Integers,
    height: int,
    place_of: Integers,
    instance_of: NDArray[Any],
    tags: NDArray[Any],
    sizes: Floats,
    p: Floats,
    cumulative_p: Floats,
    floor: float,
    uniforms: Floats,
    drawn: Integers,
    probabilities: Floats,
) -> None:
    """Draw from the two levels and the floor, see :class:`lightning_as.core.two_levels.TwoLevels`.

    The memory has a tree for each bin, with the weights in the first channel; `instance_of`, (N,), is the instance of
    each leaf; `p`, (k,), is P, and `cumulative_p`, (k,), its sums, which end in 1. `uniforms`, (B,), are used up.
    `drawn`, (2, B), takes the instances and their bins, `probabilities`, (2, B), takes r and that within the bin.
    """
    cells, width, fanout, size = memory.reshape(-1), memory.shape[1] * memory.shape[2], memory.shape[2], place_of.size
    instances, bins, of_levels = drawn[0], drawn[1], uniforms >= floor
    if p.size != sizes.size or cumulative_p.size != sizes.size or tags.size != size or instance_of.size != size:
        raise ValueError("P must be of as many bins, and the tables of as many instances, as there are.")
    for i in range(uniforms.size):
        if not 0 <= uniforms[i] < 1:
            raise ValueError("A uniform is not in [0, 1).")
        if of_levels[i]:
            uniform = min((uniforms[i] - floor) / (1 - floor), 1 - 2**-53)
            j = np.searchsorted(cumulative_p, uniform, side="right")
            below = cumulative_p[j - 1] if j > 0 else 0.0
            uniforms[i] = min((uniform - below) / (cumulative_p[j] - below), 1 - 2**-53)
            bins[i] = j
        else:
            instances[i] = min(int(uniforms[i] / floor * size), size - 1)  # rounding may have given size
            bins[i] = tags[instances[i]]
    leaves, q = bins[of_levels], uniforms[of_levels]  # the second is written over
    descend(memory, first_child, height, np.empty((sizes.size, 0)), 0.0, leaves, uniforms[of_levels], q)
    at = 0
    for i in range(uniforms.size):
        j = bins[i]
        if of_levels[i]:
            instances[i], within = instance_of[leaves[at]], q[at]
            at += 1
        else:
            within = cells[place_of[instances[i]]] / sum_of(cells, width * j, width * j + fanout)
        joint = (1 - floor) * p[j] * within + floor / size
        probabilities[0, i] = joint
        probabilities[1, i] = joint / ((1 - floor) * p[j] + floor * sizes[j] / size)


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
