"""The order of draws from data in chunks, of which a few are open at a time: see :mod:`.chunk_points`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_as.core.arguments import check_integer
from lightning_as.core.state import require

_ROUNDING = 2.0**-20
"""How near to a whole number a share counts as one, so that under the uniform distribution all shares are whole."""


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

    def begin(
        self, masses: Tensor, draws: int, generator: torch.Generator, processes: int, sizes: Tensor | None = None
    ) -> None:
        """Begin a pass.

        Args:
            masses: Of each chunk, (chunks,) float64, which sum to 1 but for rounding.
            draws: D, a multiple of the processes, and of the batch: what is left of a pass at its end is of the chunks
                that were opened last, among which small ones are rare.
            generator: On the CPU. All of the pass follows from what is taken of it here.
            processes: How many processes have a part of their own.
            sizes: What the draws of each chunk are numbered among, (chunks,) int64. Default: their number.
        """
        order = torch.randperm(len(masses), generator=generator, device="cpu")
        offset = float(torch.rand((), dtype=torch.float64, generator=generator, device="cpu"))
        key = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        shares = shares_of(masses[order], draws, offset)
        totals = shares if sizes is None else sizes[order]
        self._left = draws // processes
        ends = shares.cumsum(0)
        self._parts = []
        for rank in range(processes):
            start = rank * self._left
            own = torch.diff(ends.clamp(start, start + self._left), prepend=ends.new_full((1,), start))
            before = (start - (ends - shares)).clamp(min=0)  # draws of a chunk that are another process's
            some = own.nonzero().squeeze(1)
            some = some[torch.randperm(len(some), generator=generator, device="cpu")]
            plan = torch.stack([order[some], own[some], before[some], totals[some]], dim=1)
            self._parts.append(_Part(plan, self.open_chunks, self.window, key, rank))

    def take(self, size: int) -> Strata:
        """The next draws, of all processes, of which there are that many left."""
        each = size // len(self._parts)
        self._left -= each
        taken = [part.take(each) for part in self._parts]
        if len(taken) == 1:
            return taken[0]
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
        self._parts = [_Part.of(part, self.open_chunks, chunks) for part in state["parts"]]
        self._left = state["left"]
        require(all(part.left >= self._left for part in self._parts), "`left` is more than there is")


def shares_of(masses: Tensor, draws: int, offset: float) -> Tensor:
    """K: how many of the draws each chunk gets, (chunks,) int64, of sum `draws`.

    Args:
        masses: (chunks,) float64, which sum to 1 but for rounding, in random order.
        draws: D.
        offset: u in [0, 1).
    """
    sums = masses.cumsum(0)
    reached = draws * (sums / sums[-1])
    whole = reached.round()
    reached = torch.where((reached - whole).abs() < _ROUNDING, whole, reached).add_(offset).floor_().long()
    reached[-1] = draws
    return torch.diff(reached, prepend=reached.new_zeros(1))


class _Part:
    """A process's part of a pass.

    Args:
        plan: In the order in which they are opened the chunks, how many draws each gets here, how many of its draws are
            before these, and what all of them are numbered among, (M, 4) int64.
        width: W.
        window: As of :class:`Chunks`.
        key: What all draws of the pass follow from.
        rank: Which process it is.
    """

    def __init__(self, plan: Tensor, width: int, window: int, key: int, rank: int) -> None:
        self._plan, self._width, self._window, self._key, self._rank = plan, width, window, key, rank
        self._opened = 0  # chunks
        self._batches = 0
        self._open: list[_Open] = []

    @property
    def left(self) -> int:
        """Draws that are left."""
        return int(self._plan[self._opened :, 1].sum()) + sum(each.left for each in self._open)

    def open(self) -> list[int]:
        return [int(self._plan[each.number, 0]) for each in self._open]

    def next(self, count: int) -> list[int]:
        return self._plan[self._opened : self._opened + count, 0].tolist()

    def take(self, size: int) -> Strata:
        """The next draws."""
        while len(self._open) < self._width or sum(each.left for each in self._open) < size:
            if self._opened == len(self._plan):
                break
            self._open.append(self._opening(self._opened, int(self._plan[self._opened, 1])))
            self._opened += 1
        source = np.random.default_rng((self._key, self._rank, self._batches))
        self._batches += 1
        drawn = source.multivariate_hypergeometric([each.left for each in self._open], size, method="marginals")
        shuffled = source.permutation(size)
        numbers = np.concatenate([each.take(count) for each, count in zip(self._open, drawn.tolist(), strict=True)])
        rows = self._plan.numpy()[np.repeat([each.number for each in self._open], drawn)[shuffled]]
        self._open = [each for each in self._open if each.left]
        columns = rows[:, 0].copy(), numbers[shuffled], rows[:, 3].copy()
        return Strata(*map(torch.from_numpy, columns))

    def state_dict(self) -> dict[str, Any]:
        opened = torch.tensor([(each.number, each.left) for each in self._open], dtype=torch.int64, device="cpu")
        numbers = {"key": self._key, "rank": self._rank, "opened": self._opened, "batches": self._batches}
        return {"plan": self._plan.clone(), "open": opened.view(-1, 2), "window": self._window} | numbers

    @classmethod
    def of(cls, state: dict[str, Any], width: int, chunks: int) -> _Part:
        """One in the given state, of so many chunks; the window stays that of the pass."""
        plan, opened = state["plan"], state["open"]
        require(plan.dim() == opened.dim() == 2 and plan.shape[1] == 4 and opened.shape[1] == 2, "`plan` is none")
        require(bool((plan[:, 0] < chunks).all() and (plan[:, 1] + plan[:, 2] <= plan[:, 3]).all()), "`plan` is none")
        require(state["opened"] <= len(plan) and bool((opened[:, 0] < state["opened"]).all()), "`open` is not open")
        require(bool((opened[:, 1] <= plan[opened[:, 0], 1]).all()), "`open` has more draws than there are")
        part = cls(plan.clone(), width, state["window"], state["key"], state["rank"])
        part._opened, part._batches = state["opened"], state["batches"]
        part._open = [part._opening(number, left) for number, left in opened.tolist()]
        return part

    def _opening(self, number: int, left: int) -> _Open:
        chunk, own, before, total = self._plan[number].tolist()
        source = torch.Generator("cpu").manual_seed(self._key + 1 + chunk)  # one order for all processes
        order = torch.randperm(total, generator=source, device="cpu")
        if 0 < self._window < total:
            runs = 1 + (total - 1) // self._window
            first = torch.randint(runs, (), generator=source, device="cpu")
            order = order[((order // self._window + first) % runs).argsort(stable=True)]
        return _Open(number, order[before : before + own], left)


class _Open:
    """An open chunk: which in the order of opening, and the order of its draws."""

    def __init__(self, number: int, order: Tensor, left: int) -> None:
        self.number, self.left = number, left
        self._order = order.numpy()

    def take(self, count: int) -> NDArray[np.int64]:
        """The strata of its next draws, (count,)."""
        self.left -= count
        return self._order[self.left : self.left + count]
