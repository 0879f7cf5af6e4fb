"""What is different in a fit where each process has a shard of its own: what is saved, brought back and logged."""

from __future__ import annotations

import uuid
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_as.data.recut import recut
from lightning_as.data.sampler_state import FORMAT, check_format, check_strategy
from lightning_as.data.shard_files import read_shard, tables_of, write_shard
from lightning_as.data.sharded_sampler import ShardedBatchSampler
from lightning_as.plugin.wiring import Sampler
from lightning_as.strategies import Strategy

FOLDER = "adaptive_sampling"
"""In a Trainer's `default_root_dir`: what was learnt of shards, a folder in it for each checkpoint."""
SUMMED = frozenset({"skipped", "effective_size"})
"""Figures that are counts; others are means over the processes, but for the largest weight."""


def prepare(trainer: Trainer, sampler: Sampler) -> None:
    """Agree where the shards of a fit are to be saved.

    Raises:
        MisconfigurationException: If that is no folder of a file system.
    """
    if not isinstance(sampler, ShardedBatchSampler):
        return
    root = str(trainer.default_root_dir)
    if "://" in root:
        raise MisconfigurationException(
            f"With `sharded=True` what was learnt is saved to the Trainer's `default_root_dir`, but {root!r} is no "
            "folder of a file system: give one that all processes see, and ModelCheckpoint the other as `dirpath`."
        )
    here = str(Path(root).absolute() / FOLDER / uuid.uuid4().hex[:12])
    sampler.saves_to = trainer.strategy.broadcast(here)


def saved(sampler: Sampler, strategy: Strategy, figures: dict[str, Any]) -> dict[str, Any]:
    """What the callback's state is: of a shard what tells where it is, in a folder of all processes.

    No process waits for another one. The folder's name has the moment, so that what all save at one is together.
    """
    state = sampler.state_dict(strategy)
    if not isinstance(sampler, ShardedBatchSampler):
        return {"sampler": state, **figures}
    folder = Path(f"{sampler.saves_to}-{sampler.moment(strategy)}")
    write_shard(
        folder, sampler.rank, {key: state[key] for key in state if key != "tags"} | figures, tables_of(strategy)
    )
    told = {"folder": str(folder), "count": sampler.num_replicas, "size": len(sampler.bins), "tags": _tags(sampler)}
    return {"sampler": {"format": FORMAT, "data": sampler.data, "strategy": type(strategy).__name__, "shards": told}}


def brought_back(
    trainer: Trainer, sampler: Sampler, strategy: Strategy, state: dict[str, Any], other_data: str
) -> dict[str, Any]:
    """The state of this process that a callback's state stands for; in all processes, or in none.

    Raises:
        ValueError: If it cannot be read, or is of something else.
    """
    here, there = isinstance(sampler, ShardedBatchSampler), "shards" in state["sampler"]
    if not here and not there:
        return state
    failure, found = None, state
    try:
        if not isinstance(sampler, ShardedBatchSampler) or not there:
            raise ValueError(
                f"The state to load is of a loader with `sharded={there}`, but here it is `sharded={here}`: use "
                f"`sharded={there}`, or start a new training, if you like from the checkpoint's weights by "
                "`load_from_checkpoint`."
            )
        found = _found(trainer, sampler, strategy, state["sampler"], other_data)
    except ValueError as error:
        failure = error
    if trainer.world_size > 1:  # or else the others would wait for this one
        all_can = trainer.strategy.reduce_boolean_decision(failure is None, all=True)
        if failure is None and not all_can:
            raise ValueError("What was learnt cannot be brought back in another process, whose error says why.")
    if failure is not None:
        raise failure
    return found


def _found(
    trainer: Trainer, sampler: ShardedBatchSampler, strategy: Strategy, state: dict[str, Any], other_data: str
) -> dict[str, Any]:
    check_format(state["format"])
    shards = state["shards"]
    if (shards["size"], shards["tags"]) != (len(sampler.bins), _tags(sampler)):
        raise ValueError(
            f"The state to load is of {shards['size']} instances in other bins than the {len(sampler.bins)} here: use "
            "the data, in its order, and the `bins` it was saved with; or start a new training, if you like from the "
            "checkpoint's weights by `load_from_checkpoint`."
        )
    check_strategy(state["strategy"], strategy)
    if other_data == "reset" and 0 not in (sampler.data, state["data"]) and sampler.data != state["data"]:
        return {"sampler": {"tags": sampler.bins.tags, "data": state["data"]}}  # it will be forgotten
    sampler.attach(strategy)
    folder = Path(shards["folder"])
    if not folder.is_dir():  # it may have been moved
        folder = Path(trainer.default_root_dir) / FOLDER / folder.name
        folder = folder if folder.is_dir() else Path(shards["folder"])
    if shards["count"] == sampler.num_replicas:
        found = read_shard(folder, sampler.rank)
        figures = {"figures": found.pop("figures")} if "figures" in found else {}
        return {"sampler": found | {"tags": sampler.bins.tags}, **figures}
    rank_zero_warn(
        f"The state to load is of {shards['count']} process(es), and here are {sampler.num_replicas}: what was learnt "
        "is cut anew, and a new pass of draws begins."
    )
    return {"sampler": recut(sampler, shards["count"], partial(_without_figures, folder))}


def _without_figures(folder: Path, rank: int, tables: bool) -> dict[str, Any]:
    state = read_shard(folder, rank, tables)
    state.pop("figures", None)
    return state


def in_all(trainer: Trainer, sums: Tensor, figures: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
    """What is logged, of all processes, which must do this at the same step; one collective.

    Args:
        trainer: The Trainer.
        sums: To be summed, (n,) float64.
        figures: Numbers of the same names in all processes.

    Returns:
        Both for all processes.
    """
    if trainer.world_size == 1:
        return sums, figures
    numbers = torch.tensor(list(figures.values()), dtype=torch.float64, device="cpu")
    packed = torch.cat([sums.cpu(), numbers]).to(trainer.strategy.root_device)
    everyones = trainer.strategy.all_gather(packed)
    assert isinstance(everyones, Tensor)
    total, *columns = everyones[:, : len(sums)].sum(0).to(sums.device), *everyones[:, len(sums) :].unbind(1)
    of_all = {}
    for name, column in zip(figures, columns, strict=True):
        joined = column.sum() if name in SUMMED else column.max() if name == "weight_max" else column.mean()
        of_all[name] = float(joined)
    return total, of_all


def _tags(sampler: Sampler) -> int:
    return zlib.crc32(sampler.bins.tags.numpy().tobytes())
