"""The loader for data without positions: what a stream brings, of which a strategy keeps some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_as.core.arguments import check_integer
from lightning_as.data.candidates import Candidates, Keyed, KeyOf
from lightning_as.data.collation import collate
from lightning_as.data.stream_log import Origin, Place
from lightning_as.data.stream_sampler import StreamSampler


class AdaptiveIterableLoader:
    """A train loader for an `IterableDataset`, of which an :class:`AdaptiveSamplingCallback` keeps or skips samples.

    The callback needs a strategy for streams, ``AdaptiveSamplingCallback(KeepOrSkip())``; without it all samples are
    kept, as with ``DataLoader(…, drop_last=True)``. Samples are read and decoded, in loader processes if there are any,
    and only what is kept becomes a batch, in the main process, of exactly `batch_size`. So decisions are up to date,
    however far the loader processes are ahead.

    An epoch has `batches_per_epoch` batches, and the stream goes on in the next one. When it ends it begins anew, and
    what has been kept waits for the next batch. Where the data set has a method `set_epoch`, it is told the number of
    the pass first, which shuffles those of Hugging Face's `datasets` anew.

    In several processes each has a stream of its own: the data set must give each its part, as
    `datasets.distributed.split_dataset_by_node` and webdataset's `split_by_node` do. What is learnt all know.

    It is no torch `DataLoader`, though it has one inside: Lightning leaves it alone.

    Args:
        dataset: Any `IterableDataset` of single samples.
        batch_size: Instances per batch, of this process.
        key: Where a sample has its key, a string, bytes or a whole number that is always the same of an instance, and
            of no other: a name in a mapping, such as ``"__key__"``, a place in a tuple, or a function of the sample.
        batches_per_epoch: Length of an epoch. Default: the data set's length over the batch size, if it has one.
        seed: Seed of the decisions, and of the loader processes. Default: what `seed_everything` or
            `torch.manual_seed` was last given.
        num_workers: As in torch, and so are all that follow.
        collate_fn: Makes a batch of a list of samples. Default: torch's own, or for graphs PyTorch Geometric's.
        timeout: Seconds to wait for a loader process.
        worker_init_fn: Called in each of them with its number.
        multiprocessing_context: How they are started.
        prefetch_factor: Candidates that each reads ahead, in batches.
        persistent_workers: Keep them when the stream begins anew.

    Raises:
        TypeError: If the data set is no `IterableDataset`, a size is not an integer, or `key` is none of the above.
        ValueError: If a size is missing or not positive. While it is iterated, if a sample has no such key, or the
            stream ends after fewer samples than make a batch.
    """

    turn: Callable[[], bool] | None = None
    """As of :class:`AdaptiveDataLoader`: others than the fit are shown the stream from its beginning."""
    released: bool = False
    """Whether a fit with a callback has ended since the last epoch, so that all is kept in the next one."""

    def __init__(
        self,
        dataset: IterableDataset[Any],
        batch_size: int,
        key: KeyOf,
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        _check(dataset, key)
        check_integer("batch_size", batch_size)
        length = _length(dataset, batch_size) if batches_per_epoch is None else batches_per_epoch
        seed = torch.initial_seed() if seed is None else seed
        self.stream = dataset
        resumable = not num_workers and hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")
        self._place = Place(dataset if resumable else None)
        self.sampler = StreamSampler(batch_size, length, seed, self._place)
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.collate_fn = collate_fn or collate
        self._options: dict[str, Any] = {
            "num_workers": num_workers,
            "timeout": timeout,
            "worker_init_fn": worker_init_fn,
            "multiprocessing_context": multiprocessing_context,
            "prefetch_factor": prefetch_factor,
        }
        self._own = Keyed(key), seed, persistent_workers
        self._candidates = self._make()
        self._running: Iterator[Candidates] | None = None
        self._came: int | None = None  # samples of it; None if it did not begin at its beginning
        self._kept: list[Any] = []  # samples that wait for a batch

    @property
    def batch_size(self) -> int:
        """Instances per batch, of this process."""
        return self.sampler.batch_size

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch, each made when it is asked for."""
        if self.turn is not None and not self.turn():
            # Of a copy, since a data set may keep where it is.
            yield from self._reader(copy(self.stream), self.collate_fn, 0, drop_last=True)
            return
        if self.released:
            self.sampler.detach()
            self.released = False
        for _ in self.sampler.epoch():
            yield self._next_batch()

    def _next_batch(self) -> Any:
        if self._place.begins:
            self._running, self._kept = None, []
            self._place.number, self._place.begins, self._place.under_way = self._place.start.number, False, False
        while len(self._kept) < self.batch_size:
            origin, candidates = self._place.now(), self._read()
            self._kept += candidates.take(self.sampler.choose(candidates.keys, candidates.names, origin))
        samples, self._kept = self._kept[: self.batch_size], self._kept[self.batch_size :]
        self.sampler.form()
        return self.collate_fn(samples)

    def _read(self) -> Candidates:
        """The next candidates, of the next pass if this one is over."""
        while True:
            if self._running is None:
                self._begin()
            assert self._running is not None
            if (candidates := next(self._running, None)) is not None:
                if self._came is not None:
                    self._came += len(candidates.names)
                return candidates
            self._end()

    def _begin(self) -> None:
        """Begin a pass; or go on in one, if a checkpoint says where."""
        place, stream = self._place, cast(Any, self.stream)
        state, place.start = place.start.state, Origin(0, None)
        if callable(getattr(stream, "set_epoch", None)):
            stream.set_epoch(place.number)
        if state is not None:
            stream.load_state_dict(state)
        self._came = 0 if state is None else None
        self.sampler.begin_pass()
        self._running, place.under_way = iter(self._candidates), True

    def _end(self) -> None:
        """Note that the stream has ended."""
        if self._came is not None and self._came < self.batch_size:
            raise ValueError(
                f"The stream of process {self.sampler.rank} ended after {self._came} samples, but `batch_size` is "
                f"{self.batch_size}: use a smaller one, or give each process, by the data set's own means, more of the "
                "data; a data set that can be iterated once only, such as one over a generator, must make it anew in "
                "each `__iter__`."
            )
        self._running, self._place.under_way = None, False
        self._place.number += 1

    def end_workers(self) -> None:
        """End the loader processes, as at the end of a fit; if there are any, the stream begins anew after it."""
        if self.num_workers:
            self._running, self._candidates = None, self._make()
            self.sampler.restart()

    def _make(self) -> DataLoader[Any]:
        """What reads the candidates."""
        keyed, seed, persistent = self._own
        return self._reader(self.stream, keyed, seed, persistent_workers=persistent)

    def _reader(
        self, stream: IterableDataset[Any], collate_fn: Callable[[Any], Any], seed: int, **options: Any
    ) -> DataLoader[Any]:
        """A loader of the samples by so many as make a batch."""
        return DataLoader(
            stream,
            self.batch_size,
            collate_fn=collate_fn,
            generator=torch.Generator().manual_seed(seed),  # or else torch would move the global one
            **self._options,
            **options,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the callback keeps the sampler's state. It is here to tell Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def _check(dataset: Any, key: Any) -> None:
    if not isinstance(dataset, IterableDataset):
        indexed = hasattr(dataset, "__getitem__")
        instead = "use an AdaptiveDataLoader, for it has positions" if indexed else "make it one, by its `__iter__`"
        raise TypeError(f"`dataset` must be an IterableDataset, got a {type(dataset).__name__}: {instead}.")
    if not (isinstance(key, (str, int)) or callable(key)) or isinstance(key, bool):
        raise TypeError(f"`key` must be the name or place of a sample's key, or a function of the sample, got {key!r}.")


def _length(dataset: Any, batch_size: int) -> int:
    """Number of batches in an epoch of a data set that has a length."""
    try:
        return max(len(dataset) // batch_size, 1)
    except TypeError as error:
        raise ValueError(
            f"`batches_per_epoch` is missing, and {type(dataset).__name__} has no length: give the number of batches "
            "after which an epoch ends, and the stream goes on in the next one; such as the number of samples over "
            "the batch size, or 1000."
        ) from error
