"""Rows of a batch: whose they are where the `collate_fn` leaves samples out or adds crops, and some of them taken."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.core.draw import Draw
from lightning_as.plugin.forward import describe
from lightning_as.plugin.targets import entry_of
from lightning_as.plugin.wiring import gather_batch
from lightning_as.strategies import BatchSelector, Strategy


class Rows(NamedTuple):
    """Which drawn sample each row of a batch came from."""

    drawn: int
    """Number of samples that were drawn for the batch."""
    owners: Tensor | None = None
    """The position of each row's sample among them, (rows,) int64 on the CPU; None if row i is of sample i."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.drawn if self.owners is None else len(self.owners)

    @property
    def there(self) -> Tensor | None:
        """Whether a drawn sample has a row, (drawn,) bool; None if each has one."""
        if self.owners is None:
            return None
        return torch.zeros(self.drawn, dtype=torch.bool, device="cpu").index_fill_(0, self.owners, True)

    def spread(self, of_samples: Tensor) -> Tensor:
        """What is known of each sample, (drawn,), for each row, (rows,)."""
        return of_samples if self.owners is None else of_samples.index_select(0, self.owners.to(of_samples.device))

    def merge(self, of_rows: Tensor) -> Tensor:
        """The mean over each sample's rows, (drawn,), of numbers (rows,); 0 for a sample without rows."""
        if self.owners is None:
            return of_rows
        owners = self.owners.to(of_rows.device)
        counts, sums = (
            of_rows.new_zeros(self.drawn).index_add_(0, owners, part) for part in (torch.ones_like(of_rows), of_rows)
        )
        return sums / counts.clamp(min=1)

    def last(self, of_rows: Tensor) -> Tensor:
        """Of each sample's rows the last, (drawn,), of numbers, (rows,); NaN for a sample without rows."""
        if self.owners is None:
            return of_rows
        at = torch.full((self.drawn,), -1, dtype=torch.int64, device="cpu")
        at.scatter_reduce_(0, self.owners, torch.arange(len(self.owners), device="cpu"), "amax")
        at = at.to(of_rows.device)
        return of_rows.index_select(0, at.clamp(min=0)).masked_fill(at < 0, torch.nan)


def find_rows(batch: Any, drawn: int, kept: str | int | None) -> Rows:
    """Which sample each row of a batch came from, as far as the batch tells.

    Args:
        batch: The batch, as `training_step` gets it.
        drawn: Number of samples that were drawn for it.
        kept: As in the callback.

    Raises:
        MisconfigurationException: If the batch has other rows than were drawn, and `kept` does not say whose; or if
            what it names is no position of each row's sample.
    """
    if kept is None:
        if (rows := _count_rows(batch, drawn)) != drawn:
            raise MisconfigurationException(
                f"A batch of {drawn} was drawn, but {describe(batch)} came with {rows} rows: the `collate_fn`, or a "
                "hook on batches, leaves samples out or adds some, and whose losses are whose cannot be told. Have it "
                f"add the position of each row's sample in the batch, 0 to {drawn - 1}, such as `torch.tensor([at for "
                "at, sample in enumerate(samples) if sample is not None])`, or `torch.arange(len(samples)).repeat(2)` "
                "for two crops after each other; and name that entry, AdaptiveSamplingCallback(kept=…)."
            )
        return Rows(drawn)
    given = entry_of(batch, kept, "kept", "the position of each row's sample in the batch that was drawn")
    try:
        owners = torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        owners = torch.empty(0, dtype=torch.float32, device="cpu")
    whole = not (owners.is_floating_point() or owners.is_complex() or owners.dtype == torch.bool)
    if owners.dim() != 1 or not whole or not len(owners) or not 0 <= int(owners.min()) <= int(owners.max()) < drawn:
        raise MisconfigurationException(
            f"`kept={kept!r}` must hold the position of each row's sample among the {drawn} drawn ones, integers from "
            f"0 to {drawn - 1}, but holds {given!r}."
        )
    return Rows(drawn, owners.to(torch.int64))


def check_kept(kept: str | int | None, strategy: Strategy) -> None:
    """Raise a `ValueError` if rows are told apart for a strategy that chooses among them."""
    if kept is not None and isinstance(strategy, BatchSelector):
        raise ValueError(
            f"`kept={kept!r}` does not go with {type(strategy).__name__}, which chooses among the rows of a batch and "
            "needs one for each sample: leave it out and have the `collate_fn` give that, or use another strategy."
        )


def gather_kept(
    trainer: Trainer,
    draw: Draw,
    rows: list[Tensor],
    there: Tensor | None,
    device: torch.device,
    alone: bool = False,
) -> tuple[Draw, list[Tensor]]:
    """The part of a draw that was trained on, with what was found of it, of all processes; see :func:`gather_batch`.

    Args:
        trainer: The Trainer.
        draw: The global batch.
        rows: Numbers for each sample of this process's share, (B,) each.
        there: Whether such a sample came through, (B,); None if all do, in all processes.
        device: Where they are wanted.
        alone: Whether the draw is this process's own, and nothing is to be gathered. Default: False.

    Returns:
        Both for the samples that came through.
    """
    if there is None:
        return draw, gather_batch(trainer, rows, device, alone)
    *found, came = gather_batch(trainer, [*rows, there.to(rows[0].device)], device, alone)
    positions = came.nonzero()[:, 0]
    return draw.select(positions), [row.index_select(0, positions) for row in found]


def take_rows(batch: Any, positions: Tensor, size: int) -> Any:
    """The part of a batch of `size` samples at the given positions: of its tensors and lists, however nested."""
    if isinstance(batch, Tensor):
        return batch.index_select(0, positions.to(batch.device)) if _has_rows(batch, size) else batch
    if isinstance(batch, Mapping):
        parts = {key: take_rows(value, positions, size) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return parts
        narrowed = copy.copy(batch)  # of whatever type it is
        narrowed.update(parts)
        return narrowed
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(take_rows(part, positions, size) for part in batch))
    if isinstance(batch, (list, tuple)):
        if len(batch) == size and not all(_has_rows(part, size) for part in batch):  # an entry for each sample
            return type(batch)(batch[at] for at in positions.tolist())
        return type(batch)(take_rows(part, positions, size) for part in batch)
    return batch


def _count_rows(batch: Any, drawn: int) -> int:
    """Number of rows: as many as were drawn if anything in the batch has those, else as the first thing with rows."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else drawn
    if not isinstance(batch, (Mapping, list, tuple)) or len(batch) == drawn:
        return drawn  # of an object nobody knows; a list may be one of samples
    first = None
    for part in batch.values() if isinstance(batch, Mapping) else batch:
        inside = part.values() if isinstance(part, Mapping) else part[:9] if isinstance(part, (list, tuple)) else ()
        for sizes in map(_sizes, (part, *inside)):
            if drawn in sizes:
                return drawn
            first = sizes[0] if first is None and sizes else first
    return drawn if first is None else first


def _sizes(part: Any) -> tuple[int, ...]:
    """How many rows a part of a batch may have: as its first dimension says, or the second of (time, batch, ...)."""
    if isinstance(part, Tensor):
        return tuple(part.shape[:1] if part.dim() == 2 and part.is_floating_point() else part.shape[:2])
    return (len(part),) if isinstance(part, (list, tuple)) else ()


def _has_rows(part: Any, size: int) -> bool:
    """Whether a part of a batch has something for each of so many samples."""
    if isinstance(part, Mapping):
        return any(_has_rows(value, size) for value in part.values())
    return len(part) == size if isinstance(part, (list, tuple)) or (isinstance(part, Tensor) and part.dim()) else False
