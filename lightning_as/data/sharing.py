"""Which process this is, and what it gets of a batch that several share."""

from __future__ import annotations

from torch import Tensor
from torch.distributed import get_rank, get_world_size, is_available, is_initialized
from torch.utils.data import DistributedSampler


class SharedSampler(DistributedSampler[list[int]]):
    """A sampler that Lightning leaves alone, since it is a `DistributedSampler`.

    Args:
        num_replicas: Number of processes. Default: that of torch's process group, or 1.
        rank: Which of them this is. Default: that in torch's process group, or 0.

    Raises:
        ValueError: If `rank` is out of range.
    """

    def __init__(self, num_replicas: int | None = None, rank: int | None = None) -> None:
        # DistributedSampler.__init__ is left out on purpose: it asks for a process group and a data set.
        self._num_replicas = num_replicas
        self._rank = rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"`rank` must be from 0 to `num_replicas` - 1 = {self.num_replicas - 1}, got {self.rank}.")

    # Asked for anew each time: a sampler may be made before the process group is.
    @property
    def num_replicas(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of processes that have a sampler like this."""
        return (get_world_size() if _in_group() else 1) if self._num_replicas is None else self._num_replicas

    @property
    def rank(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Which of them this is."""
        return (get_rank() if _in_group() else 0) if self._rank is None else self._rank

    @property
    def sharing(self) -> int:
        """Number of processes that share a batch that is drawn."""
        return self.num_replicas

    def share(self, batch: Tensor) -> Tensor:
        """What this process gets of a batch that is drawn, or of any of its fields: (B,) of (B · :attr:`sharing`,)."""
        return batch[self.rank :: self.sharing] if self.sharing > 1 else batch


def _in_group() -> bool:
    return is_available() and is_initialized()
