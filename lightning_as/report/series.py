"""Figures in time, of a fit of any length in a small number of points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

FIGURES = ("ess", "gain", "variance_ratio", "loss")
"""What is kept of what the callback logs, by its name without ``adaptive/``."""
LENGTH = 200
"""Points at most; when there are so many every other one goes, and from then on half as many are taken."""


class Series:
    """Figures and the distribution over the bins, at some numbers of batches."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._at: list[int] = []
        self._figures: list[list[float]] = []
        self._bins: list[Tensor] = []
        self._stride = 1
        self._latest = 0
        self._passed = 0  # times that something could be noted
        self.last: dict[str, float] = {}
        """The last of each figure that was noted, the present ones."""

    def note(self, at: int, figures: Mapping[str, float], bins: Callable[[], Tensor]) -> None:
        """Note what there is after a number of batches, if it has not been; of a long fit now and then.

        Args:
            at: Number of batches so far. Where it has fallen, a training has begun anew, and so do the series.
            figures: Those of :data:`FIGURES` that are known, NaN if not any more, and others, which are left out.
            bins: Says how much each bin is drawn from, (k,). If k is another one, the series begin anew, too.
        """
        if at < self._latest:
            self._begin()
        if at == self._latest:
            return
        self._latest = at
        known = {name: float(figures[name]) for name in FIGURES if name in figures}
        self.last = {name: number for name, number in (self.last | known).items() if number == number}
        self._passed += 1
        if (self._passed - 1) % self._stride:
            return
        now = bins().detach().to("cpu", torch.float32)
        if self._bins and now.shape != self._bins[-1].shape:
            self._at, self._figures, self._bins = [], [], []
        self._at.append(at)
        self._figures.append([known.get(name, math.nan) for name in FIGURES])
        self._bins.append(now)
        if len(self._at) == LENGTH:
            self._at, self._figures, self._bins = self._at[::2], self._figures[::2], self._bins[::2]
            self._stride *= 2

    @property
    def at(self) -> list[int]:
        """Numbers of batches, (T,)."""
        return self._at

    def figure(self, name: str) -> list[float]:
        """One of :data:`FIGURES`, (T,); NaN where it was not known."""
        return [row[FIGURES.index(name)] for row in self._figures]

    def bins(self) -> Tensor:
        """How much each bin was drawn from, (T, k) float32."""
        return torch.stack(self._bins) if self._bins else torch.empty(0, 0, dtype=torch.float32, device="cpu")

    def state_dict(self) -> dict[str, Any]:
        """State as plain lists, numbers and a tensor; copies."""
        return {
            "at": list(self._at),
            "figures": [list(row) for row in self._figures],
            "bins": self.bins(),
            "stride": self._stride,
            "latest": self._latest,
            "passed": self._passed,
            "last": dict(self.last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._at, self._figures = list(state["at"]), [list(row) for row in state["figures"]]
        self._bins = list(state["bins"].clone().unbind())
        self._latest, self._passed, self._stride = state["latest"], state["passed"], state["stride"]
        self.last = dict(state["last"])
