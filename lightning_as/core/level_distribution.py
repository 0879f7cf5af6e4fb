"""A distribution over very many instances by levels: P over bins, the weight of its level for each, and a floor.

An instance of the bin j at a level of the weight w has the probability

    r = (1 − ε) P_j w / W_j + ε/N,        W_j = Σ w over the bin.

Of each instance two levels are kept, of two bytes each: the one that it is drawn by, and the one that it will be drawn
by next. Of each block of 64 instances there is the end of its part of [0, 1), within which a draw adds up the r. When
new levels come, nothing changes until all is ready: the levels are copied and counted, from the counts follows the
weight of each level, from these W, and from it the ends of the blocks. Of many instances each step does but a part of
that, no more than is in proportion to its batch, and all of it takes less than half an eighth of a pass.

While all weights are 1, and P is as the bins' sizes, there is nothing to be added up, and without rounding a pass of
strata is a permutation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import add_to_bins
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.execution import loops
from lightning_as.core.levels import LEVELS
from lightning_as.core.state import require

WIDTH = 64
"""Instances of a block."""
SLICE = 2**14
"""Instances that are prepared at a time, in whole blocks."""
AT_ONCE = 2**19
"""Of up to so many instances all is done in one step."""
_PER_DRAW = 48
"""Instances that a step prepares for each that it draws: of three passes over N, in half of an eighth of a pass."""
_IDLE, _COUNTING, _SUMMING, _FILLING = range(4)

Weigh = Callable[[Tensor], Tensor]
"""Gives the weight of each level, (levels,) float64, for the number of instances at each, (levels,) int64."""


class _Table(NamedTuple):
    """What draws go by."""

    levels: Tensor
    """Of each instance, (N,) int16, not negative."""
    weights: Tensor
    """Of each level, (levels,) float64."""
    scale: Tensor
    """(1 − ε) P_j / W_j, (k,) float64."""
    ends: Tensor
    """Where the blocks' parts of [0, 1) end, (blocks,) float64."""
    squares: Tensor
    """Σ r², () float64."""


class LevelDistribution:
    """P over bins, weights by levels inside each, and a floor; at first all weights are 1.

    Args:
        bins: The partition.
        p: P, (k,) float64.
        floor: ε.
    """

    def __init__(self, bins: Bins, p: Tensor, floor: float) -> None:
        self._bins, self._p, self._floor = bins, p, floor
        size, device = len(bins), bins.device
        self._sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=device)
        self._each = floor / size
        self._plain = torch.allclose(p, self._sizes / self._sizes.sum(), rtol=1e-12, atol=0)
        blocks = 0 if self._plain else -(-size // WIDTH)  # which come with the first levels
        self._ones = torch.ones(LEVELS, dtype=torch.float64, device=device)
        self._now = self._empty(blocks)
        self._next = self._empty(blocks)
        self._counts = torch.zeros(LEVELS, dtype=torch.int64, device=device)
        self._views: tuple[Any, ...] | None = None
        self._flat = self._flat_next = True
        self._stage = self._at = 0
        self.flatten()

    def flatten(self) -> None:
        """All weights are 1, now. O(N) if P is not as the bins' sizes."""
        self.begin(flat=True)
        while self.busy:
            self._prepare(self._now.levels, lambda _: self._ones)

    @property
    def flat(self) -> bool:
        """Whether all weights are 1, or will be when what has begun is ready."""
        return self._flat_next if self.busy else self._flat

    @property
    def busy(self) -> bool:
        """Whether something has begun that is not ready."""
        return self._stage != _IDLE

    def begin(self, flat: bool) -> None:
        """Begin to go over to other levels, or to weights that are all 1. What has begun before is given up."""
        self._flat_next, self._stage, self._at = flat, _FILLING if flat else _COUNTING, 0
        if flat:
            self._next = self._next._replace(weights=self._ones, scale=(1 - self._floor) * self._p / self._sizes)
            if self._plain:
                self._finish()

    def advance(self, batch: int, levels: Tensor, weigh: Weigh) -> None:
        """Do a part of what has begun.

        Args:
            batch: Instances that are drawn in this step.
            levels: The levels as they are, (N,) int16; what is in higher bits does not count.
            weigh: What gives the weights.
        """
        slices = -(-len(levels) // SLICE)
        parts = 3 * slices if len(levels) <= AT_ONCE else -(-_PER_DRAW * batch // SLICE)
        while self.busy and parts:
            self._prepare(levels, weigh)
            parts -= 1

    def draw(self, points: Tensor) -> Draw:
        """Draw a batch, (B,), at points in [0, 1), (B,) float64, instance after instance."""
        compiled, even = loops(points.device), self._flat and self._plain
        if compiled is None:
            indices = self._evenly(points) if even else self._by_blocks(points)
            return Draw(indices, self._bins.of(indices), self._r(self._now, indices))
        drawn = torch.empty(2, len(points), dtype=torch.int64, device=points.device)
        if even:
            compiled.draw_evenly(self._bins.tags.numpy(), points.numpy(), drawn.numpy())
            return Draw(drawn[0], drawn[1], torch.full_like(points, 1 / len(self._bins)))
        if self._views is None:
            parts = self._now.levels, self._bins.tags, self._now.weights, self._now.scale
            self._views = *(part.numpy() for part in parts), self._each, self._now.ends.numpy(), WIDTH
        r = torch.empty_like(points)
        compiled.draw_blocks(*self._views, points.numpy(), drawn.numpy(), r.numpy())
        return Draw(drawn[0], drawn[1], r)

    def ends_at(self, indices: Tensor) -> Tensor:
        """Where the parts of [0, 1) of the given instances end, (B,) float64; of the last one in 1."""
        if self._flat and self._plain:
            return (indices + 1).to(torch.float64) / len(self._bins)
        block = indices // WIDTH
        reached = self._inside(block)[1].gather(1, (indices - block * WIDTH).unsqueeze(1)).squeeze(1)
        is_last = (indices % WIDTH == WIDTH - 1) | (indices == len(self._bins) - 1)
        return torch.where(is_last, self._now.ends.index_select(0, block), reached)

    def probabilities(self) -> Tensor:
        """R of every instance, (N,) float64. O(N)."""
        return self._r(self._now, slice(None))

    @property
    def bin_probabilities(self) -> Tensor:
        """Σ r over each bin, (k,) float64."""
        return (1 - self._floor) * self._p + self._each * self._sizes

    @property
    def effective_size(self) -> Tensor:
        """1 / Σ r², () float64."""
        return self._now.squares.reciprocal()

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU, and ints: the levels, from which all else follows with the weights."""
        used = {"levels": not self._flat, "next": self.busy and not self._flat_next}
        tables = {"levels": self._now.levels, "next": self._next.levels}
        state = {name: table[: used[name] * len(table)].cpu().clone() for name, table in tables.items()}
        return state | {
            "stage": self._stage,
            "at": self._at,
            "flat": int(self._flat),
            "flat_next": int(self._flat_next),
        }

    def load_state_dict(self, state: dict[str, Any], weigh: Weigh, weigh_next: Weigh) -> None:
        """Take over a state of as many instances, with what gave its weights, and is to give the next ones. O(N)."""
        stage, at, size = state["stage"], state["at"], len(self._bins)
        require(stage <= _FILLING and at * SLICE < size and (stage != _IDLE or at == 0), "`stage` is none")
        for name, there in (("levels", not state["flat"]), ("next", stage != _IDLE and not state["flat_next"])):
            require(len(state[name]) == size * there, f"`{name}` is not one for each instance")
            require(bool((state[name] < LEVELS).all()), f"`{name}` has entries that are no levels")
        self._redo(bool(state["flat"]), state["levels"], weigh, _IDLE, 0)
        if stage != _IDLE:
            self._redo(bool(state["flat_next"]), state["next"], weigh_next, stage, at)
        self._flat_next = bool(state["flat_next"])

    def _redo(self, flat: bool, levels: Tensor, weigh: Weigh, stage: int, at: int) -> None:
        """Go over to levels, as far as a stage and the slice in it."""
        levels = levels.to(self._bins.device)
        self.begin(flat)
        while self.busy and (self._stage, self._at) != (stage, at):
            self._prepare(levels, weigh)

    def _prepare(self, levels: Tensor, weigh: Weigh) -> None:
        """Do one slice of a stage, and with the last one what ends it."""
        start, size = self._at * SLICE, len(self._bins)
        part = slice(start, min(start + SLICE, size))
        (self._count, self._sum, self._fill)[self._stage - 1](part, levels)
        self._at += 1
        if part.stop < size:
            return
        self._at = 0
        if self._stage == _COUNTING:
            self._next = self._next._replace(weights=weigh(self._counts))
        elif self._stage == _SUMMING:
            self._next = self._next._replace(scale=(1 - self._floor) * self._p / self._next.scale)
        else:
            self._finish()
            return
        self._stage += 1

    def _count(self, part: slice, levels: Tensor) -> None:
        if part.start == 0:
            self._counts = torch.zeros_like(self._counts)
        copied = levels[part] % LEVELS
        self._next.levels[part] = copied
        self._counts.index_add_(0, copied.long(), torch.ones_like(copied, dtype=torch.int64))

    def _sum(self, part: slice, levels: Tensor) -> None:
        if part.start == 0:
            self._next = self._next._replace(scale=torch.zeros_like(self._p))
        sums = torch.zeros_like(self._p)
        weights = self._next.weights.index_select(0, self._next.levels[part].long())
        add_to_bins(sums, self._bins.tags[part].long(), weights)
        self._next.scale.add_(sums)

    def _fill(self, part: slice, levels: Tensor) -> None:
        if part.start == 0:
            blocks, device = -(-len(self._bins) // WIDTH), self._p.device
            if len(self._next.ends) != blocks:
                ends = torch.empty(blocks, dtype=torch.float64, device=device)
                self._next = self._next._replace(ends=ends)
            self._next = self._next._replace(squares=torch.zeros_like(self._next.squares))
        r = self._r(self._next, part)
        self._next.squares.add_(r.square().sum())
        r = torch.nn.functional.pad(r, (0, -len(r) % WIDTH)).view(-1, WIDTH).sum(1)
        start = part.start // WIDTH
        sums = r.cumsum(0).add_(self._next.ends[start - 1] if start else 0)
        self._next.ends[start : start + len(sums)] = sums

    def _finish(self) -> None:
        """Draw from what is ready."""
        if self._flat_next and self._plain:
            self._next = self._next._replace(squares=torch.full_like(self._next.squares, 1 / len(self._bins)))
        else:
            self._next.ends.div_(self._next.ends[-1].clone())  # so that the last ends in exactly 1
        self._now, self._next = self._next, self._now
        self._flat, self._stage, self._at, self._views = self._flat_next, _IDLE, 0, None

    def _empty(self, blocks: int) -> _Table:
        levels = torch.zeros(len(self._bins), dtype=torch.int16, device=self._bins.device)
        ends = torch.zeros(blocks, dtype=torch.float64, device=self._bins.device)
        return _Table(levels, self._ones, torch.zeros_like(self._p), ends, torch.zeros_like(ends[:0].sum()))

    def _evenly(self, points: Tensor) -> Tensor:
        size = len(self._bins)
        places = (points * size).floor_().clamp_(max=size - 1)
        low, high = points < places / size, points >= (places + 1) / size  # which rounding may have made so
        return places.long() - low.long() + high.long()

    def _by_blocks(self, points: Tensor) -> Tensor:
        block = torch.searchsorted(self._now.ends, points, right=True)
        places, reached = self._inside(block)
        at = torch.searchsorted(reached, points.unsqueeze(1), right=True)
        last = (len(self._bins) - 1 - block * WIDTH).clamp(max=WIDTH - 1)  # where the sum is rounded it has the rest
        return places.gather(1, torch.minimum(at, last.unsqueeze(1))).squeeze(1)

    def _r(self, table: _Table, places: Any) -> Tensor:
        """R of instances by a table."""
        if self._flat and self._plain and table is self._now:
            count = len(range(len(self._bins))[places]) if isinstance(places, slice) else len(places)
            return torch.full((count,), 1 / len(self._bins), dtype=torch.float64, device=self._p.device)
        scale = table.scale.index_select(0, self._bins.tags[places].long())
        return table.weights.index_select(0, table.levels[places].long()).mul_(scale).add_(self._each)

    def _inside(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """The instances of blocks, and where the part of each ends: (B, width) int64 and float64."""
        places = block.unsqueeze(1) * WIDTH + torch.arange(WIDTH, dtype=torch.int64, device=block.device)
        inside = places.clamp(max=len(self._bins) - 1)
        r = self._r(self._now, inside.flatten()).view_as(places)
        start = torch.where(block > 0, self._now.ends.index_select(0, (block - 1).clamp(min=0)), 0.0)
        return inside, r.cumsum(1).add_(start.unsqueeze(1))
