"""How much of the data seems hopeless, and whether it stays so: what tells wrong labels from what is merely hard.

With v = exp(−l), under cross-entropy the probability of the given label, an instance seems hopeless at a visit if its v
is below 1/10. What is hard leaves that state from one visit to the next; what is wrong stays in it. Of instances that
are drawn with the probabilities r, sums over the draws of x / (N r) have the expectation of the mean of x over all N.

Source: New; the statistic is of two visits, where the area under the margin of Pleiss et al., "Identifying Mislabeled
Data using the Area Under the Margin Ranking" (NeurIPS 2020), is of all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.state import require

HOPELESS = 0.1
"""What seems hopeless has a v below."""
_KEPT = 0.75  # of the sums, at each estimate
_FEW, _MANY = 0.02, 0.08  # shares of the data that seem hopeless, h, at which caution begins and is whole
_LEAVES, _STAYS = 0.5, 0.7  # likewise of those that seemed so at their visit before, k


class Persistence:
    """The share h of the data that seems hopeless, the share k of these that stays so, and what follows from both.

    Args:
        size: Number of instances N.
        device: Where the sums are kept.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size, self._device = size, device
        self.begin()

    def begin(self) -> None:
        """A new training: the sums start anew."""
        self.window = torch.zeros(4, dtype=torch.float64, device=self._device)
        """Since the last estimate, (4,): Σ x / (N r) for x = [seems hopeless]; the number of visits; and Σ x / (N r)
        for x = [seemed so at the visit before], and for both."""
        self._sums = torch.zeros_like(self.window)
        self._caution = torch.zeros_like(self.window[0])

    def observe(self, before: Tensor, seems: Tensor, known: Tensor, probabilities: Tensor) -> None:
        """Add the visits of a batch.

        Args:
            before: Whether each instance seemed hopeless at its visit before, (B,) bool; not so if it has had none.
            seems: Whether it seems so now, (B,) bool; of no matter where that is not known.
            known: Whether it is, (B,) bool.
            probabilities: r of each, (B,) float64.
        """
        added = torch.stack([seems, torch.ones_like(seems), before, seems & before]).to(torch.float64)
        added /= torch.stack([probabilities * self._size, torch.ones_like(probabilities)])[[0, 1, 0, 0]]
        self.window = self.window + (added * known).sum(1)

    def estimate(self, first: bool) -> None:
        """Take over what was visited since the last estimate.

        Caution only rises, for a network that has learned wrong labels by heart no longer shows them; but in the
        `first` pass, and until there is a k, it may fall.
        """
        had_second_visits = self._sums[2] > 0
        self._sums, self.window = _KEPT * self._sums + self.window, torch.zeros_like(self.window)
        now = _ramp(self.share, _FEW, _MANY) * _ramp(self.staying, _LEAVES, _STAYS)
        kept = had_second_visits & (not first)
        self._caution = torch.where(kept, torch.maximum(now, self._caution), now)

    @property
    def share(self) -> Tensor:
        """h, over some half a pass, () float64; 0 before there is an estimate."""
        hopeless, visits = self._sums[:2]
        return torch.where(visits > 0, hopeless / visits, 0).clamp(max=1)

    @property
    def staying(self) -> Tensor:
        """k, likewise, () float64; 1 before there is an estimate, which is to be careful."""
        before, both = self._sums[2:]
        return torch.where(before > 0, both / before, 1)

    @property
    def caution(self) -> Tensor:
        """The largest (h − 0.02)/0.06 · (k − 0.5)/0.2 since the first pass, each factor in [0, 1]; () float64."""
        return self._caution

    def state_dict(self) -> dict[str, Any]:
        parts = {"window": self.window, "sums": self._sums, "caution": self._caution}
        return {name: part.cpu().clone() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        caution, device = state["caution"], self._device
        for name in ("window", "sums"):
            require((state[name] >= 0).all(), f"`{name}` has negative entries")
        require((caution >= 0) & (caution <= 1), "`caution` is not from 0 to 1")
        self.window, self._sums = (state[name].to(device, copy=True) for name in ("window", "sums"))
        self._caution = caution.to(device, copy=True)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)
