"""The states of shards in files, one folder for each process, by `torch.distributed.checkpoint`.

Nobody waits for another process, neither to write nor to read: a checkpoint may be saved after an error in one of them.
A shard's folder is whole if it has its ``.metadata``, which is written last.
"""

from __future__ import annotations

import inspect
import io
import warnings
from copy import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.record import Record
from lightning_as.strategies import Strategy

_REST = "rest"  # the name of all that is no table of instances, as bytes that `torch.save` makes


def write_shard(folder: Path, rank: int, state: dict[str, Any], tables: set[str]) -> None:
    """Write the state of a process, unless that is there already: what a folder's name says must be all it depends on.

    Args:
        folder: That of all processes.
        rank: The number of this one.
        state: Nested dicts and lists of tensors, numbers and strings.
        tables: The paths of tensors in it that have a row for each instance.

    Raises:
        OSError: If it cannot be written.
    """
    own = folder / str(rank)
    if is_whole(own):
        return
    found: dict[str, Tensor] = {}
    rest, buffer = _taken_out(state, tables, found), io.BytesIO()
    torch.save(rest, buffer)
    found[_REST] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    try:
        _write(own, found)
    except dcp.CheckpointException as error:  # which is no `Exception`
        raise OSError(f"What was learnt cannot be written to {own} ({_said(error)}).") from error


def read_shard(folder: Path, rank: int, tables: bool = True) -> dict[str, Any]:
    """The state that :func:`write_shard` wrote of a process; without its `tables` if these are not wanted.

    Raises:
        ValueError: If it is not there, not whole or not readable.
    """
    own = folder / str(rank)
    if not is_whole(own):
        what = "is not whole" if own.is_dir() else "is not there"
        raise ValueError(
            f"What was learnt is kept beside the checkpoint, but {own} {what}: copy the folder {folder.name} from "
            "where it was saved, or have all processes see it; or start a new training, if you like from the "
            "checkpoint's weights by `load_from_checkpoint`."
        )
    try:
        return _read(own, tables)
    except (Exception, dcp.CheckpointException) as error:  # whatever a cut file makes of it
        raise ValueError(
            f"What was learnt is kept beside the checkpoint, but {own} cannot be read ({_said(error)}): copy it again, "
            "or load another checkpoint."
        ) from error


def is_whole(folder: Path) -> bool:
    """Whether the folder of a process has been written to its end."""
    return (folder / ".metadata").is_file()


def _write(own: Path, tensors: dict[str, Tensor]) -> None:
    writer = dcp.FileSystemWriter(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no other processes, which is meant
        if "no_dist" in inspect.signature(dcp.save).parameters:
            dcp.save(tensors, storage_writer=writer, no_dist=True)
        else:  # as of torch 2.4
            dcp.save_state_dict(tensors, writer, no_dist=True)


def _said(error: BaseException) -> str:
    """What happened, without the trace of it that a `CheckpointException` has in its message."""
    first = next(iter(error.failures.values()))[0] if isinstance(error, dcp.CheckpointException) else error
    return f"{type(first).__name__}: {first}"


def _read(own: Path, tables: bool) -> dict[str, Any]:
    reader = dcp.FileSystemReader(own)
    found = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        if (tables or name == _REST) and isinstance(entry, dcp.TensorStorageMetadata):
            found[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "no_dist" in inspect.signature(dcp.load).parameters:
            dcp.load(found, storage_reader=reader, no_dist=True)
        else:
            dcp.load_state_dict(found, reader, no_dist=True)
    state = torch.load(io.BytesIO(found.pop(_REST).numpy().tobytes()), weights_only=True)
    for path, table in found.items():
        put(state, path, table)
    return state


def tables_of(strategy: Strategy) -> set[str]:
    """The paths of tensors with a row for each instance, in a sampler's state: they grow as the data do."""
    count = len(strategy.bins.sizes)
    few, more = (_sizes(strategy, Bins([*range(count), *[0] * extra])) for extra in (3, 4))
    return {path for path in few if (few[path], more[path]) == (count + 3, count + 4)}


def _sizes(strategy: Strategy, bins: Bins) -> dict[str, int]:
    """The length of each tensor in the state of a strategy that begins on these bins."""
    copied = copy(strategy)
    copied.start(bins)
    record = Record(len(bins), bins.device).state_dict()
    found: dict[str, Tensor] = {}
    _taken_out({"strategy_state": copied.state_dict(), "record": record}, None, found)
    return {path: len(tensor) for path, tensor in found.items() if tensor.dim()}


def _taken_out(state: Any, paths: set[str] | None, found: dict[str, Tensor], path: str = "") -> Any:
    """A state without the tensors at these paths, or any, which are put into `found`."""
    if isinstance(state, dict):
        inside = {key: (f"{path}.{key}" if path else key) for key in state}
        parts = {key: _taken_out(part, paths, found, inside[key]) for key, part in state.items()}
        return {key: part for key, part in parts.items() if inside[key] not in found}
    if isinstance(state, Tensor) and (paths is None or path in paths):
        found[path] = state
    return state


def get(state: dict[str, Any], path: str) -> Any:
    """The part of a state at a path, such as ``record.counts``; None if there is none."""
    for key in path.split("."):
        state = state.get(key) if isinstance(state, dict) else None  # pyright: ignore[reportAssignmentType]
    return state


def put(state: dict[str, Any], path: str, part: Any) -> None:
    """Put a part of a state to its path."""
    *outer, last = path.split(".")
    for key in outer:
        state = state.setdefault(key, {})
    state[last] = part
