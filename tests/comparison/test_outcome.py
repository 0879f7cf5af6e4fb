import math
import random
import statistics
from importlib.machinery import ModuleSpec

import pytest
from scipy import stats

from lightning_as.comparison import outcome
from lightning_as.comparison.outcome import Metric, Outcome, as_metric, check_installed, outcomes, verdict
from lightning_as.comparison.results import Run
from lightning_as.comparison.trial import Trial

ACCURACY, LOSS = Metric("val/accuracy", "max", points=True), Metric("val/loss", "min")
T = {
    2: 12.7062047362,
    3: 4.3026527297,
    4: 3.1824463053,
}  # the 0.975 quantile of Student's t, from a printed table, by n


def runs(rival: str, budget, *values: float) -> list[Run]:
    trials = [
        Trial(100 + seed, 1.0, 0.1, {"val/accuracy": value, "val/loss": value}) for seed, value in enumerate(values)
    ]
    return [Run(rival, seed, budget, trial, "") for seed, trial in enumerate(trials)]


def row(*differences: float, budget="time") -> Outcome:
    return Outcome("OBS", budget, 10, 1.0, 0.5, differences)


@pytest.mark.parametrize("differences", [(0.3, -0.1), (0.25, 0.5, 0.1), (1.0, 2.0, -4.0, 0.5), (0.2, 0.2, 0.2)])
def test_the_interval_is_that_of_the_paired_t_test(differences: tuple[float, ...]):
    count, found = len(differences), row(*differences)
    mean = sum(differences) / count
    deviation = math.sqrt(sum((one - mean) ** 2 for one in differences) / (count - 1))
    assert found.difference == pytest.approx(mean)
    assert found.half_width == pytest.approx(T[count] * deviation / math.sqrt(count), rel=1e-8)
    if deviation > 0:
        low, high = stats.ttest_rel([5 + one for one in differences], [5.0] * count).confidence_interval()
        assert (found.difference - found.half_width, found.difference + found.half_width) == pytest.approx((low, high))


def test_rows_pair_each_strategy_with_uniform_sampling_of_the_same_seed():
    own = {
        ("OBS", "steps"): runs("OBS", "steps", 0.92, 0.94),
        ("uniform", "steps"): runs("uniform", "steps", 0.90, 0.95),
        ("OBS", "time"): runs("OBS", "time", 0.91, 0.93),
    }
    metric = as_metric("val/accuracy", "max", own)
    assert metric == ACCURACY
    uniform, steps, time = outcomes(own, metric, "uniform")
    assert [(one.rival, one.budget) for one in (uniform, steps, time)] == [
        ("uniform", "steps"),
        ("OBS", "steps"),
        ("OBS", "time"),
    ]
    assert (uniform.value, uniform.steps, uniform.differences) == (pytest.approx(92.5), 100.5, ())
    assert uniform.seconds == pytest.approx(1 + 0.1 * 100.5)
    assert steps.differences == pytest.approx((2.0, -1.0))
    assert time.differences == pytest.approx((1.0, -2.0))
    assert as_metric("val/loss", "min", own) == LOSS
    own["OBS", "time"] = runs("OBS", "time", 1.5, math.nan)
    assert not as_metric("val/accuracy", "max", own).points


@pytest.mark.parametrize(
    ("differences", "metric", "sentence"),
    [
        (
            (0.2, 0.0, -0.5),
            ACCURACY,
            "OBS is not better than uniform sampling at equal time: −0.10 ± 0.90 points of val/accuracy over 3 seeds.",
        ),
        (
            (0.5, 0.6, 0.7),
            ACCURACY,
            "OBS is better than uniform sampling at equal time: +0.60 ± 0.25 points of val/accuracy over 3 seeds.",
        ),
        (
            (0.5, 0.6, 0.7),
            LOSS,
            "OBS is worse than uniform sampling at equal time: +0.60 ± 0.25 of val/loss over 3 seeds.",
        ),
        (
            (-0.0005, -0.0006, -0.0007),
            LOSS,
            "OBS is better than uniform sampling at equal time: −0.00060 ± 0.00025 of val/loss over 3 seeds.",
        ),
        (
            (0.2, 0.0),
            ACCURACY,
            "OBS may or may not be better than uniform sampling at equal time: +0.10 ± 1.27 points of val/accuracy "
            "over 2 seeds; more seeds would tell.",
        ),
        (
            (0.0, 0.0),
            ACCURACY,
            "OBS is not better than uniform sampling at equal time: +0.00 ± 0.00 points of val/accuracy over 2 seeds.",
        ),
        (
            (0.25,),
            ACCURACY,
            "One seed says little: OBS less uniform sampling at equal time is +0.25 points of val/accuracy.",
        ),
        (
            (0.25, math.nan, 0.1),
            LOSS,
            "OBS cannot be compared with uniform sampling at equal time: val/loss of one of the two is not finite with "
            "1 of 3 seeds.",
        ),
    ],
)
def test_the_verdict_is_one_sentence_and_may_be_no(differences: tuple[float, ...], metric: Metric, sentence: str):
    assert verdict(row(*differences), metric) == sentence


def test_about_one_in_twenty_intervals_misses_where_there_is_no_difference():
    generator = random.Random(0)
    trials = 2000
    missed = sum(
        abs(found.difference) > found.half_width
        for found in (row(*(generator.gauss(0, 1) for _ in range(4))) for _ in range(trials))
    )
    assert abs(missed / trials - 0.05) < 4 * math.sqrt(0.05 * 0.95 / trials)


def test_numbers_that_are_not_finite_have_no_mean():
    assert math.isnan(outcome.mean([1.0, math.inf]))
    assert math.isnan(outcome.mean([]))
    assert outcome.mean([1.0, 2.0]) == statistics.fmean([1.0, 2.0])
    assert math.isnan(outcome.half_width([1.0]))


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outcome, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-as\[compare\]"'):
        check_installed()
    monkeypatch.setattr(outcome, "find_spec", lambda name: ModuleSpec(name, None))
    check_installed()
