"""Loops over what a batch shows of its instances, which numba compiles for the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_trees import Floats, Integers, kernel

_LARGEST = float(np.finfo(np.float32).max)


@kernel
def held(number: float) -> float:
    """A finite number as one that is finite in the record."""
    return min(max(number, -_LARGEST), _LARGEST)


@kernel
def note_looks(
    numbers: NDArray[np.float32],
    counts: NDArray[np.int32],
    step: int,
    indices: Integers,
    looks: Floats,
    smoothing: float,
    weight: float,
) -> None:
    """Note what a batch has shown of its instances in the rows of a :class:`lightning_as.core.record.Record`.

    Args:
        numbers: (N, 7): the last loss and the smoothed one, the smoothed confidence and its variance, the mean margin,
            the late margin and the sum of its weights.
        counts: (N, 7): times drawn, the batch of the last time, margins known, times learnt and forgotten, label and
            other class, both by one larger.
        step: The number of the batch, from 1.
        indices: (B,); of equal ones the last counts, but for the times drawn.
        looks: (6, B): loss, bound, confidence, margin, label, other class; NaN for what is not known.
        smoothing: The share that a smoothed number keeps of itself.
        weight: That of this batch in the late margin.
    """
    if looks.shape != (6, indices.size):
        raise ValueError("There must be six numbers for each instance.")
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= len(counts):
            raise IndexError("An instance is not there.")
    for i in range(indices.size - 1, -1, -1):
        row, count = numbers[indices[i]], counts[indices[i]]
        count[0] += 1
        if count[1] == step:
            continue  # a later one of the batch has been noted
        count[1] = step
        loss, confidence, margin, label = looks[0, i], looks[2, i], looks[3, i], looks[4, i]
        if math.isfinite(loss):
            row[0] = held(loss)
            row[1] = held(loss if math.isnan(row[1]) else smoothing * row[1] + (1 - smoothing) * loss)
        if label >= 0:
            count[5] = np.int32(label) + 1
        if not math.isfinite(margin) or not math.isfinite(confidence):
            continue
        away = 0.0 if math.isnan(row[2]) else confidence - row[2]
        row[3] = smoothing * ((0.0 if math.isnan(row[3]) else row[3]) + (1 - smoothing) * away * away)
        row[2] = confidence if math.isnan(row[2]) else row[2] + (1 - smoothing) * away
        count[2] += 1
        row[4] = held(margin if count[2] == 1 else row[4] + (margin - row[4]) / count[2])
        row[6] = weight if count[2] == 1 else row[6] + weight
        row[5] = held(margin if count[2] == 1 else row[5] + (margin - row[5]) * weight / row[6])
        was_right = count[3] > count[4]
        count[3] += margin > 0 and not was_right
        count[4] += was_right and margin <= 0
        count[6] = np.int32(looks[5, i]) + 1


@kernel
def look_at_logits(logits: NDArray[Any], targets: NDArray[Any], ignored: int, looks: Floats) -> None:
    """What logits, (B, C), say of class indices, (B,): all of `looks`, (6, B), but the losses.

    See :func:`lightning_as.losses.margins.look_at`. A target that is `ignored` or no class leaves its column as it is.
    """
    classes = logits.shape[1]
    if looks.shape != (6, len(targets)) or len(logits) != len(targets):
        raise ValueError("There must be six numbers and a row of logits for each target.")
    for i in range(len(targets)):
        label = np.int64(targets[i])
        if label < 0 or label >= classes or label == ignored:
            continue
        given, best, other = np.float64(logits[i, label]), -math.inf, -1
        for j in range(classes):
            if j != label and (other < 0 or logits[i, j] > best):
                best, other = np.float64(logits[i, j]), j
        largest = max(given, best)
        rest = squares = 0.0
        for j in range(classes):
            if j != label:
                exponential = math.exp(np.float64(logits[i, j]) - largest)
                rest += exponential
                squares += exponential * exponential
        own = math.exp(given - largest)
        total = own + rest
        looks[1, i] = (squares + rest * rest) / (total * total)
        looks[2, i], looks[3, i], looks[4, i], looks[5, i] = own / total, given - best, label, other
