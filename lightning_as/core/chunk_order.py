"""The order of draws from data in chunks, of which a few are open at a time: see :mod:`.chunk_points`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_as.core.arguments import check_integer
from lightning_as.core.state import require


class Chunks(NamedTuple):
    """Where the instances lie: in runs of their order, which are read as a whole."""

    sizes: tuple[int, ...]
    """Instances of each chunk."""
    open: int
    """W, chunks that are open at a time in each process."""
    window: int = 0
    """Draws of neighbours that are shuffled together, one such run of them after the other; 0: all of a chunk."""

    @classmethod
    def of(cls, sizes: Sequence[int], open_chunks: int, window: int = 0) -> Chunks:
        """Chunks of these sizes.

        Raises:
            TypeError: If `open_chunks` is no integer.
            ValueError: If it is below 1, or there is a chunk without instances, or none at all.
        """
        check_integer("open_chunks", open_chunks)
        sizes = tuple(int(size) for size in sizes)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"`sizes` must be of one or more chunks with instances in them, got {sizes[:10]}.")
        return cls(sizes, open_chunks, window)

    def starts(self) -> Tensor:
        """The first instance of each chunk, and the number of all: (chunks + 1,) int64."""
        return torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), self.counts().cumsum(0)])

    def tags(self) -> Tensor:
        """The chunk of each instance, (N,) int64."""
        return torch.arange(len(self.sizes), device="cpu").repeat_interleave(self.counts())

    def counts(self) -> Tensor:
        """The sizes, (chunks,) int64."""
        return torch.tensor(self.sizes, dtype=torch.int64, device="cpu")


class Strata(NamedTuple):
    """What the draws of a batch are to be, (B,) int64 each."""

    chunks: Tensor
    numbers: Tensor
    """Which of the chunk's draws, in [0, K)."""
    counts: Tensor
    """K, how many draws the chunk has in this pass."""


class ChunkOrder:
    """The order of a pass's draws, of which each chunk has a given number: a few chunks are open at a time.

    Args:
        open_chunks: W, at least 1.
        window: As of :class:`Chunks`. Default: 0.
    """

    def __init__(self, open_chunks: int, window: int = 0) -> None:
        self.open_chunks = open_chunks
        self.window = window
        self._left = 0  # draws of the pass, of each process
        self._parts: list[_Part] = []

    def left(self, processes: int) -> int:
        """Draws that are left of the pass, for that many processes together; 0 if it was begun for others."""
        return self._left * processes if processes == len(self._parts) else 0

    def begin(self, counts: Tensor, generator: torch.Generator, processes: int, order: Tensor | None = None) -> None:
        """Begin a pass.

        Args:
            counts: Draws of each chunk, (chunks,) int64. What the processes cannot share evenly is left out.
            generator: On the CPU. All of the pass follows from what is taken of it here.
            processes: How many processes have a part of their own.
            order: The order of the chunks in which the processes' parts are cut, (chunks,) int64. Default: random.
        """
        order = torch.randperm(len(counts), generator=generator, device="cpu") if order is None else order
        self._left = int(counts.sum()) // processes
        borders = counts[order].cumsum(0)
        self._parts = []
        for start in range(0, processes * self._left, max(1, self._left)):
            own = torch.diff(borders.clamp(start, start + self._left), prepend=borders.new_full((1,), start))
            some = own.nonzero().squeeze(1)
            some = some[torch.randperm(len(some), generator=generator, device="cpu")]
            key = int(torch.randint(2**62, (), generator=generator, device="cpu"))
            self._parts.append(_Part(order[some], own[some], self, key))

    def take(self, size: int) -> Strata:
        """The next draws, of all processes, of which there are that many left."""
        each = size // len(self._parts)
        self._left -= each
        taken = [part.take(each) for part in self._parts]
        return Strata(*(torch.stack(field, dim=1).flatten() for field in zip(*taken, strict=True)))

    def open(self, process: int) -> list[int]:
        """The chunks that are open in a process, after its last batch."""
        return self._parts[process].open() if process < len(self._parts) else []

    def next(self, process: int, count: int) -> list[int]:
        """The chunks that a process opens next, at most so many, in their order."""
        return self._parts[process].next(count) if process < len(self._parts) else []

    def state_dict(self) -> dict[str, Any]:
        """State as ints and tensors."""
        return {"left": self._left, "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any], chunks: int) -> None:
        """Take over a state of so many chunks."""
        self._parts = [_Part.of(part, self, chunks) for part in state["parts"]]
        self._left = state["left"]
        require(all(part.left >= self._left for part in self._parts), "`left` is more than there is")


class _Part:
    """A process's part of a pass.

    Args:
        chunks: In the order in which they are opened, (M,) int64.
        counts: How many draws each gets, (M,) int64.
        whole: Whose W and window it has.
        key: What all of its draws follow from.
    """

    def __init__(self, chunks: Tensor, counts: Tensor, whole: ChunkOrder, key: int) -> None:
        self._chunks, self._counts, self._key = chunks, counts, key
        self._width, self._window = whole.open_chunks, whole.window
        self._opened = 0  # chunks
        self._batches = 0
        self._open: list[_Open] = []

    @property
    def left(self) -> int:
        """Draws that are left."""
        return int(self._counts[self._opened :].sum()) + sum(each.left for each in self._open)

    def open(self) -> list[int]:
        return [int(self._chunks[each.number]) for each in self._open]

    def next(self, count: int) -> list[int]:
        return self._chunks[self._opened : self._opened + count].tolist()

    def take(self, size: int) -> Strata:
        """The next draws."""
        while len(self._open) < self._width or sum(each.left for each in self._open) < size:
            if self._opened == len(self._chunks):
                break
            self._open.append(self._opening(self._opened, int(self._counts[self._opened])))
            self._opened += 1
        source = np.random.default_rng((self._key, self._batches))
        self._batches += 1
        drawn = source.multivariate_hypergeometric([each.left for each in self._open], size, method="marginals")
        shuffled = torch.from_numpy(source.permutation(size))
        numbers = torch.cat([each.take(int(count)) for each, count in zip(self._open, drawn, strict=True)])
        opened = torch.tensor([each.number for each in self._open], dtype=torch.int64, device="cpu")
        at = opened.repeat_interleave(torch.from_numpy(drawn))
        self._open = [each for each in self._open if each.left]
        return Strata(self._chunks[at][shuffled], numbers[shuffled], self._counts[at][shuffled])

    def state_dict(self) -> dict[str, Any]:
        opened = torch.tensor([(each.number, each.left) for each in self._open], dtype=torch.int64, device="cpu")
        numbers = {"key": self._key, "opened": self._opened, "batches": self._batches}
        return {"chunks": self._chunks.clone(), "counts": self._counts.clone(), "open": opened.view(-1, 2)} | numbers

    @classmethod
    def of(cls, state: dict[str, Any], whole: ChunkOrder, count: int) -> _Part:
        """One in the given state, of the given number of chunks."""
        chunks, counts, opened = state["chunks"], state["counts"], state["open"]
        require(len(chunks) == len(counts) and bool((chunks < count).all()), "`chunks` are others")
        require(state["opened"] <= len(chunks) and bool((opened[:, 0] < state["opened"]).all()), "`open` is not open")
        require(bool((opened[:, 1] <= counts[opened[:, 0]]).all()), "`open` has more draws than there are")
        part = cls(chunks.clone(), counts.clone(), whole, state["key"])
        part._opened, part._batches = state["opened"], state["batches"]
        part._open = [part._opening(number, left) for number, left in opened.tolist()]
        return part

    def _opening(self, number: int, left: int) -> _Open:
        source, count = torch.Generator("cpu").manual_seed(self._key + 1 + number), int(self._counts[number])
        order = torch.randperm(count, generator=source, device="cpu")
        if 0 < self._window < count:
            runs = 1 + (count - 1) // self._window
            first = torch.randint(runs, (), generator=source, device="cpu")
            order = order[((order // self._window + first) % runs).argsort(stable=True)]
        return _Open(number, order, left)


class _Open:
    """An open chunk: which in the order of opening, and the order of its draws."""

    def __init__(self, number: int, order: Tensor, left: int) -> None:
        self.number, self.left = number, left
        self._order = order

    def take(self, count: int) -> Tensor:
        """The strata of its next draws, (count,)."""
        self.left -= count
        return self._order[self.left : self.left + count]
