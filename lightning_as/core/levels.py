"""Numbers in two bytes: levels of a logarithmic scale, for what is known of very many instances.

A doubt d, from 0 to 1, stands at log d − log(1 − d), any other number x at log x, on a scale from −24 to 24 with 16,383
levels. The level nearest to it is what is kept: d, 1 − d and x to 0.15 %. What is nearer than e^−24 = 4·10^−11 to 0 or
1 counts as that near. Level 0 is that of what is not known.

Since there are so few levels, instances are ranked by counting them, and nothing is ever sorted but the levels.

Source: New.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 2**14
"""Number of levels, with that of what is not known, which is 0."""
REACH = 24.0
"""Where the scale ends, at level 1 and the last one, on either side of 0."""
STEP = 2 * REACH / (LEVELS - 2)
"""From a level to the next."""


def levels_at(places: Tensor) -> Tensor:
    """The levels nearest to places on the scale, (B,) int16 for (B,) float64; of no meaning for NaN."""
    return places.clamp(-REACH, REACH).add(REACH).div_(STEP).add_(1.5).floor_().to(torch.int16)


def moved(before: Tensor, to: Tensor, found: Tensor) -> Tensor:
    """Levels that move to others, (B,) int16 all, by one at least if something else was found.

    Or else small steps would be lost in the rounding.

    Args:
        before: The levels before, 0 of what was not known.
        to: The nearest ones to where they are to be.
        found: Those of what was found.
    """
    return torch.where((to == before) & (before > 0), before + (found - before).sign(), to)


def doubts_of_levels(device: torch.device) -> Tensor:
    """D and 1 − d of every level, (2, levels) float64; of no meaning at level 0."""
    places = _places(device)
    return torch.stack([places.sigmoid(), places.neg().sigmoid()])


def numbers_of_levels(device: torch.device) -> Tensor:
    """X of every level, (levels,) float64; of no meaning at level 0."""
    return _places(device).exp()


def weights_of_levels(counts: Tensor, scores: Tensor, pressure: float) -> Tensor:
    """The weight s^(−i/N) of the instance at rank i = 0 … N − 1, the largest score first, for each level.

    Equal instances get the mean over their ranks, since where they stand in the data says nothing. No number is looked
    at, which on a GPU would have to be waited for.

    Args:
        counts: How many instances are at each level, (levels,) int64, N in all.
        scores: Of each level, (levels,) float64, not negative; at level 0 of no meaning.
        pressure: s, at least 1.

    Returns:
        The weights, (levels,) float64, in (0, 1]. Instances at level 0 come last, and get the mean over all ranks.
    """
    size, known = counts.sum(), counts.clone()
    known[:1] = 0
    ascending, order = scores.sort()
    below = torch.cat([known[:1], known.index_select(0, order).cumsum(0)])
    high = below.index_select(0, torch.searchsorted(ascending, scores, right=True))
    low = below.index_select(0, torch.searchsorted(ascending, scores))
    first, count = below[-1] - high, (high - low).clamp(min=1)  # where there are none it is of no matter
    first[:1], count[:1] = 0, size
    step = -max(math.log(pressure), 1e-9) / size.to(torch.float64)  # the sum of a geometric sequence divides by it
    return torch.exp(first * step) * torch.expm1(count * step) / (torch.expm1(step) * count)


def _places(device: torch.device) -> Tensor:
    return torch.arange(-1, LEVELS - 1, dtype=torch.float64, device=device).mul_(STEP).sub_(REACH)
