"""The sampler of which each process draws from a part of the data, and keeps what is known of that part alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.strategies import Strategy


class ShardedBatchSampler(AdaptiveBatchSampler):
    """An :class:`AdaptiveBatchSampler` over the shard of this process (:mod:`lightning_as.core.shards`).

    The strategy knows the instances of the shard by their numbers in it, and so do all draws; the data set is asked by
    positions. In each of R processes it draws the batch of that process by itself, from a distribution r of its own: a
    place of the global batch goes to an instance with the probability r / R.

    Args:
        bins: The partition of the whole data set.
        batch_size: As there, and so are all that follow.
        batches_per_epoch: As there.
        seed: From which the seed of each process follows.
        num_replicas: As there.
        rank: As there.
        device: As there.

    Raises:
        TypeError: As there.
        ValueError: As there; and if the data lie in chunks.
    """

    def __init__(
        self,
        bins: Bins,
        batch_size: int,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if bins.chunks is not None:
            raise ValueError(
                "The data lie in chunks, which `sharded=True` would cut: leave it out, or say `open_chunks=None` to "
                "read the instances wherever they are."
            )
        self.saves_to: str | None = None
        """The beginning of the path of the folders that the callback saves states to, equal in all processes."""
        self._seed = seed
        self._positions: Tensor | None = None  # of its instances in the data set, where the draws are
        self._shard_of: tuple[int, int] | None = None  # the process, and how many there are, that the shard is of
        super().__init__(bins, batch_size, batches_per_epoch, seed, num_replicas, rank, device)

    @property
    def own_bins(self) -> Bins:
        """The partition of the shard, on the CPU."""
        if self._shard_of != (present := (self.rank, self.num_replicas)):
            self._own_bins = self._moved = self.bins.in_shard(*present)
            self._shard_of, self._positions = present, None
            for generator in (self._generator, self._shuffling):
                generator.manual_seed(own_seed(torch.Generator().manual_seed(self._seed), *present))
        return self._own_bins

    @property
    def _own_bins_on_device(self) -> Bins:
        own, device = self.own_bins, self._bins_on_device.device
        if self._moved.device != device:
            self._moved = own.to(device)
        return self._moved

    @property
    def sharing(self) -> int:
        """1: each process draws its own batch."""
        return 1

    @property
    def common_generator(self) -> torch.Generator:
        """One in the state from which the seeds of the processes follow."""
        return torch.Generator().manual_seed(self._seed)

    def __iter__(self) -> Iterator[Any]:
        if not self.strategy.bins.is_copy_of(self.own_bins):  # made before there were several processes
            self.attach(self.strategy)
        return super().__iter__()

    def moment(self, strategy: Strategy) -> str:
        """How far a strategy has come, the same in all processes: epochs, batches of this one drawn and trained on."""
        progress = strategy.progress.state_dict()
        return f"epoch={progress['epochs']}-drawn={progress['batch']}-trained={self._position}"

    def facts(self) -> dict[str, int]:
        """Which part of the data it has: number of shards, of instances of all, where it begins; and a checksum."""
        shard = self.own_bins.shard
        assert shard is not None
        positions = zlib.crc32(shard.positions.numpy().tobytes())
        return {"count": shard.shards, "size": shard.size, "start": shard.start, "positions": positions}

    def _state(self, strategy: Strategy) -> dict[str, Any]:
        return super()._state(strategy) | {"shard": self.facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state of this very shard was taken.

        Raises:
            ValueError: As there; and if it is of another shard.
        """
        if isinstance(state, dict) and isinstance(state.get("shard"), dict) and state["shard"] != self.facts():
            raise ValueError(
                f"The state to load is of another part of the data, {state['shard']}, than this process has, "
                f"{self.facts()}: use as many processes as before, a checkpoint, or a new callback."
            )
        super().load_state_dict(state)

    def _listed(self, draw: Draw) -> Any:
        assert self.own_bins.shard is not None
        if self._positions is None or self._positions.device != draw.indices.device:
            self._positions = self.own_bins.shard.positions.to(draw.indices.device)
        return super()._listed(draw._replace(indices=self._positions.index_select(0, draw.indices).long()))


def own_seed(common: torch.Generator, rank: int, count: int) -> int:
    """The seed of a process, from a generator that is in the same state in all of them."""
    return int(torch.randint(2**63 - 1, (count,), generator=common, device="cpu")[rank])
