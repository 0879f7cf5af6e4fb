"""Data sets in chunks, for data where reading one instance costs the chunk that it lies in.

A loader draws from a few chunks at a time if its data set has the attribute ``chunk_sizes``, the instances of each
chunk, one chunk after the other (:mod:`lightning_as.core.chunk_points`). :class:`ChunkedStream` gives a
`litdata.StreamingDataset` one, :class:`InChunks` any map-style data set whose neighbours are cheap to read together,
such as a memory-mapped file, a table of Arrow or of Hugging Face's `datasets`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lightning_as.core.arguments import check_integer

OPEN_CHUNKS = 8
"""Chunks that are open at a time in each process, unless a user says otherwise."""
_SMALL = 4096  # bytes of an instance, on average, below which it is cheaper to decode neighbours together
_WINDOW = 256  # of these


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
        len(stream)  # which loads the index
        intervals = stream.shuffler.cache.get_chunk_intervals()
        self.chunk_sizes = [int(each[2] - each[1]) for each in intervals]
        self.stream = stream
        self.open_chunks = OPEN_CHUNKS
        self._firsts = np.array([each[1] for each in intervals])  # litdata's own number of a chunk's first instance
        self._ends = np.cumsum(self.chunk_sizes)
        self._readers_cache = OrderedDict[int, Any]()
        index = Path(stream.input_dir.path or "") / "index.json"
        chunks = json.loads(index.read_text())["chunks"] if index.is_file() else []
        bytes_, instances = (sum(chunk[name] for chunk in chunks) for name in ("chunk_bytes", "chunk_size"))
        self.window = _WINDOW if bytes_ < _SMALL * instances else 0
        """Neighbours that are decoded together; 0 of large instances, for what is not drawn is decoded in vain."""
        is_here = stream.input_dir.url is None and len(chunks) == len(self.chunk_sizes)
        self._where = index.parent
        self._files = [(chunk["filename"], chunk["chunk_bytes"]) for chunk in chunks if is_here]
        for chunk in range(len(self._files)):
            self._check_file(chunk)

    def __len__(self) -> int:
        """Number of instances, on all processes together."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The instances at these positions, chunk after chunk, in each of which they are read in their order.

        Raises:
            RuntimeError: If a chunk cannot be read.
        """
        return in_order(indices, self._read)

    def __getstate__(self) -> dict[str, Any]:  # readers stay in their process
        return {**self.__dict__, "_readers_cache": OrderedDict[int, Any]()}

    def _read(self, indices: list[int]) -> list[Any]:
        from litdata.streaming.sampler import ChunkedIndex

        positions = np.array(indices)
        chunks, firsts = np.unique(np.searchsorted(self._ends, positions, side="right"), return_index=True)
        samples = []
        for chunk, own in zip(chunks.tolist(), np.split(positions, firsts[1:]), strict=True):
            numbers = own - (self._ends[chunk] - self.chunk_sizes[chunk]) + self._firsts[chunk]
            try:
                reader = self._reader(chunk)
                samples += [reader[ChunkedIndex(number, chunk)] for number in numbers.tolist()]
            except Exception as error:  # whatever a cut file, a lost folder or a transform makes of it
                raise RuntimeError(
                    f"Chunk {chunk} of {self.stream.input_dir.url or self.stream.input_dir.path} cannot be read "
                    f"({type(error).__name__}: {error}). Was it changed since the training began?"
                ) from error
        return samples

    def _reader(self, chunk: int) -> Any:
        """The reader of a chunk; that of the one not read for the longest time, if there are enough."""
        readers = self._readers_cache
        if chunk in readers:
            readers.move_to_end(chunk)
            return readers[chunk]
        self._check_file(chunk)
        if len(readers) > self.open_chunks:  # one more than are open, for that which is being closed
            _, readers[chunk] = readers.popitem(last=False)
        else:
            reader = copy(self.stream)
            reader.batch_decode = self.window
            reader.cache = reader.shuffler = None
            _ = reader[:0]  # from here on it fetches chunks, not single instances
            readers[chunk] = reader
        return readers[chunk]

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
    order = np.argsort(np.asarray(indices, dtype=np.int64), kind="stable").tolist()
    samples: list[Any] = [None] * len(order)
    for at, sample in zip(order, read([indices[at] for at in order]), strict=True):
        samples[at] = sample
    return samples
