"""How long the cells that are left will take, from those that are done."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from thesis.grid import Cell


def left(cells: Sequence[Cell], known: Sequence[tuple[Cell, float]]) -> float | None:
    """Seconds that one epoch of each of the cells takes together.

    Each is taken to last as long as the median of the known ones with its batch size and arm; if there are none, of
    those with its batch size; if there are none either, of all.

    Args:
        cells: What is left.
        known: Cells with the seconds that an epoch took.

    Returns:
        None if nothing is known.
    """
    if not known:
        return None
    total = 0.0
    for cell in cells:
        of_size = [(other, seconds) for other, seconds in known if other.batch_size == cell.batch_size]
        of_arm = [(other, seconds) for other, seconds in of_size if other.arm == cell.arm]
        total += statistics.median(seconds for _, seconds in of_arm or of_size or known)
    return total


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
