"""Numbers as text is to show them, and tables of them in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thesis.comparison import Estimate, Ratio


def as_text(value: float | None, digits: int = 2) -> str:
    """A number as text is to show it: 0.83, 120, 3.8e-5.

    Args:
        value: None is a dash.
        digits: Significant ones.
    """
    if value is None:
        return "–"
    if not np.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        header: Names of the columns.
        rows: As many texts each.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(found: Estimate | Ratio, digits: int = 2) -> str:
    """A value and its interval, or why there is none."""
    if found.value is None:
        return f"undefined: {found.note}" if isinstance(found, Ratio) and found.runs else "not run"
    if found.low is None:
        return f"{as_text(found.value, digits)} (one run)"
    return f"{as_text(found.value, digits)} [{as_text(found.low, digits)}, {as_text(found.high, digits)}]"
