"""Bins: a partition of the data set by side information.

Adaptive sampling first draws a bin and then an instance inside it. A bin gathers what is likely to behave
alike in training: a class, a source, a difficulty. Thesis, section 3.2 and the input of Algorithm 1;
after Gopal, "Adaptive Sampling for SGD by Exploiting Side Information" (ICML 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_as.core.chunk_order import Chunks
from lightning_as.core.shards import Shard, cut


class Bins:
    """A partition of ``range(N)`` into k mutually exclusive bins, of equal or unequal sizes.

    Args:
        tags: The bin of each instance, (N,) integers that cover 0 … k - 1 without a gap.
        labels: The class label of each bin, (k,) integers, if the bins are classes and the data set yields their labels
            as targets. The callback then checks the targets of each batch against what was drawn. Default: None.

    Raises:
        TypeError: If the tags are not integers.
        ValueError: If there are none, they are not one-dimensional, one is negative, or a bin is empty; or if there
            is not one label for each bin.

    Example:
        >>> bins = Bins([0, 1, 0, 0])
        >>> bins.sizes
        [3, 1]
        >>> bins.of(torch.tensor([1, 2]))
        tensor([1, 0])
    """

    def __init__(self, tags: Tensor | Sequence[int], labels: Tensor | None = None) -> None:
        tags = _check(tags, "tags")
        if tags.min() < 0:
            raise ValueError(f"`tags` must not be negative, got {int(tags.min())} at position {int(tags.argmin())}.")
        sizes = torch.bincount(tags)
        empty = (sizes == 0).nonzero().flatten()
        if len(empty):
            raise ValueError(
                f"Bin {int(empty[0])} is empty: `tags` must cover 0 … {len(sizes) - 1} without a gap. Renumber them, "
                "for example with `torch.unique(tags, return_inverse=True)[1]`."
            )
        if labels is not None and labels.shape != sizes.shape:
            raise ValueError(f"`labels` must be one for each of the {len(sizes)} bins, got {tuple(labels.shape)}.")
        self.labels = labels
        self.sizes: list[int] = sizes.tolist()
        self.tags = tags.to(torch.int16 if len(self.sizes) <= 2**15 else torch.int32)
        """The bin of each instance, (N,) int16, or int32 of more than 32,768 bins; :meth:`of` gives int64."""
        self.chunks: Chunks | None = None
        """Where the instances lie, if reading one costs the chunk that it is in."""
        self.shard: Shard | None = None
        """Which part of the data it is the partition of, where each process has one of its own; None for all of it."""
        self._origin = self

    @classmethod
    def from_labels(cls, labels: Tensor | Sequence[int]) -> Bins:
        """One bin per class, in ascending order, from the labels that the data set yields as targets, (N,) integers."""
        values, tags = torch.unique(_check(labels, "labels"), return_inverse=True)
        return cls(tags, values)

    @classmethod
    def from_quantiles(cls, measure: Tensor | Sequence[float] | npt.ArrayLike, count: int) -> Bins:
        """Bins of equal size (within one) along a real-valued measure, such as the entropy of an image.

        Args:
            measure: A number for each instance, (N,) or (N, 1), as a tensor, an array, a sequence or a column of a
                table. Ties are split by position.
            count: Number of bins k, from 1 to N. Bin 0 has the smallest values.

        Raises:
            ValueError: If `measure` is empty, not one-dimensional or has NaN, or `count` is out of range.
        """
        measure = _tensor(measure, "measure").detach().cpu()
        if measure.dim() == 2 and measure.shape[1] == 1:
            measure = measure[:, 0]
        if measure.dim() != 1 or len(measure) == 0:
            raise ValueError(f"`measure` must have one number per instance, got the shape {tuple(measure.shape)}.")
        if measure.isnan().any():
            raise ValueError("`measure` has missing (NaN) entries: give every instance a number.")
        if not 1 <= count <= len(measure):
            raise ValueError(f"`count` must be from 1 to the {len(measure)} instances, got {count}.")
        rank = torch.empty(len(measure), dtype=torch.int64, device="cpu")
        rank[measure.argsort(stable=True)] = torch.arange(len(measure), device="cpu")
        return cls(rank * count // len(measure))

    @classmethod
    def single(cls, size: int) -> Bins:
        """One bin with all `size` instances: no side information."""
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}.")
        return cls(torch.zeros(size, dtype=torch.int64, device="cpu"))

    def __len__(self) -> int:
        """Number of instances, N."""
        return len(self.tags)

    @property
    def device(self) -> torch.device:
        """Where :attr:`tags` is. What a strategy keeps of the instances lies beside it."""
        return self.tags.device

    @property
    def on_host(self) -> bool:
        """Whether that is the CPU, where looking at a number costs no waiting."""
        return self.device.type == "cpu"

    def is_copy_of(self, other: Bins) -> bool:
        """Whether both are the same object, or come from the same by :meth:`to`."""
        return self._origin is other._origin

    def to(self, device: torch.device | str) -> Bins:
        """The same partition on another device; itself if it is there already."""
        tags = self.tags.to(device)
        if tags is self.tags:
            return self
        moved = copy(self)
        moved.tags = tags
        moved.labels = None if self.labels is None else self.labels.to(device)
        return moved

    def in_chunks(self, chunks: Chunks | None) -> Bins:
        """The same partition of instances that lie in these chunks.

        Raises:
            ValueError: If these are of another number of instances.
        """
        if chunks is None and self.chunks is None:
            return self
        if chunks is not None and sum(chunks.sizes) != len(self):
            raise ValueError(f"The chunks are of {sum(chunks.sizes)} instances, but the bins of {len(self)}.")
        laid_out = copy(self)
        laid_out.chunks = chunks
        laid_out._origin = laid_out
        return laid_out

    def in_shard(self, rank: int, count: int) -> Bins:
        """The partition of the part that process `rank` of `count` has, see :mod:`lightning_as.core.shards`.

        Its instances are numbered as in that part; bins that it has nothing of are left out.
        """
        shard, tags = cut(self.tags.cpu(), self.sizes, rank, count)
        part = Bins(tags, None if self.labels is None else self.labels.cpu()[shard.whole_bins])
        part.shard = shard
        return part

    @property
    def mean_size(self) -> float:
        """Number of instances, N; of a shard N over the number of shards.

        Of an instance with the probability r in its process the weight 1 / (`mean_size` · r) is without bias.
        """
        return len(self) if self.shard is None else self.shard.size / self.shard.shards

    @property
    def whole_sizes(self) -> list[int]:
        """Number of instances of each bin in the whole data."""
        shard = self.shard
        return self.sizes if shard is None else [shard.sizes[each] for each in shard.whole_bins.tolist()]

    def of(self, indices: Tensor) -> Tensor:
        """The bin of each of the given instances: (B,) int64 for (B,) int64."""
        return self.tags.index_select(0, indices).long()

    def order(self) -> Tensor:
        """Instances, bin after bin, (N,) int64. O(N log N)."""
        return self.tags.argsort(stable=True)


def _tensor(values: Any, name: str) -> Tensor:
    """Numbers in any form; a column of a table by its positions, whatever its index."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.array(values)
        return torch.from_numpy(array if array.dtype.kind in "biuf" else array.astype(np.float64))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be numbers, got a {type(values).__name__} with others ({error}).") from error


def _check(values: Any, name: str) -> Tensor:
    tags = _tensor(values, name)
    if tags.dim() != 1:
        raise ValueError(f"`{name}` must be one-dimensional, one per instance, got the shape {tuple(tags.shape)}.")
    if len(tags) == 0:
        raise ValueError(f"`{name}` is empty: there must be at least one instance.")
    if tags.is_floating_point() or tags.is_complex():
        raise TypeError(
            f"`{name}` must be integers, got {tags.dtype}. For bins along a measure use `Bins.from_quantiles`."
        )
    return tags.to("cpu", torch.int64)
