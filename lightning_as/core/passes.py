"""Passes over lists of instances: draws without replacement that know nothing of epochs or batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import require, require_indices


class Passes:
    """Goes over one list after another. A batch takes what is next, and goes on in a new list where one ends.

    A list is a tuple of tensors with a row for each entry: the instances, in the order of the pass, and whatever
    belongs to them.

    Args:
        count: Number of instances N.

    Example:
        >>> passes = Passes(5)
        >>> passes.take(3, lambda: (torch.tensor([4, 1]),))
        (tensor([4, 1, 4]),)
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: tuple[Tensor, ...] = ()
        self._position = 0

    @property
    def left(self) -> int:
        """Number of entries of the present pass that have not been taken."""
        return len(self._rows[0]) - self._position if self._rows else 0

    def begin(self, rows: tuple[Tensor, ...]) -> None:
        """Begin a new pass now; what is left of the present one is dropped."""
        self._rows, self._position = rows, 0

    def take(self, size: int, new: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The next `size` entries.

        Args:
            size: Number of entries.
            new: Makes the list of the next pass, of at least one entry. Called where the present one ends.
        """
        parts = []
        while size:
            if not self.left:
                self.begin(new())
            part = tuple(row[self._position : self._position + size] for row in self._rows)
            parts.append(part)
            self._position += len(part[0])
            size -= len(part[0])
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints."""
        return {"rows": [row.clone() for row in self._rows], "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many instances."""
        rows = state["rows"]
        for at, row in enumerate(rows):
            if at == 0:
                require_indices("rows.0", row, self._count)
                continue
            fits = isinstance(row, Tensor) and row.dtype == torch.float64 and row.shape == rows[0].shape
            require(fits and (row >= 0).all() and row.isfinite().all(), f"`rows.{at}` is not a number for each of them")
        require(state["position"] <= (len(rows[0]) if rows else 0), "`position` is beyond the pass")
        self._rows = tuple(row.clone() for row in rows)
        self._position = state["position"]


class Candidates:
    """Draws without replacement, in passes that know nothing of epochs: what is left over waits for the next draw.

    Args:
        bins: The partition, of which the draws take no notice.
    """

    def __init__(self, bins: Bins) -> None:
        self._bins = bins
        self._passes = Passes(len(bins))

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
        (indices,) = self._passes.take(size, lambda: (torch.randperm(count, generator=generator, device="cpu"),))
        return Draw(indices, self._bins.of(indices), torch.full((size,), 1 / count, dtype=torch.float64, device="cpu"))

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
