"""The targets of a batch, in whatever form the batch comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

TARGET_NAMES = ("targets", "target", "labels", "label", "y")
"""Keys under which a batch that is a mapping may have its targets."""


def targets_of(batch: Any, key: str | int | None) -> Any:
    """The targets of a batch: what `key` says, or the second of a pair, or what a mapping has under a usual name.

    Raises:
        MisconfigurationException: If that is not there, or not clear.
    """
    mend = "name it with `AdaptiveSamplingCallback(target_key=…)`."
    if key is not None:
        try:
            return batch[key]
        except (KeyError, IndexError, TypeError) as error:
            raise MisconfigurationException(
                f"`target_key={key!r}` is not in the batch, {describe(batch)}: name what holds the targets."
            ) from error
    if isinstance(batch, Mapping):
        found = [name for name in TARGET_NAMES if name in batch]
        if len(found) == 1:
            return batch[found[0]]
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[1]
    raise MisconfigurationException(f"Which part of the batch, {describe(batch)}, has the targets? Please {mend}")


def describe(batch: Any) -> str:
    """A batch in a few words, for messages."""
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
