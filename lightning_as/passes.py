"""Passes over lists of instances: draws without replacement that know nothing of epochs or batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Passes:
    """Goes over one list after another. A batch takes what is next, and goes on in a new list where one ends.

    A list is a tuple of tensors with a row for each entry: the instances, in the order of the pass, and whatever
    belongs to them.

    Example:
        >>> passes = Passes()
        >>> passes.take(3, lambda: (torch.tensor([4, 1]),))
        (tensor([4, 1, 4]),)
    """

    def __init__(self) -> None:
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
        """Take over a state."""
        self._rows = tuple(row.clone() for row in state["rows"])
        self._position = state["position"]
