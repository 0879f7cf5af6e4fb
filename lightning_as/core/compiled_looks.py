"""Loops over what a batch shows of its instances, which numba compiles for the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_trees import Floats, Integers, kernel


@kernel
def note_looks(
    numbers: NDArray[np.float32],
    counts: NDArray[np.int32],
    step: int,
    indices: Integers,
    losses: Floats,
    confidences: Floats,
    margins: Floats,
    labels: Integers,
    others: Integers,
    smoothing: float,
) -> None:
    """Note what a batch has shown of its instances in the rows of a :class:`lightning_as.core.record.Record`.

    Args:
        numbers: (N, 5): the last loss and the smoothed one, the smoothed confidence and its variance, the mean margin.
        counts: (N, 7): times drawn, the batch of the last time, margins known, times learnt and forgotten, label and
            other class, both by one larger.
        step: The number of the batch, from 1.
        indices: (B,); of equal ones the last counts, but for the times drawn.
        losses: (B,), as the others: what is not finite, or negative of the integers, is not known.
        confidences: See above.
        margins: See above.
        labels: See above.
        others: See above.
        smoothing: The share that a smoothed number keeps of itself.
    """
    known = min(losses.size, confidences.size, margins.size, labels.size, others.size)
    if known != indices.size or max(losses.size, confidences.size, margins.size, labels.size, others.size) != known:
        raise ValueError("There must be one number for each instance.")
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= len(counts):
            raise IndexError("An instance is not there.")
    for i in range(indices.size - 1, -1, -1):
        row, count = numbers[indices[i]], counts[indices[i]]
        count[0] += 1
        if count[1] == step:
            continue  # a later one of the batch has been noted
        count[1] = step
        if math.isfinite(losses[i]):
            row[0] = losses[i]
            row[1] = losses[i] if math.isnan(row[1]) else smoothing * row[1] + (1 - smoothing) * losses[i]
        if labels[i] >= 0:
            count[5] = labels[i] + 1
        if not math.isfinite(margins[i]) or not math.isfinite(confidences[i]):
            continue
        away = 0.0 if math.isnan(row[2]) else confidences[i] - row[2]
        row[3] = smoothing * ((0.0 if math.isnan(row[3]) else row[3]) + (1 - smoothing) * away * away)
        row[2] = confidences[i] if math.isnan(row[2]) else row[2] + (1 - smoothing) * away
        count[2] += 1
        row[4] = margins[i] if count[2] == 1 else row[4] + (margins[i] - row[4]) / count[2]
        was_right = count[3] > count[4]
        count[3] += margins[i] > 0 and not was_right
        count[4] += was_right and margins[i] <= 0
        count[6] = others[i] + 1


@kernel
def look_at_logits(
    logits: NDArray[Any], labels: Integers, others: Integers, margins: Floats, confidences: Floats, bounds: Floats
) -> None:
    """What logits, (B, C), say of labels, (B,), see :class:`lightning_as.losses.margins.Margins`.

    A label that is none of the classes leaves its entries as they are.
    """
    classes = logits.shape[1]
    for i in range(len(labels)):
        label = labels[i]
        if label < 0 or label >= classes:
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
        others[i], margins[i], confidences[i] = other, given - best, own / total
        bounds[i] = (squares + rest * rest) / (total * total)
