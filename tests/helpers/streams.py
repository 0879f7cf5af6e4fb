"""Data without positions, as webdataset has them, and what is made of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed import get_rank, get_world_size, is_initialized
from torch.utils.data import IterableDataset, get_worker_info

from lightning_as import AdaptiveIterableLoader
from tests.helpers.statistics import seeded
from tests.helpers.tiny import BATCH, tiny_dataset

SIZE = 6 * BATCH


class Shards(IterableDataset[Any]):
    """Samples as of webdataset, in shards of a batch, which loader processes take in turn, and processes as well.

    With `split` a process has its own; `size` samples in all. They come in another order in each pass, the shards
    stay in theirs.
    """

    def __init__(self, size: int = SIZE, split: bool = True) -> None:
        self.size, self.split, self.epoch = size, split, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from map(self.sample, self.order())

    def order(self) -> list[int]:
        """The numbers of the samples that come here."""
        shards = torch.arange(self.size).split(BATCH)
        if self.split and is_initialized():
            shards = shards[get_rank() :: get_world_size()]
        if (worker := get_worker_info()) is not None:
            shards = shards[worker.id :: worker.num_workers]
        return [i for shard in shards for i in shard[torch.randperm(len(shard), generator=seeded(self.epoch))].tolist()]

    def sample(self, i: int) -> dict[str, Any]:
        features, labels = tiny_dataset(self.size).tensors
        return {"__key__": f"{i:06d}", "x": features[i], "y": labels[i], "tags": ("a", i), "length": [i % 3]}


class Resumable(Shards):
    """The same, and tells where it is."""

    at, begin = 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order, begin, self.begin = self.order(), self.begin, 0
        self.at = begin
        for i in order[begin:]:
            self.at += 1
            yield self.sample(i)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = state["at"]


def loader_of(stream: IterableDataset[Any], **options: Any) -> AdaptiveIterableLoader:
    return AdaptiveIterableLoader(stream, **{"batch_size": BATCH, "key": "__key__", "batches_per_epoch": 6, **options})


def keys_of(batches: Any) -> list[list[str]]:
    return [batch["__key__"] for batch in batches]
