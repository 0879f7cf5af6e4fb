"""What was learnt of the shards of some processes, cut anew for those that are there now."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.shards import span
from lightning_as.core.state import check_layout, check_sums, checksums, require
from lightning_as.data.sampler_state import generator_state
from lightning_as.data.shard_files import get, put, tables_of
from lightning_as.data.sharded_sampler import ShardedBatchSampler, own_seed


def recut(sampler: ShardedBatchSampler, count: int, read: Callable[[int, bool], dict[str, Any]]) -> dict[str, Any]:
    """The state of this process's shard, of the states of the shards of other processes.

    The tables of instances are put together, and all that is of no instance is the first process's. A pass of draws
    that was under way is dropped, with the draws that were not trained on.

    Args:
        sampler: This process's sampler, with the strategy attached.
        count: Number of the other processes.
        read: Gives the state of the sampler of one of them, whole or without its tables.

    Returns:
        A state for the sampler to load, but for its ``tags``, which are the data's.

    Raises:
        ValueError: If one cannot be read, is damaged, or of another part of the data than its number says.
    """
    own = sampler.own_bins.shard
    assert own is not None
    end = own.start + len(sampler.own_bins)
    parts = []
    for rank in range(count):
        first, last = span(own.size, rank, count)
        if first < end and own.start < last:
            tables = _portable(sampler, rank, count, read(rank, True))
            rows = slice(max(own.start, first) - first, min(end, last) - first)
            parts.append({path: table[rows] for path, table in tables.items()})
    state = read(0, False)
    for path in parts[0]:
        put(state, path, torch.cat([part[path] for part in parts]))
    state["strategy_state"] = sampler.strategy.fresh().recut(state["strategy_state"])
    if sampler.rank == 0:  # counts of all, which are not to be counted twice
        state["skipped"] = sum(read(rank, False)["skipped"] for rank in range(count))
    else:
        state["skipped"] = 0
    common = torch.Generator().set_state(generator_state(state["generator"]))
    generator = torch.Generator().manual_seed(own_seed(common, sampler.rank, sampler.num_replicas))
    state["progress"]["batch"] -= len(state["pending"])
    state |= {"generator": generator.get_state(), "pending": [], "shard": sampler.facts()}
    saved = {key: part for key, part in state.items() if key != "checksums"} | {"tags": sampler.bins.tags}
    return saved | {"checksums": checksums(saved)}


def _portable(sampler: ShardedBatchSampler, rank: int, count: int, state: dict[str, Any]) -> dict[str, Tensor]:
    """The tables of another shard, by their paths, with a row for each instance in the order of the shard."""
    saved = {key: part for key, part in state.items() if key != "checksums"} | {"tags": sampler.bins.tags}
    check_sums(saved, state.get("checksums"))
    other = ShardedBatchSampler(sampler.bins, 1, num_replicas=count, rank=rank)
    require(state["shard"] == other.facts(), f"`shard` is {state['shard']}, not {other.facts()}")
    strategy = copy(sampler.strategy)
    strategy.start(other.own_bins)
    check_layout(state["strategy_state"], strategy.state_dict(), "strategy_state")
    state["strategy_state"] = strategy.portable(state["strategy_state"])
    found = {path: get(state, path) for path in tables_of(strategy)}
    return {path: table for path, table in found.items() if table is not None}
