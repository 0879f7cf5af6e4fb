"""The loader: any map-style data set, drawn from by an :class:`AdaptiveBatchSampler`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from lightning_as.core.chunk_order import Chunks
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.chunks import OPEN_CHUNKS, ChunkedStream, is_stream
from lightning_as.data.collation import collate
from lightning_as.data.fingerprint import fingerprint
from lightning_as.data.partition import BinsLike, make_bins, size_of
from lightning_as.data.sharded_sampler import ShardedBatchSampler


class AdaptiveDataLoader(DataLoader[Any]):
    """A train loader whose batches an :class:`AdaptiveSamplingCallback` chooses.

    Return it from your own `train_dataloader`. Without the callback its epochs are shuffled, as with
    ``DataLoader(…, shuffle=True, drop_last=True)``. Batches are drawn in the main process, at the time they are asked
    for: workers, persistent or not, need to know nothing. With workers a batch is drawn
    ``prefetch_factor · num_workers`` batches before it is trained on, from the distribution at that time.

    Args:
        dataset: Any data set with a length and `__getitem__`, or `__getitems__`, by position; or a
            `litdata.StreamingDataset`.
        batch_size: Instances per batch, of this process. Not with `sampler`.
        bins: The partition that is drawn from, see :func:`make_bins`. Default: one bin per class, of the labels that
            the data set keeps; one bin, and a warning, if it keeps none.
        batches_per_epoch: Length of an epoch. Default: the data set's size over the (global) batch size, floored.
        seed: Seed of the draws. Default: what `seed_everything` or `torch.manual_seed` was last given. A loader that is
            made anew for each epoch, and without the callback, needs another one each time.
        sampler: A sampler of your own over this data set, instead of `batch_size`, `bins`, `batches_per_epoch` and
            `seed`. Default: a new one.
        open_chunks: Of data in chunks, how many are open at a time in each process; None to draw from all at a time.
            Default: 8 of a `litdata.StreamingDataset` or :class:`lightning_as.data.chunks.InChunks`.
        sharded: Whether each of several processes keeps what is known of its own part of the data alone, and draws
            from that (:mod:`lightning_as.core.shards`). Not with `sampler`. Default: False.
        num_workers: As in torch, and so are all that follow.
        collate_fn: Makes a batch of a list of samples. Default: torch's own, or for graphs PyTorch Geometric's.
        pin_memory: Copy batches into pinned memory.
        timeout: Seconds to wait for a worker.
        worker_init_fn: Called in each worker with its number.
        multiprocessing_context: How workers are started.
        prefetch_factor: Batches that each worker loads ahead.
        persistent_workers: Keep the workers between epochs.

    Raises:
        MisconfigurationException: If the data set is an `IterableDataset` or has no length, or the `sampler` is none of
            ours.
        TypeError: If a size is not an integer.
        ValueError: If a size is missing or not positive, the batch is larger than the data set, the bins are not of
            the data set, or the `sampler` draws on a GPU and there are workers.
    """

    select: Callable[[Any], Any] | None = None
    """What every batch goes through in the main process, as it is asked for: makes a batch of candidates a smaller one.
    The callback sets it, for strategies that are batch selectors."""
    turn: Callable[[], bool] | None = None
    """Says whether who asks for a first batch now is the fit, for which batches are drawn. Others are shown shuffled
    ones, and nothing is drawn. The callback sets it. Default: None, no fit is under way."""
    released: bool = False
    """Whether a fit with a callback has ended since the last epoch, so that the next one is shuffled."""

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = None,
        bins: BinsLike = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        sampler: AdaptiveBatchSampler | None = None,
        *,
        open_chunks: int | None = OPEN_CHUNKS,
        sharded: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        dataset = ChunkedStream(dataset) if is_stream(dataset) else dataset
        size = size_of(dataset)
        chunks = _laid_out(dataset, open_chunks, plain=collate_fn is None)
        if isinstance(dataset, ChunkedStream):
            dataset.check_room(num_workers)
        if sampler is None:
            if batch_size is None:
                raise ValueError("`batch_size` is missing: give the number of instances per batch, or a `sampler`.")
            seed = torch.initial_seed() if seed is None else seed
            partition = make_bins(dataset, bins).in_chunks(chunks)
            kind = ShardedBatchSampler if sharded else AdaptiveBatchSampler
            sampler = kind(partition, batch_size, batches_per_epoch, seed)
        else:
            _check_sampler(sampler, size, chunks, num_workers)
        sampler.data = fingerprint(dataset)
        self._looks = 0
        super().__init__(
            Batches(dataset, collate_fn or collate),
            # Lightning replaces other samplers, and batch samplers, in several processes, but not this subclass.
            sampler=sampler,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )

    @classmethod
    def like(
        cls,
        loader: DataLoader[Any],
        batch_size: int | None = None,
        bins: BinsLike = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        num_workers: int | None = None,
        open_chunks: int | None = OPEN_CHUNKS,
        sharded: bool = False,
    ) -> AdaptiveDataLoader:
        """A loader with the data set and the settings of an ordinary one.

        Its own order is left out, and with it `generator` and `drop_last`; of a `SubsetRandomSampler` the subset stays.

        Raises:
            MisconfigurationException: If it has another sampler of its own, or no batch size and none is given.
        """
        dataset, sampler = loader.dataset, loader.sampler
        if is_stream(dataset):
            pass  # which knows nothing of samplers
        elif isinstance(sampler, SubsetRandomSampler):
            dataset = Subset(dataset, list(sampler.indices))
        elif not isinstance(sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
            raise MisconfigurationException(
                f"The train DataLoader has a {type(sampler).__name__}, in whose place adaptive sampling would step: "
                "leave it out. What it knows of the data can be given as `bins`."
            )
        batch_size = loader.batch_size if batch_size is None else batch_size
        if batch_size is None:
            sampler = loader.batch_sampler or loader.sampler
            raise MisconfigurationException(
                f"The train DataLoader has no `batch_size`, but a {type(sampler).__name__} of its own: give it "
                "`batch_size=…` and leave its sampler out."
            )
        num_workers = loader.num_workers if num_workers is None else num_workers
        return cls(
            dataset,
            batch_size,
            bins,
            batches_per_epoch,
            seed,
            open_chunks=open_chunks,
            sharded=sharded,
            num_workers=num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            # Without workers torch refuses what is about them.
            timeout=loader.timeout if num_workers else 0,
            worker_init_fn=loader.worker_init_fn,  # pyright: ignore[reportArgumentType]
            multiprocessing_context=loader.multiprocessing_context if num_workers else None,
            prefetch_factor=loader.prefetch_factor if num_workers else None,
            persistent_workers=loader.persistent_workers and num_workers > 0,
        )

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Torch's workers ask for their first batches as soon as they are there, which in Lightning is before training
        # starts and the callback can attach its strategy. A generator starts them with the first `next`.
        if self.turn is not None and not self.turn():
            yield from self._look()
            return
        if self.released and isinstance(self.sampler, AdaptiveBatchSampler):
            self.sampler.detach()
            self.released = False
        for batch in super().__iter__():
            yield batch if self.select is None else self.select(batch)

    def _look(self) -> DataLoader[Any]:
        """What shows the batches of a shuffled epoch, and shares nothing with this loader but the data set."""
        assert isinstance(self.sampler, AdaptiveBatchSampler)
        self._looks += 1
        return DataLoader(
            self.dataset,
            sampler=self.sampler.for_a_look(self._looks),
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            timeout=self.timeout,
            worker_init_fn=self.worker_init_fn,  # pyright: ignore[reportArgumentType]
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
            generator=torch.Generator().manual_seed(self._looks),  # or else torch would move the global one
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the callback keeps the sampler's state. It is here to tell Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def _laid_out(dataset: Any, open_chunks: int | None, plain: bool) -> Chunks | None:
    """The chunks of a data set that are open at a time, which a stream is told; None if instances are read anywhere.

    Args:
        dataset: The data set.
        open_chunks: How many are to be open.
        plain: Whether samples become a batch without being changed, so that one may be handed out more than once.
    """
    sizes, window = getattr(dataset, "chunk_sizes", None), getattr(dataset, "window", 0) if plain else 0
    chunks = None if sizes is None or open_chunks is None else Chunks.of(sizes, open_chunks, window)
    if isinstance(dataset, ChunkedStream):
        dataset.window = window
        dataset.open_chunks = OPEN_CHUNKS if open_chunks is None else open_chunks
    return chunks


def _check_sampler(sampler: Any, size: int, chunks: Chunks | None, num_workers: int) -> None:
    """Raise if a sampler of a user's own does not go with the data set or the workers."""
    if not isinstance(sampler, AdaptiveBatchSampler):  # as Lightning makes the loader anew with `overfit_batches`
        raise MisconfigurationException(
            f"An AdaptiveDataLoader draws from an AdaptiveBatchSampler, not from a {type(sampler).__name__}: leave "
            "out `overfit_batches`, and use `batches_per_epoch` for short epochs."
        )
    if len(sampler.bins) != size:
        raise ValueError(f"`sampler` has bins of {len(sampler.bins)} instances, but the data set has {size}.")
    if num_workers and sampler.off_host:
        raise ValueError(
            f"`num_workers` is {num_workers}, but `sampler` draws on a GPU, which loader processes cannot share: "
            "leave one of them out."
        )
    if chunks is not None and (sampler.bins.chunks is None or sampler.bins.chunks.sizes != chunks.sizes):
        raise ValueError(
            "The data set lies in chunks, but the bins of `sampler` in none, or in others: give the sampler "
            "`bins.in_chunks(…)`, leave it out, or say `open_chunks=None` to read instances wherever they are."
        )


class Batches(Dataset[Any]):
    """A data set of batches: a list of positions gives the collated batch of its samples, a position the sample.

    A tensor of positions, from a sampler that draws on a GPU, goes to a data set as it is if that has an attribute
    ``takes_tensors`` that says so, and as a list otherwise.
    """

    def __init__(self, dataset: Dataset[Any], collate_fn: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn

    def __len__(self) -> int:
        """Number of instances, not of batches."""
        return size_of(self.dataset)

    def __getitem__(self, indices: Tensor | list[int] | int) -> Any:
        if isinstance(indices, int):
            return self.dataset[indices]
        if isinstance(indices, Tensor) and not getattr(self.dataset, "takes_tensors", False):
            indices = indices.tolist()
        if hasattr(self.dataset, "__getitems__"):
            return self.collate_fn(self.dataset.__getitems__(indices))  # pyright: ignore[reportAttributeAccessIssue]
        return self.collate_fn([self.dataset[index] for index in indices])


def as_it_is(batch: Any) -> Any:
    """Collates what is a batch already."""
    return batch
