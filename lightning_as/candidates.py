"""Candidates for batch selectors: several batches at a time, from shuffled passes over the data set."""

from __future__ import annotations

from typing import Any

import torch

from lightning_as.bins import Bins
from lightning_as.draw import Draw
from lightning_as.passes import Passes


class Candidates:
    """Draws without replacement, in passes that know nothing of epochs: what is left over waits for the next draw.

    Args:
        bins: The partition, of which the draws take no notice.
    """

    def __init__(self, bins: Bins) -> None:
        self._bins = bins
        self._passes = Passes()

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        """The next `size` instances; one may be there twice where a pass ends.

        Raises:
            ValueError: If there are not so many.
        """
        count = len(self._bins)
        if size > count:
            raise ValueError(
                f"{size} candidates cannot be had of {count} instances: use smaller batches, or keep a larger share."
            )
        (indices,) = self._passes.take(size, lambda: (torch.randperm(count, generator=generator),))
        return Draw(indices, self._bins.of(indices), torch.full((size,), 1 / count, dtype=torch.float64))

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints."""
        return self._passes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many instances."""
        self._passes.load_state_dict(state)


def batches_of_candidates(keep: float) -> int:
    """How many batches of candidates make one batch to train on, of which the share `keep` is kept.

    Raises:
        ValueError: If that is not a whole number, or just one.
    """
    factor = round(1 / keep) if 0 < keep < 1 else 0
    if factor < 2 or abs(1 / keep - factor) > 0.01:
        raise ValueError(
            f"`keep` must be 1 over a whole number of batches of candidates, got {keep}: use 0.5, 0.25 or 0.1, say."
        )
    return factor
