"""Loops of a distribution by levels of doubt, which numba compiles for the CPU: its draws, and what is learnt.

See :mod:`lightning_as.core.compiled`, which has them all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_trees import Floats, Integers, kernel


@kernel
def draw_blocks(
    levels: NDArray[np.int16],
    tags: NDArray[Any],
    weights: Floats,
    scale: Floats,
    each: float,
    ends: Floats,
    width: int,
    points: Floats,
    drawn: Integers,
    probabilities: Floats,
) -> None:
    """Draw from instances in blocks of `width`, see :class:`lightning_as.core.level_distribution.LevelDistribution`.

    An instance has the probability `scale` of its bin, (k,), times the weight of its level, plus `each`. `ends`,
    (blocks,), is where the blocks' parts of [0, 1) end. `drawn`, (2, B), takes the instances and their bins,
    `probabilities`, (B,), takes r.
    """
    size = levels.size
    if tags.size != size or ends.size != (size + width - 1) // width:
        raise ValueError("There must be a bin of each instance, and an end of each block.")
    for i in range(points.size):
        if not 0 <= points[i] < 1:
            raise ValueError("A point is not in [0, 1).")
        block = np.searchsorted(ends, points[i], side="right")
        place, last = block * width, min(size, (block + 1) * width) - 1
        start = ends[block - 1] if block > 0 else 0.0
        r = scale[tags[place]] * weights[levels[place]] + each
        inside = r
        while place < last and start + inside <= points[i]:  # where the sum is rounded, the last instance has the rest
            place += 1
            r = scale[tags[place]] * weights[levels[place]] + each
            inside += r
        drawn[0, i], drawn[1, i], probabilities[i] = place, tags[place], r


@kernel
def draw_evenly(tags: NDArray[Any], points: Floats, drawn: Integers) -> None:
    """Draw from instances that each have one Nth of [0, 1).

    `tags`, (N,), has the bin of each; `drawn`, (2, B), takes the instances and their bins. The part of an instance i
    ends in (i + 1) / N, as float64 has it.
    """
    for i in range(points.size):
        if not 0 <= points[i] < 1:
            raise ValueError("A point is not in [0, 1).")
        place = min(int(points[i] * tags.size), tags.size - 1)
        if points[i] < place / tags.size:
            place -= 1
        elif points[i] >= (place + 1) / tags.size:
            place += 1
        drawn[0, i], drawn[1, i] = place, tags[place]


@kernel
def _level(doubt: float, rest: float, reach: float, step: float) -> int:
    """The level of a doubt and what is left of 1, of which one may be 0."""
    place = min(max(np.log(doubt) - np.log(rest), -reach), reach)
    return math.floor((place + reach) / step + 1.5)


@kernel
def smooth_doubts(
    levels: NDArray[np.int16],
    doubts: Floats,
    window: Floats,
    indices: Integers,
    losses: Floats,
    probabilities: Floats,
    smoothing: float,
    hopeless: float,
    step: float,
) -> None:
    """Move the levels of doubts, (N,), towards the 1 − exp(−l) of a batch; add to what tells how many stay hopeless.

    A doubt that is known keeps the share `smoothing` of itself, and one that is not, of level 0, nothing. `doubts`,
    (2, L), has d and 1 − d of each level, which are `step` apart; L is added to that of an instance whose 1 − exp(−l)
    is above `hopeless`. Of equal `indices`, (B,), the last counts. `window`, (4,), gets what
    :class:`lightning_as.core.persistence.Persistence` says, with r of `probabilities`, (B,). `losses`, (B,), that are
    not finite are left out.
    """
    if losses.size != indices.size or probabilities.size != indices.size:
        raise ValueError("There must be a loss and a probability for each instance.")
    if window.size != 4:
        raise ValueError("There must be four sums.")
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= levels.size:
            raise IndexError("An instance is not there.")
    before, count = levels[indices], doubts.shape[1]  # so that an instance that was drawn twice moves once
    reach = step * (count - 2) / 2
    for i in range(indices.size):
        if math.isfinite(losses[i]):
            doubt, rest = -math.expm1(-losses[i]), math.exp(-losses[i])
            seems, seemed, old = doubt > hopeless, before[i] >= count, np.int64(before[i] % count)
            if old == 0:
                level = _level(doubt, rest, reach, step)
            else:
                share = 1 - smoothing
                level = _level(
                    smoothing * doubts[0, old] + share * doubt, smoothing * doubts[1, old] + share * rest, reach, step
                )
                if level == old:  # a step that is too small for the rounding
                    found = _level(doubt, rest, reach, step)
                    level += 1 if found > old else -1 if found < old else 0
            levels[indices[i]] = level + count * seems
            weight = 1 / (levels.size * probabilities[i])
            window[0] += seems * weight
            window[1] += 1
            window[2] += seemed * weight
            window[3] += (seems and seemed) * weight
