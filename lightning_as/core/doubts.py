"""What is known of each instance by its losses, in two bytes: its doubt, and whether it seemed hopeless.

With v = exp(−l) the doubt d is 1 − v, smoothed over the visits of an instance: d ← α d + (1 − α)(1 − v). It is kept as
a level (:mod:`lightning_as.core.levels`), with one bit more, of whether the instance seemed hopeless at its last visit
(:mod:`lightning_as.core.persistence`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_as.core.execution import loops
from lightning_as.core.levels import LEVELS, STEP, doubts_of_levels, levels_at, moved
from lightning_as.core.persistence import HOPELESS, Persistence
from lightning_as.core.tree_in_bins import last_occurrence


class Doubts:
    """The doubts of N instances, none of which is known at first.

    Args:
        size: N.
        smoothing: α in [0, 1), the share of its old doubt that a visit leaves an instance.
        device: Where they are kept.
    """

    def __init__(self, size: int, smoothing: float, device: torch.device) -> None:
        self.smoothing = smoothing
        self.levels = torch.zeros(size, dtype=torch.int16, device=device)
        """The level of each instance, (N,) int16, 0 where it is not known; plus LEVELS if it seemed hopeless."""
        self._of_levels = doubts_of_levels(device)

    def learn(self, indices: Tensor, losses: Tensor, probabilities: Tensor, persistence: Persistence) -> None:
        """Learn from a batch that was trained on; of duplicates the last visit counts.

        Args:
            indices: The instances, (B,) int64.
            losses: Their losses, (B,) float64; those that are not finite are left out.
            probabilities: r of each, (B,) float64.
            persistence: What is told of the visits.
        """
        if (compiled := loops(self.levels.device)) is not None:
            tables = self.levels, self._of_levels, persistence.window
            parts = (*tables, indices, losses.contiguous(), probabilities)
            compiled.smooth_doubts(*(part.numpy() for part in parts), self.smoothing, 1 - HOPELESS, STEP)
            return
        known, old = losses.isfinite(), self.levels.index_select(0, indices)
        found, before = torch.stack([torch.expm1(-losses).neg_(), torch.exp(-losses)]), old % LEVELS
        seems = found[0] > 1 - HOPELESS
        persistence.observe(old >= LEVELS, seems, known, probabilities)
        smoothed = torch.lerp(found, self._of_levels.index_select(1, before.long()), self.smoothing)
        places = torch.stack([torch.where(before == 0, found, smoothed), found]).log()
        new = moved(before, *levels_at(places[:, 0] - places[:, 1])) + LEVELS * seems
        new = torch.where(known, new, old).index_select(0, last_occurrence(indices, known))
        self.levels.index_copy_(0, indices, new.to(torch.int16))
