"""Loops over the numbers of a batch for the two levels of the law: see :mod:`lightning_as.kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.kernels import Floats, Integers, draw_leaves, kernel, set_leaves, sum_of


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

    For the law see :mod:`lightning_as.smoothed_where_drawn`. If a sum of the weights or scores of a tree is not between
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
