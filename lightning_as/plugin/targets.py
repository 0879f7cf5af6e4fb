"""Where a batch has its targets, and other entries that an argument of the callback names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.plugin.forward import TARGET_NAMES, describe


def targets_of(batch: Any, key: str | int | None) -> Any:
    """The targets of a batch: what `key` says, the second of a pair, or what a mapping or object has by a usual name.

    Raises:
        MisconfigurationException: If that is not there, or not clear.
    """
    if key is not None:
        return entry_of(batch, key, "target_key", "the targets")
    if isinstance(batch, Mapping):
        found = [name for name in TARGET_NAMES if name in batch]
        if len(found) == 1:
            return batch[found[0]]
    elif isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[1]
    else:
        found = [name for name in TARGET_NAMES if getattr(batch, name, None) is not None]
        if len(found) == 1:
            return getattr(batch, found[0])
    raise MisconfigurationException(
        f"Which part of the batch, {describe(batch)}, has the targets? Please name it with "
        "`AdaptiveSamplingCallback(target_key=…)`; or, where several parts are targets, give a function of the batch "
        "to the loss of each sample, `per_sample_loss=lambda batch: …`; or, where there are none, give the losses "
        "themselves in `training_step`: return them as `losses`, or call `hand_over(self, losses=…)`."
    )


def class_indices(targets: Any, size: int) -> Tensor | None:
    """The targets of a batch of `size` as (B,) integers, if they are one for each sample; else None."""
    if not isinstance(targets, Tensor) or targets.dim() == 0 or not len(targets) == targets.numel() == size:
        return None
    return None if targets.is_floating_point() or targets.is_complex() else targets.flatten()


def entry_of(batch: Any, key: str | int, argument: str, what: str) -> Any:
    """The entry of a batch that an argument of the callback names: an item, or an attribute of an object.

    Raises:
        MisconfigurationException: If it is not there.
    """
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        if isinstance(key, str) and not isinstance(batch, Mapping) and hasattr(batch, key):
            return getattr(batch, key)
        raise MisconfigurationException(
            f"`{argument}={key!r}` is not in the batch, {describe(batch)}: name what holds {what}."
        ) from error
