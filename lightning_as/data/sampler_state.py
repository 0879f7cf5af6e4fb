"""What a sampler's saved state must be before any of it is taken over."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import check_layout, check_sums, damaged, require, require_indices
from lightning_as.strategies import Strategy

FORMAT = 8
"""Layout of the state that is saved. 1, of the versions before the packages, had no number, 2 no checksums, 3 no
points, 4 no record, 5 no chunks, 6 doubts in eight bytes, 7 leaves of float64 and bins of int32."""


def check_saved(state: Any, like: dict[str, Any]) -> None:
    """Raise a `ValueError` unless a state is of this layout, and is what was saved; of its parts, as they are of use.

    Args:
        state: The state.
        like: One without checksums, before anything was drawn.
    """
    require(isinstance(state, dict), f"it is a {type(state).__name__}, not a dict")
    check_format(state.get("format", 1))
    saved = {key: part for key, part in state.items() if key != "checksums"}
    check_sums(saved, state.get("checksums"))
    later = {"tags", "chunks", "strategy", "strategy_state", "record"}
    own, its = ({key: part for key, part in parts.items() if key not in later} for parts in (like, saved))
    check_layout(its | dict.fromkeys(later & saved.keys()), own | dict.fromkeys(later), "sampler")


def check_format(layout: Any) -> None:
    """Raise a `ValueError` unless a state is of the present layout."""
    require(type(layout) is int, f"`format` is {layout!r}")
    if layout != FORMAT:
        age, instead = ("an older", "that older") if layout < FORMAT else ("a newer", "the newer")
        raise ValueError(
            f"The state to load is of {age} layout of lightning_as ({layout}, this version has {FORMAT}): resume "
            f"with {instead} version, or start a new training, if you like from the checkpoint's weights by "
            "`load_from_checkpoint`."
        )


def load_into(strategy: Strategy, state: dict[str, Any]) -> None:
    """Have a strategy, which is of no use any more where this fails, go on from a sampler's state.

    Raises:
        ValueError: If it cannot.
    """
    try:
        strategy.load_state_dict(state["strategy_state"])
    except ValueError:
        raise
    except Exception as error:  # a user's own strategy may have left to Python what it needs
        raise damaged(f"{type(strategy).__name__} cannot load it ({type(error).__name__}: {error})") from error
    strategy.progress.load_state_dict(state["progress"])
    strategy.skipped = state["skipped"]
    require(isinstance(state["record"], dict), "`record` is no record")
    if strategy.record is not None and state["record"]:  # which was kept there as well
        check_layout(state["record"], strategy.record.state_dict(), "record")
        strategy.record.load_state_dict(state["record"])


def generator_state(state: Tensor) -> Tensor:
    """The state of a generator, as one takes it, which this tries.

    Raises:
        ValueError: If it takes none.
    """
    try:
        torch.Generator().set_state(state.cpu())
    except (RuntimeError, TypeError) as error:
        raise damaged(f"`generator` is no state of a generator ({error})") from error
    return state.cpu()


def check_bins(tags: Tensor, bins: Bins) -> None:
    """Raise a `ValueError` unless a state's partition, (N,), is that of the data."""
    fits = isinstance(tags, Tensor) and tags.dtype in (torch.int16, torch.int32) and tags.dim() == 1 and len(tags)
    require(bool(fits), "`tags` is not a bin for each instance")
    if torch.equal(tags, bins.tags):
        return
    saved, here = (f"{len(part)} instances in {int(part.max()) + 1} bins" for part in (tags, bins.tags))
    if len(tags) == len(bins):
        moved = (tags != bins.tags).nonzero()[:, 0]
        here += f", of which {len(moved)} are in another bin, the first at position {int(moved[0])}"
    raise ValueError(
        f"The state to load is of other bins: it is of {saved}, but here are {here}. Use the data, in its order, and "
        "the `bins` it was saved with; or start a new training, if you like from the checkpoint's weights by "
        "`load_from_checkpoint`."
    )


def check_use(state: dict[str, Any], strategy: Strategy, batch_size: int) -> None:
    """Raise a `ValueError` if a state is of another strategy, or amid an epoch of another (global) batch size."""
    check_strategy(state["strategy"], strategy)
    # At the border of an epoch nothing depends on the batch size.
    if state["position"] and state["batch_size"] != batch_size:
        raise ValueError(
            f"The state to load is of the middle of an epoch with `batch_size` {state['batch_size']}, "
            f"but here it is {batch_size}: use {state['batch_size']}."
        )


def check_strategy(saved: Any, strategy: Strategy) -> None:
    """Raise a `ValueError` if a state is of another strategy, whose name it has."""
    name = type(strategy).__name__
    if saved != name:
        raise ValueError(
            f"The state to load is of the strategy {saved}, but here it is {name}: give "
            f"AdaptiveSamplingCallback the strategy it was saved with, {saved}(…), or start a new "
            "training, if you like from the checkpoint's weights by `load_from_checkpoint`."
        )


def chunk_sizes(bins: Bins) -> Tensor:
    """The instances of each chunk that the data lie in, (chunks,) int64; empty if they lie in none."""
    return torch.empty(0, dtype=torch.int64, device="cpu") if bins.chunks is None else bins.chunks.counts()


def check_chunks(sizes: Any, bins: Bins) -> None:
    """Raise a `ValueError` unless a state's chunks, (chunks,) int64, are those of the data."""
    own = chunk_sizes(bins)
    fits = isinstance(sizes, Tensor) and sizes.dtype == own.dtype and sizes.dim() == 1
    require(fits, "`chunks` is not a size for each chunk")
    if not torch.equal(sizes, own):
        saved, here = (f"{len(part)} chunks of {int(part.sum())} instances" for part in (sizes, own))
        raise ValueError(
            f"The state to load is of {saved}, but here are {here}, or others of that number: use the chunks, in their "
            "order, that it was saved with, and `open_chunks=None` if it was of none; or start a new training, if you "
            "like from the checkpoint's weights by `load_from_checkpoint`."
        )


def pending_draws(pending: list[Any], bins: Bins) -> deque[Draw]:
    """The draws of a state that have not been trained on.

    Raises:
        ValueError: If one is none, or of other instances than there are.
    """
    return deque(_draw(fields, bins, f"pending.{at}") for at, fields in enumerate(pending))


def _draw(fields: Any, bins: Bins, path: str) -> Draw:
    require(isinstance(fields, dict) and fields.keys() == set(Draw._fields), f"`{path}` is no draw")
    for name in Draw._fields:
        part: Any = fields[name]
        if part is None and name in ("within", "weights"):
            continue
        kind = torch.int64 if name in ("indices", "bins") else torch.float64
        require(isinstance(part, Tensor) and part.dtype == kind and part.dim() == 1, f"`{path}.{name}` is not {kind}")
        assert isinstance(part, Tensor)
        require(len(part) == len(fields["indices"]), f"`{path}.{name}` is not one for each instance")
        usable = kind == torch.int64 or (part.isfinite().all() and (part > 0).all())
        require(usable, f"`{path}.{name}` has entries that are not positive")
    draw = Draw(**fields)
    require_indices(f"{path}.indices", draw.indices, len(bins))
    require(torch.equal(bins.of(draw.indices), draw.bins), f"`{path}.bins` are not those of its instances")
    return draw
