"""Data sets in chunks, for data where reading one instance costs the chunk that it lies in.

A loader draws from a few chunks at a time if its data set has the attribute ``chunk_sizes``, the instances of each
chunk, one chunk after the other (:mod:`lightning_as.core.chunk_points`). :class:`ChunkedStream` gives a
`litdata.StreamingDataset` one, :class:`InChunks` any map-style data set whose neighbours are cheap to read together,
such as a memory-mapped file, a table of Arrow or of Hugging Face's `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_as.core.arguments import check_integer

OPEN_CHUNKS = 8
"""Chunks that are open at a time in each process, unless a user says otherwise."""
AHEAD = 2
"""Chunks that are fetched before they are opened."""
_SMALL = 4096  # bytes of an instance, on average, below which it is cheaper to decode neighbours together
_WINDOW, _RUNS = 256, 6  # of these; how many such runs are kept for each open chunk, beside its first one


class Positions(list[int]):
    """The positions of a batch, with the chunks that are opened next."""

    def __init__(self, positions: Iterable[int], coming: Sequence[int]) -> None:
        super().__init__(positions)
        self.coming = coming


class InChunks(Dataset[Any]):
    """A map-style data set that is read in runs of neighbours.

    Args:
        dataset: Any data set with a length and `__getitem__`, or `__getitems__`, by position.
        chunk_size: Instances of a chunk; the last one has the rest.

    Raises:
        TypeError: If `chunk_size` is no integer.
        ValueError: If it is not positive, or the data set is empty.
    """

    def __init__(self, dataset: Dataset[Any], chunk_size: int) -> None:
        check_integer("chunk_size", chunk_size, unit="instances")
        size = len(dataset)  # pyright: ignore[reportArgumentType]
        if size == 0:
            raise ValueError("The data set is empty: there must be at least one instance.")
        self.dataset = dataset
        self.chunk_sizes = [min(chunk_size, size - start) for start in range(0, size, chunk_size)]

    def __len__(self) -> int:
        return sum(self.chunk_sizes)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The instances at these positions, read in the order in which they lie."""
        return in_order(indices, self._read)

    def _read(self, indices: list[int]) -> Sequence[Any]:
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)  # pyright: ignore[reportAttributeAccessIssue]
        return [self.dataset[index] for index in indices]


class ChunkedStream(Dataset[Any]):
    """A `litdata.StreamingDataset` whose instances have positions.

    An instance is read from its chunk, through litdata's own cache: one that is not there yet is fetched whole. Each
    chunk that is open has a reader of its own, a copy of the data set, since litdata reads one chunk at a time.

    Args:
        stream: The data set. Its own order, `shuffle`, `seed` and `drop_last` are of no importance.

    Raises:
        ValueError: If a chunk in a local folder is missing or has another size than its index says.
    """

    def __init__(self, stream: Any) -> None:
        from litdata import StreamingDataset
        from litdata.streaming.sampler import ChunkedIndex

        self._index_type, self._getitem = ChunkedIndex, StreamingDataset.__getitem__
        len(stream)  # which loads the index
        intervals = stream.shuffler.cache.get_chunk_intervals()
        self.chunk_sizes = [int(each[2] - each[1]) for each in intervals]
        self.stream = stream
        self.open_chunks = OPEN_CHUNKS
        self._firsts = np.array([each[1] for each in intervals])  # litdata's own number of a chunk's first instance
        self._begins = [int(each[0]) for each in intervals]  # and of the one that its file begins with
        self._ends = np.cumsum(self.chunk_sizes)
        self._starts = self._ends - self.chunk_sizes
        self._readers_cache = OrderedDict[int, Any]()
        self._runs_cache = OrderedDict[tuple[int, int], list[Any]]()
        self._firsts_cache = dict[int, tuple[int, list[Any]]]()
        self._read_last = dict[int, int]()  # of each chunk, by litdata's number
        index = Path(stream.input_dir.path or "") / "index.json"
        chunks = json.loads(index.read_text())["chunks"] if index.is_file() else []
        bytes_, instances = (sum(chunk[name] for chunk in chunks) for name in ("chunk_bytes", "chunk_size"))
        # A transform, or what a class of the user's own does beside, may be random, and change what it is given.
        plain = not hasattr(stream, "transform") and type(stream).__getitem__ is StreamingDataset.__getitem__
        self.window = _WINDOW if bytes_ < _SMALL * instances and plain else 0
        """Neighbours that are decoded together; 0 of large instances, for what is not drawn is decoded in vain."""
        largest = max((chunk["chunk_bytes"] for chunk in chunks), default=0)
        room = getattr(getattr(stream.shuffler.cache, "_reader", None), "_max_cache_size", None) or math.inf
        is_far = stream.input_dir.url is not None and bytes_ > room
        self._fit = room / largest if is_far else math.inf  # chunks, in litdata's cache
        is_here = stream.input_dir.url is None and len(chunks) == len(self.chunk_sizes)
        self._where = index.parent
        self._files = [(chunk["filename"], chunk["chunk_bytes"]) for chunk in chunks if is_here]
        for chunk in range(len(self._files)):
            self._check_file(chunk)
        # The same wherever the chunks are read from, and in whatever order litdata would have them.
        layout = json.dumps([[each[name] for name in ("filename", "chunk_bytes", "chunk_size")] for each in chunks])
        self._fingerprint = f"{hashlib.sha256(layout.encode()).hexdigest()} {self.chunk_sizes}" if chunks else None

    def __len__(self) -> int:
        """Number of instances, on all processes together."""
        return int(self._ends[-1])

    def check_room(self, workers: int) -> None:
        """Warn if litdata's cache may be too small for the chunks that are open at a time.

        Args:
            workers: Loader processes; 0 is none beside the process itself.
        """
        needed = (2 * self.open_chunks + AHEAD + 3) * max(workers, 1)
        if min(needed, len(self.chunk_sizes)) > self._fit:
            warnings.warn(
                f"litdata's cache, `max_cache_size`, has room for {int(self._fit)} chunks, but {self.open_chunks} that "
                f"are open, with those that begin and end, in {max(workers, 1)} loader process(es), may take "
                f"{needed}, and so in each process of the training: a chunk that finds no room is waited for until it "
                "times out. Give more room, fewer `open_chunks` or fewer `num_workers`.",
                stacklevel=3,
            )

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The instances at these positions, chunk after chunk, in each of which they are read in their order.

        Raises:
            RuntimeError: If a chunk cannot be read.
        """
        if isinstance(indices, Positions) and self.stream.input_dir.url is not None:
            for chunk in indices.coming:
                if chunk not in self._readers_cache:
                    first = self._index_type(int(self._firsts[chunk]), chunk, chunk_indexes=[chunk])
                    self._reader(chunk).cache._reader.setup_thread_and_download_chunk(first)  # which waits for nothing
        return in_order(indices, self._read)

    def __getstate__(self) -> dict[str, Any]:  # readers stay in their process
        ordered = {name: OrderedDict[Any, Any]() for name in ("_readers_cache", "_runs_cache")}
        return {**self.__dict__, **ordered, "_firsts_cache": {}, "_read_last": {}}

    def _read(self, indices: list[int]) -> list[Any]:
        positions = np.array(indices, dtype=np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"Positions are from 0 to {len(self) - 1}, got {positions.min()} to {positions.max()}.")
        chunks = np.searchsorted(self._ends, positions, side="right")
        places = positions - self._starts[chunks]  # in their chunks
        samples, firsts = [], np.flatnonzero(np.diff(chunks, prepend=-1)).tolist()
        for start, end in pairwise([*firsts, len(chunks)]):
            chunk = int(chunks[start])
            try:
                samples += self._samples(self._reader(chunk), chunk, places[start:end])
            except Exception as error:  # whatever a cut file, a lost folder or a transform makes of it
                raise RuntimeError(
                    f"Chunk {chunk} of {self.stream.input_dir.url or self.stream.input_dir.path} cannot be read "
                    f"({type(error).__name__}: {error}). Was it changed since the training began?"
                ) from error
        return samples

    def _samples(self, reader: Any, chunk: int, places: NDArray[Any]) -> list[Any]:
        """Instances of a chunk, by their ascending places in it."""
        if not self.window:
            return [reader[self._index_type(number, chunk)] for number in (places + self._firsts[chunk]).tolist()]
        samples, last, rows = [], -1, []
        for place in places.tolist():
            run = place // self.window
            if run != last:
                last, rows = run, self._run(reader, chunk, run)
            samples.append(rows[place - run * self.window])
        return samples

    def _run(self, reader: Any, chunk: int, run: int) -> list[Any]:
        """The instances of a run of neighbours, which are kept as long as a few others.

        Draws go round a chunk once, and may end in the run that they began in, which is kept as long as the chunk.
        """
        if (first := self._firsts_cache.get(chunk)) is not None and first[0] == run:
            return first[1]
        kept = self._runs_cache
        if (chunk, run) in kept:
            kept.move_to_end((chunk, run))
            return kept[chunk, run]
        rows = self._decode(reader, chunk, run)
        if first is None:
            self._firsts_cache[chunk] = run, rows
            return rows
        if len(kept) >= _RUNS * self.open_chunks:
            kept.popitem(last=False)
        kept[chunk, run] = rows
        return rows

    def _decode(self, reader: Any, chunk: int, run: int) -> list[Any]:
        """The instances of a run of neighbours.

        Litdata decodes all of them with the first, and then takes as long again to look up each: if its list is where
        it was when this was written, it is taken as it is.
        """
        first = int(self._firsts[chunk])
        numbers = range(first + run * self.window, first + min((run + 1) * self.window, self.chunk_sizes[chunk]))
        sample = reader.cache[self._index_type(numbers[0], chunk)]
        self._read_last[chunk] = numbers[0]
        loader = getattr(reader.cache._reader, "_item_loader", None)
        where = [getattr(loader, name, None) for name in ("_chunk_rows_index", "_win_start")]
        rows = getattr(loader, "_chunk_rows", None) or []
        if where == [chunk, numbers[0] - self._begins[chunk]] and len(rows) == len(numbers):
            return list(rows)
        return [sample, *(reader.cache[self._index_type(number, chunk)] for number in numbers[1:])]

    def _reader(self, chunk: int) -> Any:
        """The reader of a chunk; that of the one not read for the longest time, if there are enough."""
        readers = self._readers_cache
        if chunk in readers:
            readers.move_to_end(chunk)
            return readers[chunk]
        self._check_file(chunk)
        # A chunk that has few draws left may wait for the next of them.
        if len(readers) >= 2 * self.open_chunks + AHEAD:
            old, reader = readers.popitem(last=False)
            self._close(reader, old)
        else:
            reader = self._new_reader()
        # What litdata does for the chunks that its own order has before them: no other process throws this one away
        # while it is read, and it is mapped into memory. Only the object behind the cache has a name for it.
        reader.cache._reader.acquire_shared_locks({chunk})
        reader.cache._reader.enable_mmap_for_chunks({chunk})
        readers[chunk] = reader
        return reader

    def _new_reader(self) -> Any:
        reader = copy(self.stream)
        reader.cache = reader.shuffler = None
        reader.batch_decode = self.window
        self._getitem(reader, slice(0, 0))  # from here on it fetches chunks, not single instances
        return reader

    def _close(self, reader: Any, chunk: int) -> None:
        """Give the room of a chunk in the cache free, which litdata does after what it takes for the last instance."""
        self._firsts_cache.pop(chunk, None)
        last = self._read_last.pop(chunk, int(self._firsts[chunk]))  # which is not decoded again
        with suppress(FileNotFoundError):  # it is free already
            _ = reader[self._index_type(last, chunk, is_last_index=True)]

    def _check_file(self, chunk: int) -> None:
        """Raise a `ValueError` unless a chunk in a folder of this machine is there in its size."""
        if self._files:
            name, size = self._files[chunk]
            file = self._where / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                what = "is not there" if found is None else f"has {found} bytes"
                raise ValueError(
                    f"The chunk {name} of {self._where} {what}, but its index says {size} bytes: make the data "
                    "anew, or copy the whole folder again."
                )


def is_stream(dataset: Any) -> bool:
    """Whether it is a `litdata.StreamingDataset`; without importing litdata."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(dataset).__mro__}
    return ("litdata", "StreamingDataset") in kinds


def in_order(indices: Sequence[int], read: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
    """What `read` gives for the positions in ascending order, in the order in which they were asked for."""
    positions = np.asarray(indices, dtype=np.int64)
    order = np.argsort(positions, kind="stable")
    samples: list[Any] = [None] * len(order)
    for at, sample in zip(order.tolist(), read(positions[order].tolist()), strict=True):
        samples[at] = sample
    return samples
