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
no limit of 2**24 categories, which is where ``torch.multinomial`` stops. Leaves may be float32: the sums of them are
float64 all the same, so that what is drawn is exactly in proportion to what the leaves are.

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
    """Sum trees of the given sizes over weights, all zero at first.

    Leaves are numbered tree after tree. Who names leaves names their trees as well: there is no search to do. A node at
    the height h is above up to fanout**h leaves of its tree, and the nodes of a tree are numbered along each height.

    Args:
        sizes: Number of leaves of each tree, each at least 1. A single tree of N leaves is ``[N]``.
        channels: Numbers per leaf, ``C``. Default: 1.
        device: Where the trees live. Default: the CPU.
        dtype: Of the leaves, float64 or float32. Default: float64.

    Raises:
        ValueError: If there is no tree, a tree without leaves, or no channel.

    Example:
        >>> tree = SumTree([3])
        >>> tree.set(torch.tensor([0, 2]), torch.tensor([[1.0], [3.0]]))
        >>> tree.totals()
        tensor([[4.]], dtype=torch.float64)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        channels: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if len(sizes) == 0 or min(sizes) < 1:
            raise ValueError(f"`sizes` must be one or more positive numbers of leaves, got {list(sizes)[:10]}.")
        check_integer("channels", channels)
        self.channels = channels
        self.fanout = _fanout(sizes)
        self._sizes = torch.tensor(sizes, dtype=torch.int64, device=device)
        nodes = [self._sizes]  # height -> number of nodes of each tree
        while len(nodes) <= 2 or int(nodes[-1].max()) > 1:
            nodes.append(self._above(nodes[-1]))
        self._counts = counts = [int(each.sum()) for each in nodes]
        # A row is the children of one node: leaves of one at the height 1, sums of any other. The roots' come first.
        self.leaf_rows = torch.zeros(counts[1], channels, self.fanout, dtype=dtype, device=device)
        self.sum_rows = torch.zeros(sum(counts[2:]), channels, self.fanout, dtype=torch.float64, device=device)
        self._starts = starts = [0, 0, *(sum(counts[height + 1 :]) for height in range(2, len(nodes)))]
        # Of each tree the first leaf, the first row of leaves, and at each height from 2 on the first row of sums.
        self._firsts = torch.stack([_starts(each) + start for each, start in zip(nodes, starts, strict=True)])

    @property
    def height(self) -> int:
        """The height of the roots, at least 2."""
        return len(self._firsts) - 1

    @property
    def loops(self) -> ModuleType | None:
        """The compiled loops that draw and set here, None where torch does. Not kept: a module cannot be pickled."""
        return loops(self.sum_rows.device)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What the loops take of the trees on the CPU."""
        return self.views(self.sum_rows, self.leaf_rows, self._firsts, self._sizes)

    def totals(self) -> Tensor:
        """Sum of the leaves of each tree, per channel: (number of trees, C) float64."""
        return self.sum_rows[: len(self._sizes)].sum(-1)

    def leaves(self) -> Tensor:
        """All leaves, tree after tree: (sum of sizes, C). O(N)."""
        if self.loops is None:
            return self.leaf_rows.movedim(1, 2)[self._filled()]
        leaves = self.leaf_rows.new_empty(int(self._sizes.sum()), self.channels)
        self.loops.copy_leaves(*self.arrays[1:], leaves.numpy(), False)
        return leaves

    def load(self, leaves: Tensor) -> None:
        """Set every leaf, tree after tree, from (sum of sizes, C), and every sum above them. O(N)."""
        leaves = leaves.to(self.leaf_rows)
        if self.loops is None:
            self.leaf_rows.movedim(1, 2)[self._filled()] = leaves
        else:
            self.loops.copy_leaves(*self.arrays[1:], leaves.contiguous().numpy(), True)
        self._sum_up()

    def fill(self, leaf: Sequence[float]) -> None:
        """Set every leaf to the same C numbers, and every sum above them. O(N)."""
        rows = self.leaf_rows
        rows.copy_(torch.tensor(leaf, dtype=rows.dtype, device=rows.device).unsqueeze(1))
        last, in_last = self._last_rows()
        rows[last] = torch.where(in_last.unsqueeze(1), rows[last], 0)
        self._sum_up()

    def collapse(self, coefficients: Tensor, channel: int) -> None:
        """Set one channel of every leaf to the leaf's weight, in place. O(N).

        Args:
            coefficients: What the channels count in each tree, (number of trees, C).
            channel: The channel that takes the weight; the others stay as they are.
        """
        counts = self._above(self._sizes)
        coefficients = coefficients.to(self.leaf_rows.dtype)
        weights = torch.zeros_like(self.leaf_rows[:, 0])
        for source in range(self.channels):
            of_rows = coefficients[:, source].repeat_interleave(counts, output_size=len(weights))
            weights.addcmul_(self.leaf_rows[:, source], of_rows.unsqueeze(1))
        self.leaf_rows[:, channel] = weights
        self._sum_up()

    def get(self, leaves: Tensor, trees: Tensor | None = None, channel: int | None = None) -> Tensor:
        """Values of leaves, (B,) int64, of the given trees, (B,), or of the first: (B, C), or (B,) of one channel."""
        row, column = self._cells(leaves, trees)
        cells = self.leaf_rows.view(-1)
        if channel is not None:
            return cells.index_select(0, (row * self.channels + channel) * self.fanout + column)
        return self.leaf_rows.index_select(0, row).gather(2, column.view(-1, 1, 1).expand(-1, self.channels, 1))[..., 0]

    def set(self, leaves: Tensor, values: Tensor, trees: Tensor | None = None, channel: int | None = None) -> None:
        """Set leaves and recompute the sums above them. Where a leaf is named twice, its values must be equal.

        Args:
            leaves: Leaves, (B,) int64.
            values: New values, (B, C), or (B,) of one channel.
            trees: Their trees, (B,) int64. Default: the first.
            channel: The channel to set, or None for all of them. Default: None.
        """
        trees = torch.zeros_like(leaves) if trees is None else trees
        first, count = (0, self.channels) if channel is None else (channel, 1)
        values = values.reshape(len(values), count).to(self.sum_rows.dtype)
        if self.loops is not None:
            places = trees.contiguous().numpy(), leaves.contiguous().numpy()
            self.loops.set_leaves(*self.arrays, *places, values.contiguous().numpy(), first)
            return
        row, column = self._cells(leaves, trees)
        node, rows = row - self._firsts[1].index_select(0, trees), self.leaf_rows
        for height in range(2, self.height + 2):
            rows[row, first : first + count, column] = values.to(rows.dtype)
            if height <= self.height:
                values = rows[:, first : first + count].index_select(0, row).sum(-1, dtype=torch.float64)
                column, node = node % self.fanout, torch.floor_divide(node, self.fanout)
                row, rows = self._firsts[height].index_select(0, trees) + node, self.sum_rows

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
        numbers = coefficients.contiguous().numpy(), per_leaf, SMALLEST_WEIGHT
        drawn = uniforms.clone(memory_format=torch.contiguous_format).numpy(), leaves.numpy(), probabilities.numpy()
        self.loops.draw_leaves(*self.arrays, *numbers, *drawn)
        return leaves, probabilities

    def _draw_in_torch(
        self, uniforms: Tensor, trees: Tensor, coefficients: Tensor | None, per_leaf: float
    ) -> tuple[Tensor, Tensor]:
        factors = None if coefficients is None else coefficients.index_select(0, trees).unsqueeze(2)
        below = self._sizes.index_select(0, trees).unsqueeze(1)  # leaves below the node
        totals: list[Tensor] = []
        weights = child = node = torch.zeros_like(trees)
        for height in range(self.height, 0, -1):
            rows = self.sum_rows if height > 1 else self.leaf_rows
            row = self._firsts[height].index_select(0, trees) + node
            if factors is None:
                weights = rows[:, 0].index_select(0, row).double()
            else:
                # A node above its height's threshold has a child above the one below, and in the end a leaf.
                smallest = SMALLEST_WEIGHT * self.fanout ** (height - 1)
                channels = rows[:, : factors.shape[1]].index_select(0, row).double()
                weights = threshold(torch.linalg.vecdot(channels, factors, dim=1), smallest, 0.0)
            if per_leaf > 0:
                full = self.fanout ** (height - 1)  # the first children are, and one may be in part
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
            node = torch.add(child.squeeze(1), node, alpha=self.fanout)
            below = below.gather(1, child) if per_leaf > 0 else below
        leaves = node.add_(self._firsts[0].index_select(0, trees))
        return leaves, weights.gather(1, child).div_(totals[0]).squeeze(1)

    def _cells(self, leaves: Tensor, trees: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rows of leaves and the columns in them, (B,) both."""
        if trees is None:  # of the first, which begins at 0
            return torch.floor_divide(leaves, self.fanout), leaves % self.fanout
        number = leaves - self._firsts[0].index_select(0, trees)
        row = torch.floor_divide(number, self.fanout)  # a third of what the operator // takes
        return row + self._firsts[1].index_select(0, trees), number % self.fanout

    def _sum_up(self) -> None:
        """Recompute every sum from the leaves."""
        # In the order that an update adds in, so that a state that is loaded is what was saved.
        if self.loops is not None:
            self.loops.sum_up(*self.arrays)
            return
        nodes, sums = self._above(self._sizes), self.leaf_rows.sum(-1, dtype=torch.float64)
        for height in range(2, self.height + 1):
            trees = torch.arange(len(nodes), device=nodes.device).repeat_interleave(nodes, output_size=len(sums))
            node = torch.arange(len(trees), device=nodes.device) - _starts(nodes).index_select(0, trees)
            row = torch.floor_divide(node, self.fanout) + self._firsts[height].index_select(0, trees)
            self.sum_rows[row, :, node % self.fanout] = sums
            nodes, start = self._above(nodes), self._starts[height]
            sums = self.sum_rows[start : start + self._counts[height]].sum(-1)

    def _last_rows(self) -> tuple[Tensor, Tensor]:
        """The last row of leaves of each tree, (k,), and which columns of it are leaves, (k, fanout) bool."""
        counts = self._above(self._sizes)
        in_last = self._sizes - (counts - 1) * self.fanout
        return counts.cumsum(0) - 1, torch.arange(self.fanout, device=counts.device) < in_last.unsqueeze(1)

    def _filled(self) -> Tensor:
        """Which cells of the rows of leaves have one, (rows, fanout) bool."""
        filled = torch.ones(len(self.leaf_rows), self.fanout, dtype=torch.bool, device=self._sizes.device)
        last, in_last = self._last_rows()
        filled[last] = in_last
        return filled

    def _above(self, nodes: Tensor) -> Tensor:
        """How many nodes are above that many of each tree, the last one perhaps of fewer."""
        return (nodes + self.fanout - 1) // self.fanout


def _starts(counts: Tensor) -> Tensor:
    """How many come before each tree's own."""
    return counts.cumsum(0) - counts


def _fanout(sizes: Sequence[int]) -> int:
    """Children per node: as few levels, but two, as at most 96 children allow, and then as few children as those need.

    Wider rows save levels, but a batch of them no longer fits the cache.
    """
    # Trees much larger than most get more levels instead: wide rows would be mostly empty in the others.
    size = min(max(sizes), 4 * sum(sizes) / len(sizes))
    height = max(2, math.ceil(math.log(size, 96)))
    return max(2, math.ceil(round(size ** (1 / height), 9)))
