"""What the runs say: paired differences with intervals, and a verdict in one sentence.

Runs are paired by their seeds, which give all rivals the same initial weights. The interval is that of Student's t for
the mean of n differences: mean ± t(0.975, n − 1) · standard deviation / √n, which holds the true mean in 95 of 100
comparisons where differences are normal. Of one seed there is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from lightning_as.comparison.budget import Budget
from lightning_as.comparison.monitor import Mode
from lightning_as.comparison.results import Run

Runs = Mapping[tuple[str, Budget], Sequence[Run]]
"""The runs of each rival at each budget, seed by seed in the same order. Uniform sampling has one budget, its own."""


class Metric(NamedTuple):
    """What decides."""

    name: str
    mode: Mode
    """Whether more of it is better."""
    points: bool = False
    """Whether it is a share that is shown in points, of which 100 make the whole."""

    @property
    def unit(self) -> str:
        """What differences are said in."""
        return f"points of {self.name}" if self.points else f"of {self.name}"

    def of(self, run: Run) -> float:
        """Its value, in points if it is a share; NaN if the run does not have it."""
        return run.trial.metrics.get(self.name, math.nan) * (100 if self.points else 1)


class Outcome(NamedTuple):
    """A rival at a budget: a row of the table. Means are over the seeds."""

    rival: str
    budget: Budget
    steps: float
    """Mean number."""
    seconds: float
    """Mean seconds of training, without validations."""
    value: float
    """Mean of the metric, in points if it is a share."""
    differences: tuple[float, ...] = ()
    """From uniform sampling, seed by seed, in the same unit; none for uniform sampling itself."""

    @property
    def difference(self) -> float:
        """Their mean; NaN if one is not finite."""
        return mean(self.differences)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval around it; NaN of one seed."""
        return half_width(self.differences)


def check_installed() -> None:
    """Raise if SciPy, which has Student's t, is not there.

    Raises:
        ModuleNotFoundError: With what to install.
    """
    if find_spec("scipy") is None:
        raise ModuleNotFoundError(
            "A comparison needs SciPy for its intervals, and Matplotlib for its figure: "
            '`pip install "lightning-as[compare]"`.'
        )


def as_metric(name: str, mode: Mode, runs: Runs) -> Metric:
    """The metric, which counts as a share if more is better and it is from 0 to 1 in all runs."""
    values = [Metric(name, mode).of(run) for of_rival in runs.values() for run in of_rival]
    return Metric(name, mode, mode == "max" and all(0 <= value <= 1 for value in values if math.isfinite(value)))


def outcomes(runs: Runs, metric: Metric, uniform: str) -> list[Outcome]:
    """The rows of the table: uniform sampling, and then the others at equal steps, and at equal time.

    Args:
        runs: All of them.
        metric: What decides.
        uniform: Name of uniform sampling.
    """
    baseline = runs[uniform, "steps"]
    result = []
    for rival, budget in sorted(runs, key=lambda key: (key[0] != uniform, key[1])):
        own = runs[rival, budget]
        pairs = [] if rival == uniform else zip(own, baseline, strict=True)
        result.append(
            Outcome(
                rival,
                budget,
                mean([run.trial.steps for run in own]),
                mean([run.seconds for run in own]),
                mean([metric.of(run) for run in own]),
                tuple(metric.of(run) - metric.of(other) for run, other in pairs),
            )
        )
    return result


def verdict(outcome: Outcome, metric: Metric) -> str:
    """What a row says of a strategy, in a sentence, which may be that it is not better."""
    count, at = len(outcome.differences), f"at equal {outcome.budget}"
    if not math.isfinite(outcome.difference):
        odd = sum(not math.isfinite(one) for one in outcome.differences)
        of = "its seed" if count == 1 else f"{odd} of {count} seeds"
        return (
            f"{outcome.rival} cannot be compared with uniform sampling {at}: {metric.name} of one of the two is not "
            f"finite with {of}."
        )
    found = difference_text(outcome, metric)
    if count == 1:
        return f"One seed says little: {outcome.rival} less uniform sampling {at} is {found} {metric.unit}."
    gain = outcome.difference if metric.mode == "max" else -outcome.difference
    if gain > outcome.half_width:
        claim, end = "is better than", ""
    elif -gain > outcome.half_width:
        claim, end = "is worse than", ""
    elif gain > 0:
        claim, end = "may or may not be better than", "; more seeds would tell"
    else:
        claim, end = "is not better than", ""
    return f"{outcome.rival} {claim} uniform sampling {at}: {found} {metric.unit} over {count} seeds{end}."


def mean(values: Sequence[float]) -> float:
    """NaN if one is not finite, or if there are none."""
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan


def half_width(differences: Sequence[float]) -> float:
    """Half the width of the 95 % interval of their mean by Student's t; NaN of fewer than two, or one not finite."""
    from scipy.stats import t  # late: an extra

    count = len(differences)
    if count < 2 or not all(map(math.isfinite, differences)):
        return math.nan
    return float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)


def difference_text(outcome: Outcome, metric: Metric) -> str:
    """The difference and its interval: +0.31 ± 0.12; without the interval of one seed; a dash if it is not finite."""
    value, half = outcome.difference, outcome.half_width
    if not math.isfinite(value):
        return "–"
    wide = math.isfinite(half) and half > 0
    digits = 2 if metric.points else decimals(half, 2) if wide else decimals(value, 3)
    text = f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"
    return f"{text} ± {half:.{digits}f}" if math.isfinite(half) else text


def value_text(value: float, metric: Metric) -> str:
    """A value of the metric: 98.40 points, or four significant digits; a dash if it is not finite."""
    return f"{value:.{2 if metric.points else decimals(value, 4)}f}" if math.isfinite(value) else "–"


def decimals(value: float, significant: int) -> int:
    """How many decimals show so many significant digits of a finite number."""
    return significant if value == 0 else min(12, max(0, significant - 1 - math.floor(math.log10(abs(value)))))
