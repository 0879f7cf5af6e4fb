"""Doubts by levels, so that one takes 13 bits, and ranks need no sorting of instances.

A doubt d from 0 to 1 lies on one of 8191 levels, 1/256 apart on the scale of log d/(1 − d), which goes from −16 to 16:
what is small keeps its digits. Rounding moves a doubt by 0.2 % of d (1 − d) at most, and what is beyond the scale, d
below 10⁻⁷ or above 1 − 10⁻⁷, to its end. Of how many instances are on each level follow the ranks of all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.compiled_trees import Floats

LEVELS = 2**13 - 1
"""Levels, from 1 to this; 0 is that of what is not known."""
_LARGEST = 16.0
_STEP = 2 * _LARGEST / (LEVELS - 1)
_LOGITS = np.linspace(-_LARGEST, _LARGEST, LEVELS)
DOUBTS = np.concatenate([[0.0], 1 / (1 + np.exp(-_LOGITS))])
"""The doubt of each level, (LEVELS + 1,)."""


def levels_of(doubts: Floats) -> NDArray[np.int16]:
    """The nearest level of each doubt, (B,)."""
    with np.errstate(divide="ignore"):
        logits = np.log(doubts) - np.log1p(-doubts)
    return (np.rint((logits.clip(-_LARGEST, _LARGEST) + _LARGEST) / _STEP) + 1).astype(np.int16)


def weights_of_levels(counts: Floats, gamma: float, pressure: float, floor: float) -> Floats:
    """The weight max(s^(−i/M), ε) of an instance on each level, at rank i of M by closeness d (1 − d)^γ, largest first.

    Instances on one level share the mean over their ranks; on an empty one there is the rank that one would have.

    Args:
        counts: Number of instances on each level, (LEVELS + 1,) float64; those on level 0 have no rank.
        gamma: γ, at least 0.
        pressure: s, at least 1.
        floor: ε, from 0 to 1.

    Returns:
        The weights, (LEVELS + 1,), 1 on level 0.
    """
    known = counts[1:]
    size = int(known.sum())
    if size == 0 or pressure == 1:
        return np.ones(LEVELS + 1)
    closeness = DOUBTS[1:] / (1 + np.exp(_LOGITS)) ** gamma  # where 1 − d keeps its digits
    order = np.argsort(-closeness, kind="stable")
    sizes = known[order]
    first, sizes = np.cumsum(sizes) - sizes, np.maximum(sizes, 1)
    step = -math.log(pressure) / size  # the sum of a geometric sequence divides by it
    weights = np.ones(LEVELS + 1)
    weights[1 + order] = np.exp(first * step) * np.expm1(sizes * step) / (math.expm1(step) * sizes)
    weights = np.maximum(weights, floor)
    weights[0] = 1.0
    return weights
