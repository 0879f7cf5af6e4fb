"""P over the bins of a shard, of which each process has one, from the draws of all processes.

P over the bins of the whole data is that of :class:`GradientBinDistribution`, equal in all processes: before each
recomputation what they have accumulated is summed, k numbers every β batches. A shard with m_j of the n_j instances of
the bin j draws from it in proportion to P_j m_j / n_j.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution, GradientBinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.shards import over_processes


class ShardBinDistribution(BinDistribution):
    """P over the bins that a shard has something of.

    Args:
        bins: The partition of the shard.
        whole: P over the bins of the whole data, which does not recompute itself: its β is None.
        beta: β, batches between two recomputations.
    """

    def __init__(self, bins: Bins, whole: GradientBinDistribution, beta: int) -> None:
        assert bins.shard is not None
        self.whole = whole
        self.beta = beta
        own, all_ = (
            torch.tensor(sizes, dtype=torch.float64, device=bins.device) for sizes in (bins.sizes, bins.whole_sizes)
        )
        self._sizes, self._shares = own, own / all_
        self._bins = bins.shard.whole_bins.to(bins.device)
        super().__init__(self._own())

    @property
    def age(self) -> int:
        """Batches since P was last recomputed."""
        return self.whole.age

    def update(self, bins: Tensor, bounds: Tensor, within: Tensor) -> None:
        """As of :class:`GradientBinDistribution`, of the shard's bins; all processes must call it equally often."""
        of_whole = within * self._shares.index_select(0, bins)
        self.whole.update(self._bins.index_select(0, bins), bounds, of_whole)
        if self.whole.age == self.beta:
            self.whole.sum_up(over_processes)
            self.whole.recompute()
            self.set(self._own())

    def state_dict(self) -> dict[str, Any]:
        """That of P over the whole data."""
        return self.whole.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same data."""
        self.whole.load_state_dict(state)
        self.set(self._own())

    def _own(self) -> Tensor:
        """P of the shard, (k',); by sizes, if P is 0 for all of it."""
        p = self.whole.probabilities.index_select(0, self._bins) * self._shares
        p = torch.where(p.sum() > 0, p, self._sizes)
        return p / p.sum()
