"""Comparisons of a few runs: medians, ratios of costs, test accuracies, each with how sure one can be of it; as text.

Intervals are of 95 %. Those of medians are percentile bootstrap intervals over the runs. Of two to five runs such an
interval is simply the smallest and the largest of them, which holds the true median with a chance of only 50, 75, 88
and 94 %; of one run there is none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammaln

LEVEL = 0.95
MARGIN = 0.1
"""Test accuracies that differ by less, in percentage points, count as the same."""
RULE = (
    "A ratio *holds* if it points the same way as the thesis's (below or above 1) and is within a factor of ten of it, "
    "is *weaker* if it points the same way by more than a factor of ten less, *stronger* if by more than a factor of "
    "ten more, and *does not hold* if it points the other way. It is *open* if there are fewer than two runs, if it is "
    "undefined, or if its interval contains 1, unless it points the same way and the whole interval lies around the "
    "thesis's value and within a factor of ten of it: then it *holds*."
)
"""What :func:`verdict` does, for the reader of a table."""


class Estimate(NamedTuple):
    """A median over runs."""

    value: float | None
    """None of no runs."""
    low: float | None
    """Lower end of the interval; None of fewer than two runs."""
    high: float | None
    runs: int


class Ratio(NamedTuple):
    """A median of costs over a median of costs, or the median of the runs' ratios."""

    value: float | None
    """None if it is undefined."""
    low: float | None
    high: float | None
    runs: int
    """Pairs of runs of the same seed; unpaired, the runs of the arm that has fewer."""
    paired: bool
    note: str
    """Why the ratio is undefined, or an empty text."""


class AccuracyComparison(NamedTuple):
    """Accuracies of two arms over seeds, in percentage points; None where too few runs, or equal ones, give none."""

    difference: float | None
    """Mean of the first less mean of the second."""
    low: float | None
    high: float | None
    welch_p: float | None
    """Welch's t test: of no difference."""
    equivalence_p: float | None
    """Two one-sided Welch tests: of a difference of at least the margin, either way. The larger p of the two."""
    hedges_g: float | None
    """Difference over the pooled standard deviation, corrected for small samples."""
    g_low: float | None
    g_high: float | None
    runs: int
    """Of the first arm."""
    other_runs: int


def median(values: Sequence[float]) -> Estimate:
    """Median and its bootstrap interval.

    Args:
        values: One per run. One that is no number counts as infinite: what has diverged is worse than all else.
    """
    if len(values) == 0:
        return Estimate(None, None, None, 0)
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    low, high = _interval((numbers,), np.median)
    return Estimate(float(np.median(numbers)), low, high, len(values))


def ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Ratio:
    """Costs of one arm over those of another, paired by seed where there are seeds that both have.

    Args:
        numerator: Costs by seed.
        denominator: Costs by seed. A cost of exactly 0 leaves the ratio undefined.
    """
    seeds = sorted(numerator.keys() & denominator.keys())
    above = np.array([numerator[s] for s in seeds or numerator], dtype=np.float64)
    below = np.array([denominator[s] for s in seeds or denominator], dtype=np.float64)
    runs, paired = min(len(above), len(below)), bool(seeds)
    note = ""
    if runs == 0:
        note = "no runs"
    elif not (np.isfinite(above).all() and np.isfinite(below).all()):
        note = "a cost is not finite"
    elif (below == 0).any():
        note = f"the divisor is exactly 0 in {int((below == 0).sum())} of {len(below)} runs"
    if note:
        return Ratio(None, None, None, runs, paired, note)
    if paired:
        value, low, high, _ = median((above / below).tolist())
        return Ratio(value, low, high, runs, True, "")
    low, high = _interval((above, below), lambda a, b, axis=-1: np.median(a, axis) / np.median(b, axis))
    return Ratio(float(np.median(above) / np.median(below)), low, high, runs, False, "")


def verdict(ours: Ratio, printed: float) -> str:
    """``holds``, ``stronger``, ``weaker``, ``does not hold`` or ``open``, by :data:`RULE`."""
    if ours.value is None or ours.low is None or ours.high is None:
        return "open"
    same_way = (ours.value < 1) == (printed < 1)
    if ours.low <= 1 <= ours.high:
        near = ours.low >= printed / 10 and ours.high <= printed * 10
        return "holds" if same_way and near and ours.low <= printed <= ours.high else "open"
    if not same_way:
        return "does not hold"
    beyond = _orders(ours.value) - _orders(printed)
    return "holds" if abs(beyond) <= 1 else "weaker" if beyond < 0 else "stronger"


def compare_accuracies(first: Sequence[float], second: Sequence[float], margin: float = MARGIN) -> AccuracyComparison:
    """Test accuracies of two arms, one per run, compared as samples of runs.

    Args:
        first: Percentages of one arm.
        second: Percentages of the other.
        margin: What counts as no difference, in percentage points.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else None
    if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return AccuracyComparison(difference, None, None, None, None, None, None, None, len(a), len(b))
    with warnings.catch_warnings():  # of two runs that are right on equally many images, whose variance is indeed 0
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        welch = stats.ttest_ind(a, b, equal_var=False)
        above_minus_margin = _p_value(stats.ttest_ind(a + margin, b, equal_var=False, alternative="greater"))
        below_margin = _p_value(stats.ttest_ind(a - margin, b, equal_var=False, alternative="less"))
    low, high = welch.confidence_interval(LEVEL)  # pyright: ignore[reportAttributeAccessIssue]
    equivalence = max(above_minus_margin, below_margin)
    return AccuracyComparison(
        difference, float(low), float(high), _p_value(welch), equivalence, *hedges_g(a, b), len(a), len(b)
    )


def accuracy_verdict(found: AccuracyComparison) -> str:
    """What the runs say of the thesis's claim that two arms are alike in test accuracy.

    ``holds`` if they are equivalent (p < 0.05); ``does not hold``, and which way, if they differ (p < 0.05) and are not
    equivalent; else ``open``.
    """
    if found.welch_p is None or found.equivalence_p is None:
        return "open"
    if found.equivalence_p < 1 - LEVEL:
        return "holds"
    if found.welch_p >= 1 - LEVEL or found.difference is None:
        return "open"
    return f"does not hold: AS is {'better' if found.difference > 0 else 'worse'}"


def hedges_g(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Hedges' g and its interval, which is exact for normal samples of equal variance (noncentral t).

    Args:
        first: At least two values.
        second: At least two values, not all of both samples alike.
    """
    n, m = len(first), len(second)
    degrees = n + m - 2
    pooled = math.sqrt(((n - 1) * np.var(first, ddof=1) + (m - 1) * np.var(second, ddof=1)) / degrees)
    scale = math.sqrt(1 / n + 1 / m)
    t = float(np.mean(first) - np.mean(second)) / (pooled * scale)
    unbiased = math.exp(gammaln(degrees / 2) - gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2)
    low, high = (_noncentrality(t, degrees, share) for share in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return t * scale * unbiased, low * scale * unbiased, high * scale * unbiased


def pooled_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The thesis's test, a t test with equal variances, of values of two averaged curves: its p; None if all are equal.

    The values of one curve are not independent, so that this is not the chance that it is said to be.
    """
    if len(first) < 2 or len(second) < 2 or np.ptp(first) == np.ptp(second) == 0:
        return None
    return _p_value(stats.ttest_ind(first, second, equal_var=True))


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


def _interval(samples: tuple[np.ndarray, ...], statistic: Any) -> tuple[float | None, float | None]:
    """Percentile bootstrap over the runs, the same at each call."""
    if min(len(sample) for sample in samples) < 2:
        return None, None
    if not all(np.isfinite(sample).all() for sample in samples):
        return min(float(s.min()) for s in samples), max(float(s.max()) for s in samples)
    generator: Any = {"random_state": np.random.default_rng(0)}  # the name that SciPy 1.11 and 1.17 both know
    found = stats.bootstrap(samples, statistic, confidence_level=LEVEL, method="percentile", **generator)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _p_value(found: Any) -> float:
    return float(found.pvalue)


def _orders(value: float) -> float:
    """Orders of magnitude between a ratio and 1."""
    return abs(math.log10(value)) if value > 0 else math.inf


def _noncentrality(t: float, degrees: int, share: float) -> float:
    """The noncentrality at which a share of the noncentral t distribution lies below t."""
    reach = 4.0 + abs(t)
    while stats.nct.cdf(t, degrees, t - reach) < share or stats.nct.cdf(t, degrees, t + reach) > share:
        reach *= 2
    place: Any = brentq(lambda place: stats.nct.cdf(t, degrees, place) - share, t - reach, t + reach)
    return float(place)
