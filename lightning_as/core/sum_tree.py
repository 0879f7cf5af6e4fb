"""Weighted draws with replacement and point updates in O(log N), on any torch device.

A sum tree keeps at every inner node the sum of its children, so that a draw walks from the root to a
leaf and an update walks from a leaf to the root. Three things differ from the textbook binary tree:

* A node has up to 96 children, which lie side by side in memory: a batch descends a level with a
  handful of vectorised operations, and the inner nodes cost a few per cent of the leaves.
* Several trees of unequal sizes stand side by side (one per bin), and one call draws from all of them.
* A leaf is a short vector of channels, and a draw weighs it by one of them, or by a linear combination, so
  that every weight of a tree can change at once without a leaf being touched. So can it by adding the same to each:
  the leaves lie side by side, and how many are below a node follows from where it stands.

Parents are recomputed from their children, never shifted by a difference: there is no drift. There is
no limit of 2**24 categories, which is where ``torch.multinomial`` stops.

On the CPU draws and updates are compiled loops (:mod:`lightning_as.core.compiled`), elsewhere torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

from lightning_as.core.arguments import check_integer
from lightning_as.core.draw import LARGEST_UNIFORM
from lightning_as.core.execution import Viewing, loops

SMALLEST_WEIGHT = 1e-280
"""Weights up to this one count as zero: a product with a uniform could no longer be told from 0."""


class SumTree(Viewing):
    """Sum trees of the given sizes over float64 weights, all zero at first.

    Leaves are numbered tree after tree, and drawn by number. They are read and set by their place in memory, which
    :attr:`places` has for each number: a caller that keeps places has no search to do.

    Args:
        sizes: Number of leaves of each tree, each at least 1. A single tree of N leaves is ``[N]``.
        channels: Numbers per leaf, ``C``. Default: 1.
        device: Where the trees live. Default: the CPU.

    Raises:
        ValueError: If there is no tree, a tree without leaves, or no channel.

    Example:
        >>> tree = SumTree([3])
        >>> tree.set(tree.places()[[0, 2]], torch.tensor([[1.0], [3.0]], dtype=torch.float64))
        >>> tree.totals()
        tensor([[4.]], dtype=torch.float64)
    """

    def __init__(self, sizes: Sequence[int], channels: int = 1, device: torch.device | str = "cpu") -> None:
        if len(sizes) == 0 or min(sizes) < 1:
            raise ValueError(f"`sizes` must be one or more positive numbers of leaves, got {list(sizes)[:10]}.")
        check_integer("channels", channels)
        self.channels = channels
        self.fanout = _fanout(sizes)
        self._channel_offsets = torch.arange(channels, device=device) * self.fanout
        self._sizes = torch.tensor(sizes, dtype=torch.int64, device=device)
        levels = [self._sizes]  # numbers of nodes of each tree; the nodes of a level are the rows of the one below
        while len(levels) == 1 or int(levels[-1].max()) > 1:
            levels.append(self._rows(levels[-1]))
        # A row is the children of one node. Those of the roots come first, those whose children are leaves last.
        counts = [int(nodes.sum()) for nodes in levels[:0:-1]]
        self._starts = [sum(counts[:above]) for above in range(len(counts) + 1)]  # level from above -> its first row
        self.memory = torch.zeros(self._starts[-1], channels, self.fanout, dtype=torch.float64, device=device)
        self._first_child = torch.empty(self._starts[-1], dtype=torch.int64, device=device)  # row -> row below or leaf
        self.parents = torch.zeros_like(self._first_child)  # row -> place of its sum; of no use for a root's
        for above, start in enumerate(self._starts[:-1]):
            nodes = levels[self.height - 1 - above]
            rows, end = self._rows(nodes), self._starts[above + 1]
            is_last = above == self.height - 1
            self._first_child[start:end] = _number(rows, _starts(nodes), self.fanout) + (0 if is_last else end)
            if not is_last:
                self.parents[end : self._starts[above + 2]] = self._places(nodes) + start * channels * self.fanout

    @property
    def height(self) -> int:
        """Number of levels."""
        return len(self._starts) - 1

    @property
    def loops(self) -> ModuleType | None:
        """The compiled loops that draw and set here, None where torch does. Not kept: a module cannot be pickled."""
        return loops(self.memory.device)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What the loops take of a tree on the CPU: memory, parents, first children and sizes."""
        return self.views(self.memory, self.parents, self._first_child, self._sizes)

    def places(self) -> Tensor:
        """The place of every leaf, (sum of sizes,) int64."""
        return self._places(self._sizes) + self._starts[-2] * self.channels * self.fanout

    def totals(self) -> Tensor:
        """Sum of the leaves of each tree, per channel: (number of trees, C)."""
        return self.memory[: len(self._sizes)].sum(-1)

    def places_of(self, leaves: Tensor) -> Tensor:
        """The places of leaves of the first tree, of which there may be no others: (B,) int64 for (B,) int64."""
        rows = torch.floor_divide(leaves, self.fanout)  # a third of what the operator // takes
        start = self._starts[-2] * self.channels * self.fanout
        return torch.add(leaves, rows, alpha=(self.channels - 1) * self.fanout).add_(start)

    def firsts(self) -> tuple[Tensor, Tensor]:
        """The place and the number of the first leaf of each tree, (number of trees,) int64 both."""
        first_rows = _starts(self._rows(self._sizes)) + self._starts[-2]
        return first_rows * self.channels * self.fanout, _starts(self._sizes)

    def leaves(self) -> Tensor:
        """All leaves, tree after tree: (sum of sizes, C) float64. O(N)."""
        if self.loops is None:
            return self.get(self.places())
        leaves, (memory, _, _, sizes) = self.memory.new_empty(int(self._sizes.sum()), self.channels), self.arrays
        self.loops.copy_leaves(memory, self._starts[-2], sizes, leaves.numpy(), False)
        return leaves

    def load(self, leaves: Tensor) -> None:
        """Set every leaf, tree after tree, from (sum of sizes, C), and every sum above them. O(N)."""
        leaves = leaves.to(self.memory)
        if self.loops is None:
            self._write(self.places(), leaves)
        else:
            memory, _, _, sizes = self.arrays
            self.loops.copy_leaves(memory, self._starts[-2], sizes, leaves.contiguous().numpy(), True)
        self._sum_up()

    def fill(self, leaf: Sequence[float]) -> None:
        """Set every leaf to the same C numbers, and every sum above them. O(N)."""
        level, rows = self.memory[self._starts[-2] :], self._rows(self._sizes)
        level.copy_(torch.tensor(leaf, dtype=torch.float64, device=level.device).unsqueeze(1))
        last = rows.cumsum(0) - 1  # of each tree, which its leaves may fill in part
        in_last = (self._sizes - (rows - 1) * self.fanout).view(-1, 1, 1)
        level[last] *= torch.arange(self.fanout, device=level.device) < in_last
        self._sum_up()

    def collapse(self, coefficients: Tensor, channel: int) -> None:
        """Set one channel of every leaf to the leaf's weight, in place. O(N).

        Args:
            coefficients: What the channels count in each tree, (number of trees, C).
            channel: The channel that takes the weight; the others stay as they are.
        """
        level = self.memory[self._starts[-2] :]
        rows = self._rows(self._sizes)
        weights = torch.zeros_like(level[:, 0])
        for source in range(self.channels):
            weights.addcmul_(level[:, source], coefficients[:, source].repeat_interleave(rows).unsqueeze(1))
        level[:, channel] = weights
        self._sum_up()

    def get(self, places: Tensor, channel: int | None = None) -> Tensor:
        """Values of the leaves at the given places, (B,) int64: (B, C) float64, or (B,) of one channel."""
        values = self.memory.view(-1).index_select(0, self._spread(places, channel))
        return values.view(-1, self.channels) if channel is None else values

    def set(self, places: Tensor, values: Tensor, channel: int | None = None) -> None:
        """Set leaves and recompute the sums above them. Where a place is named twice, its values must be equal.

        Args:
            places: Places of the leaves, (B,) int64.
            values: New values, (B, C) float64, or (B,) of one channel.
            channel: The channel to set, or None for all of them. Default: None.
        """
        if self.loops is not None:
            span = (0, self.channels) if channel is None else (channel, 1)
            leaves = places.clone().numpy(), values.contiguous().view(-1).numpy()
            self.loops.set_leaves(*self.arrays[:2], len(self._sizes), *leaves, *span)
            return
        self._write(places, values, channel)
        memory = self.memory if channel is None else self.memory[:, channel]
        for _ in range(self.height - 1):
            rows = torch.floor_divide(places, self.channels * self.fanout)  # a third of what the operator // takes
            sums = memory.index_select(0, rows).sum(-1)
            places = self.parents.index_select(0, rows)
            self._write(places, sums, channel)

    def draw(
        self, uniforms: Tensor, trees: Tensor | None = None, coefficients: Tensor | None = None, per_leaf: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Draw leaves with replacement, in proportion to their weights. A zero weight is never drawn.

        A draw inverts the cumulative distribution, so that ascending uniforms give ascending leaves: what is left of
        the uniform at one level decides at the next. The probability of a leaf is exact to some 2**-52 of the total.
        Weights must not be negative, except for the rounding of a combination that is 0.

        Args:
            uniforms: In [0, 1), (B,) float64.
            trees: The tree to draw from, (B,) int64. Its weights must sum to more than 1e-150. Default: the first.
            coefficients: What the first c channels count in each tree, (number of trees, c): a leaf weighs the dot
                product, and a result of at most :data:`SMALLEST_WEIGHT` counts as zero. Default: a leaf weighs its
                first channel.
            per_leaf: What each leaf weighs beside, at least 0. Default: 0.

        Returns:
            Leaf numbers, (B,) int64, and the probability of each within its tree, (B,) float64.
        """
        trees = torch.zeros(uniforms.shape, dtype=torch.int64, device=uniforms.device) if trees is None else trees
        if self.loops is None:
            return self._draw_in_torch(uniforms, trees, coefficients, per_leaf)
        leaves, probabilities = trees.clone(), torch.empty_like(uniforms)
        if coefficients is None:
            coefficients = probabilities.new_empty(len(self._sizes), 0)
        memory, _, first_child, sizes = self.arrays
        numbers = coefficients.contiguous().numpy(), per_leaf, SMALLEST_WEIGHT
        drawn = uniforms.clone(memory_format=torch.contiguous_format).numpy(), leaves.numpy(), probabilities.numpy()
        self.loops.draw_leaves(memory, first_child, sizes, self.height, *numbers, *drawn)
        return leaves, probabilities

    def _draw_in_torch(
        self, uniforms: Tensor, node: Tensor, coefficients: Tensor | None, per_leaf: float
    ) -> tuple[Tensor, Tensor]:
        factors = None if coefficients is None else coefficients.index_select(0, node).unsqueeze(2)
        below = self._sizes.index_select(0, node).unsqueeze(1)  # leaves below the node
        totals: list[Tensor] = []
        weights = child = node
        for height in reversed(range(self.height)):
            rows = self.memory if totals else self.memory[: len(self._sizes)]  # those of the roots: no others are trees
            if factors is None:
                weights = rows[:, 0].index_select(0, node)
            else:
                # A node above its height's threshold has a child above the one below, and in the end a leaf.
                smallest = SMALLEST_WEIGHT * self.fanout**height
                rows = rows[:, : factors.shape[1]].index_select(0, node)
                weights = threshold(torch.linalg.vecdot(rows, factors, dim=1), smallest, 0.0)
            if per_leaf > 0:
                full = self.fanout**height  # the first children are, and one may be in part
                starts = torch.arange(0, self.fanout * full, full, device=node.device)
                below = (below - starts).clamp_(0, full)
                weights = torch.add(weights, below, alpha=per_leaf)
            cumulative = weights.cumsum(1)
            totals.append(cumulative[:, -1:])
            # The first child whose cumulative weight exceeds the target has a positive weight itself. There is one:
            # a float times the largest uniform, 1 - 2**-53, rounds to less than itself.
            target = totals[-1] * uniforms.unsqueeze(1)
            child = torch.searchsorted(cumulative, target, right=True)
            before = torch.where(child > 0, cumulative.gather(1, (child - 1).clamp_(min=0)), 0)
            share = (target - before).div_(weights.gather(1, child))
            uniforms = share.clamp_(max=LARGEST_UNIFORM).squeeze(1)  # rounding may have given 1
            node = self._first_child.index_select(0, node).add_(child.squeeze(1))
            below = below.gather(1, child) if per_leaf > 0 else below
        return node, weights.gather(1, child).div_(totals[0]).squeeze(1)

    def _spread(self, places: Tensor, channel: int | None = None) -> Tensor:
        """Where a channel of some places lies, (M,), or all of them, (M · C,): they are a row's length apart."""
        if channel is None:
            return (places.unsqueeze(1) + self._channel_offsets).view(-1)
        return places + channel * self.fanout if channel else places

    def _write(self, places: Tensor, values: Tensor, channel: int | None = None) -> None:
        """Put values, (M, C) or (M,), into places of the memory."""
        self.memory.view(-1).index_copy_(0, self._spread(places, channel), values.view(-1))

    def _sum_up(self) -> None:
        """Recompute every sum from the leaves."""
        # In the order that an update adds in, so that a state that is loaded is what was saved.
        if self.loops is not None:
            self.loops.sum_up(*self.arrays[:2], len(self._sizes))
            return
        for start, end in reversed(list(zip(self._starts[1:-1], self._starts[2:], strict=True))):
            self._write(self.parents[start:end], self.memory[start:end].sum(-1))

    def _places(self, nodes: Tensor) -> Tensor:
        """Places of the nodes of a level, of which each tree has so many, from the level's first row on."""
        numbers = _number(nodes, _starts(self._rows(nodes)) * self.fanout)
        return numbers + numbers // self.fanout * ((self.channels - 1) * self.fanout)

    def _rows(self, nodes: Tensor) -> Tensor:
        """How many rows that many nodes of each tree fill, the last one perhaps in part."""
        return (nodes + self.fanout - 1) // self.fanout


def _starts(counts: Tensor) -> Tensor:
    """How many come before each tree's own."""
    return counts.cumsum(0) - counts


def _number(counts: Tensor, starts: Tensor, step: int = 1) -> Tensor:
    """For each tree the numbers start, start + step, …, as many as its count; tree after tree."""
    numbers = torch.arange(int(counts.sum()), device=counts.device)
    return (numbers - _starts(counts).repeat_interleave(counts)).mul_(step).add_(starts.repeat_interleave(counts))


def _fanout(sizes: Sequence[int]) -> int:
    """Children per node: as few levels as at most 96 children allow, and then as few children as those need.

    Wider rows save levels, but a batch of them no longer fits the cache.
    """
    # Trees much larger than most get more levels instead: wide rows would be mostly empty in the others.
    size = min(max(sizes), 4 * sum(sizes) / len(sizes))
    height = max(1, math.ceil(math.log(size, 96)))
    return max(2, math.ceil(round(size ** (1 / height), 9)))
