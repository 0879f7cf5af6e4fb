"""Weighted draws with replacement and point updates in O(log N), on any torch device.

A sum tree keeps at every inner node the sum of its children, so that a draw walks from the root to a
leaf and an update walks from a leaf to the root. Three things differ from the textbook binary tree:

* A node has up to 32 children, which lie side by side in memory: a batch descends a level with a
  handful of vectorised operations, and the inner nodes cost under four per cent of the leaves.
* Several trees of unequal sizes stand side by side (one per bin), and one call draws from all of them.
* A leaf is a short vector of channels, and a draw weighs it by a linear combination of them, so that
  every weight of a tree can change at once without a leaf being touched.

Parents are recomputed from their children, never shifted by a difference: there is no drift. There is
no limit of 2**24 categories, which is where ``torch.multinomial`` stops.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import threshold

SMALLEST_WEIGHT = 1e-280
"""Weights up to this one count as zero: their products with a uniform could no longer be told from 0."""


class SumTree:
    """Sum trees of the given sizes over float64 weights, all zero at first.

    A leaf is known by its place. Places are numbered tree after tree, but each tree starts on a multiple of
    the fan-out, so that some are empty: :attr:`places` has those of the leaves, :attr:`size` counts all.

    Args:
        sizes: Number of leaves of each tree, each at least 1. A single tree of N leaves is ``[N]``.
        channels: Numbers per leaf, ``C``. Default: 1.
        device: Where the trees live. Default: the CPU.

    Raises:
        ValueError: If there is no tree, a tree without leaves, or no channel.

    Example:
        >>> tree = SumTree([3])
        >>> tree.set(tree.places()[[0, 2]], torch.tensor([[1.0], [3.0]]))
        >>> tree.totals()
        tensor([[4.]], dtype=torch.float64)
    """

    def __init__(self, sizes: Sequence[int], channels: int = 1, device: torch.device | str = "cpu") -> None:
        if len(sizes) == 0 or min(sizes) < 1:
            raise ValueError(f"`sizes` must be one or more positive numbers of leaves, got {list(sizes)[:10]}.")
        if channels < 1:
            raise ValueError(f"`channels` must be at least 1, got {channels}.")
        self.channels = channels
        self.fanout = _fanout(sum(sizes) / len(sizes))
        self._shift = self.fanout.bit_length() - 1
        # Level 0 holds the leaves, the last one the roots. A row is the children of one node: (rows, C, fanout).
        # The rows of a level, numbered tree after tree, are the nodes of the level above.
        self._levels: list[Tensor] = []
        self._first_child: list[Tensor] = []  # level, row -> the node of the level below that is its first child
        self._place: list[Tensor] = []  # level, row -> its place among the children of the level above
        self._sizes = torch.tensor(sizes, device=device)
        nodes = self._sizes
        while not self._levels or int(nodes.max()) > 1:
            rows = (nodes + self.fanout - 1) >> self._shift
            if self._levels:
                self._place.append(self._places(nodes))
                self._first_child.append(_number(rows, _starts(nodes), self.fanout))
            else:
                self._first_child.append(torch.arange(int(rows.sum()), device=device) << self._shift)
            shape = (int(rows.sum()), channels, self.fanout)
            self._levels.append(torch.zeros(shape, dtype=torch.float64, device=device))
            nodes = rows

    @property
    def height(self) -> int:
        """Number of levels, which is the number of uniforms that one draw takes."""
        return len(self._levels)

    @property
    def size(self) -> int:
        """Number of places, empty ones included."""
        return len(self._levels[0]) << self._shift

    def places(self) -> Tensor:
        """The places of all leaves, tree after tree, (sum of sizes,) int64."""
        return self._places(self._sizes)

    def totals(self) -> Tensor:
        """Sum of the leaves of each tree, per channel: (number of trees, C)."""
        return self._levels[-1].sum(-1)

    def leaves(self) -> Tensor:
        """All leaves, tree after tree: (sum of sizes, C) float64. O(N)."""
        level = self._levels[0]
        return level.transpose(1, 2).reshape(-1, self.channels)[self.places()]

    def load(self, leaves: Tensor) -> None:
        """Set every leaf, tree after tree, from (sum of sizes, C), and every sum above them. O(N)."""
        self._write(0, self.places(), leaves.to(torch.float64))
        self._sum_up()

    def collapse(self, coefficients: Tensor, channel: int) -> None:
        """Set one channel of every leaf to the leaf's weight, in place. O(N).

        Args:
            coefficients: What the channels count in each tree, (number of trees, C).
            channel: The channel that takes the weight; the others stay as they are.
        """
        level = self._levels[0]
        rows = (self._sizes + self.fanout - 1) >> self._shift
        weights = torch.zeros_like(level[:, 0])
        for source in range(self.channels):
            weights.addcmul_(level[:, source], coefficients[:, source].repeat_interleave(rows).unsqueeze(1))
        level[:, channel] = weights
        self._sum_up()

    def get(self, places: Tensor) -> Tensor:
        """Values of the leaves at the given places, (B,) int64: (B, C) float64."""
        return self._levels[0][places >> self._shift, :, places & (self.fanout - 1)]

    def set(self, places: Tensor, values: Tensor) -> None:
        """Set leaves and recompute the sums above them. Where a place is named twice, its values must be equal.

        Args:
            places: Places of the leaves, (B,) int64.
            values: New values, (B, C) float64.
        """
        row = self._write(0, places, values)
        for height, place in enumerate(self._place, start=1):
            sums = self._levels[height - 1].index_select(0, row).sum(-1)
            row = self._write(height, place.index_select(0, row), sums)

    def draw(self, uniforms: Tensor, trees: Tensor | None = None, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw leaves with replacement, in proportion to their weights. A zero weight is never drawn.

        Each level spends a uniform of its own, so that the law is exact to float64 however deep the tree.

        Args:
            uniforms: Independent uniforms in [0, 1), (:attr:`height`, B) float64.
            trees: The tree to draw from, (B,) int64. Its weights must not all be zero. Default: the first tree.
            coefficients: What the channels count, (B, C): a leaf weighs the dot product, and a result
                of at most :data:`SMALLEST_WEIGHT` counts as zero. Default: all ones.

        Returns:
            Places, (B,) int64, and the probability of each within its tree, (B,) float64.
        """
        uniforms = 1 - uniforms  # in (0, 1], so that the targets below are in (0, total]
        row = torch.zeros_like(uniforms[0], dtype=torch.int64) if trees is None else trees
        for height in reversed(range(self.height)):
            children = self._levels[height].index_select(0, row)
            if coefficients is not None:
                children = children.mul_(coefficients.unsqueeze(2))
            weights = threshold(children.sum(1), SMALLEST_WEIGHT, 0.0)
            cumulative = weights.cumsum(-1)
            total = cumulative[:, -1]
            if height == self.height - 1:
                tree_total = total
            # The first child whose cumulative weight reaches a positive target has a positive weight itself.
            child = torch.searchsorted(cumulative, (uniforms[height] * total).unsqueeze(1))
            row = self._first_child[height].index_select(0, row).add_(child.squeeze(1))
        return row, weights.gather(1, child).squeeze(1).div_(tree_total)

    def _write(self, height: int, place: Tensor, values: Tensor) -> Tensor:
        """Put values, (M, C), into places of a level; returns the rows that they lie in, (M,)."""
        row = place >> self._shift
        self._levels[height][row, :, place & (self.fanout - 1)] = values
        return row

    def _sum_up(self) -> None:
        """Recompute every sum from the leaves."""
        for height, place in enumerate(self._place, start=1):
            self._write(height, place, self._levels[height - 1].sum(-1))

    def _places(self, nodes: Tensor) -> Tensor:
        """Places of the nodes of a level, of which each tree has so many."""
        rows = (nodes + self.fanout - 1) >> self._shift
        return _number(nodes, _starts(rows) << self._shift)


def _starts(counts: Tensor) -> Tensor:
    """How many come before each tree's own."""
    return counts.cumsum(0) - counts


def _number(counts: Tensor, starts: Tensor, step: int = 1) -> Tensor:
    """For each tree the numbers start, start + step, …, as many as its count; tree after tree."""
    numbers = torch.arange(int(counts.sum()), device=counts.device)
    return (numbers - _starts(counts).repeat_interleave(counts)).mul_(step).add_(starts.repeat_interleave(counts))


def _fanout(mean_size: float) -> int:
    """Power of two, at most 32, that leaves few empty places in trees of some mean size."""
    fanout = 4
    while fanout < 32 and fanout * fanout < mean_size:
        fanout *= 2
    return fanout
