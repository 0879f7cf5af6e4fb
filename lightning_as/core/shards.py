"""Shards: the data cut among processes, each of which knows and draws from a part of its own.

There is one order of the N instances, which follows from the bins alone. The n_j instances of each bin are shuffled,
the m-th of them, from 0, gets the key (m + u_j) / n_j with one uniform u_j of the bin, and all are sorted by their
keys. Process r of R has the instances from ⌊rN/R⌋ to ⌊(r+1)N/R⌋ of it.

A part of the order, the share L of it, is a stratified random sample: of each bin it has n_j L random instances, give
or take 1 + k n_j / N, with k bins. For the keys of a bin lie in equal distances, so that between two keys x < y there
are n_j (y − x) of it, give or take less than one; and y − x is L, give or take less than k/N. The errors of the k bins
are independent, so that mostly it is rather √k than k.

The order knows nothing of R, so that what is known of the parts of some processes can be put together for others.

Source: Stratified systematic sampling, as in Cochran, "Sampling Techniques" (1977), chapter 8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import all_reduce, get_backend, is_available, is_initialized

# One for all trainings: another one would only make what was learnt of no use after a resume.
_SEED = 0
_AT_ONCE = 2**20  # instances that are looked at, so that no table of all is made but their permutation


class Shard(NamedTuple):
    """The part of the data that one process has."""

    positions: Tensor
    """Where its instances are in the data set, (n,) integers, in the order."""
    start: int
    """Where in the order of all it begins."""
    size: int
    """Number of instances of the whole data, N."""
    shards: int
    """Number of shards, R."""
    whole_bins: Tensor
    """Of each of its bins the number in the whole data, which may have others, (k,) int64."""
    sizes: list[int]
    """Number of instances of each bin of the whole data, k numbers."""


def span(size: int, rank: int, count: int) -> tuple[int, int]:
    """Where in the order the part of a process begins and ends."""
    return rank * size // count, (rank + 1) * size // count


def cut(tags: Tensor, sizes: list[int], rank: int, count: int) -> tuple[Shard, Tensor]:
    """The shard of a process. O(N), with 4 bytes for each of the N instances for a while.

    Args:
        tags: The bin of each instance, (N,) integers, on the CPU.
        sizes: Number of instances in each bin.
        rank: Number of the process.
        count: Number of processes.

    Returns:
        The shard, and the bin of each of its instances, (n,) int64, numbered without the bins that it has nothing of.
    """
    start, end = span(len(tags), rank, count)
    first, last = (among_first(sizes, at) for at in (start, end))
    offsets, of_bins = _keys(sizes)
    positions, bins, numbers = _members(tags, first, last)
    keys = (numbers + offsets[bins]) / of_bins[bins]
    order = bins.argsort(stable=True)  # of equal keys that of the lower bin comes first
    order = order[keys[order].argsort(stable=True)]
    whole_bins, own = torch.unique(bins[order], return_inverse=True)
    return Shard(positions[order], start, len(tags), count, whole_bins, sizes), own


def over_processes(numbers: Tensor) -> Tensor:
    """The sum over all processes of what each gives, which all must do; where there is one, what it gives."""
    if not (is_available() and is_initialized()):
        return numbers
    moved = numbers.to("cpu" if "gloo" in get_backend() else "cuda", copy=True)
    all_reduce(moved)
    return moved.to(numbers.device)


def among_first(sizes: list[int], at: int) -> Tensor:
    """How many of each bin are among the first `at` instances of the order, (k,) int64."""
    if at in (0, sum(sizes)):
        return torch.tensor(sizes, dtype=torch.int64, device="cpu") * (at > 0)
    low, high = 0.0, 2.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if int(_below(sizes, middle).sum()) <= at else (low, middle)
    counts = _below(sizes, low)
    tied = _below(sizes, high) > counts  # whose next key is `low`, of which the lower bins come first
    return counts + (tied & (tied.cumsum(0) <= at - counts.sum()))


def _below(sizes: list[int], key: float) -> Tensor:
    """How many instances of each bin have a smaller key, as it is rounded, (k,) int64."""
    offsets, of_bins = _keys(sizes)
    counts = (key * of_bins - offsets).ceil_().clamp_(min=0).minimum(of_bins)
    counts -= ((counts > 0) & ((counts - 1 + offsets) / of_bins >= key)).double()
    counts += ((counts < of_bins) & ((counts + offsets) / of_bins < key)).double()
    return counts.long()


def _keys(sizes: list[int]) -> tuple[Tensor, Tensor]:
    """The u and the n of the keys (m + u) / n, (k,) float64 both."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    offsets = torch.rand(len(sizes), dtype=torch.float64, generator=generator, device="cpu")
    return offsets, torch.tensor(sizes, dtype=torch.float64, device="cpu")


def _members(tags: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The instances whose number m in their shuffled bin is from `first` to below `last`, (k,) both.

    Returns:
        Where they are, their bins and their m, (n,) each, in no order of importance.
    """
    kind = torch.int32 if len(tags) < 2**31 else torch.int64
    generator = torch.Generator("cpu").manual_seed(_SEED + 1)
    shuffled = torch.randperm(len(tags), dtype=kind, generator=generator, device="cpu")
    seen = torch.zeros_like(first)
    parts = []
    for part in shuffled.split(_AT_ONCE):
        bins = tags.index_select(0, part).long()
        counts = torch.bincount(bins, minlength=len(first))
        order = bins.argsort(stable=True)
        numbers = torch.empty_like(bins)
        before = (counts.cumsum(0) - counts).index_select(0, bins[order])
        numbers[order] = torch.arange(len(bins), device="cpu") - before
        numbers += seen.index_select(0, bins)
        seen += counts
        own = (numbers >= first[bins]) & (numbers < last[bins])
        parts.append((part[own], bins[own], numbers[own]))
    positions, bins, numbers = (torch.cat(each) for each in zip(*parts, strict=True))
    return positions, bins, numbers
