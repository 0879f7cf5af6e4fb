import math

import numpy as np
import pytest
from scipy import stats

from thesis.comparison import (
    AccuracyComparison,
    Estimate,
    Ratio,
    accuracy_verdict,
    as_text,
    compare_accuracies,
    hedges_g,
    interval,
    markdown_table,
    median,
    pooled_p_value,
    ratio,
    verdict,
)


def test_a_median_and_the_bootstrap_interval_by_all_resamples():
    values = [1.0, 5.0, 2.0, 9.0, 4.0, 7.0, 3.0]
    found = median(values)
    resamples = np.median(np.array(values)[np.indices((7,) * 7).reshape(7, -1)], axis=0)  # all 7^7 of them
    assert found.value == 4
    assert (found.low, found.high) == tuple(np.percentile(resamples, [2.5, 97.5]))
    assert found.runs == 7
    assert found == median(values)  # no hidden state


def test_of_a_few_runs_the_interval_is_the_smallest_and_the_largest_and_of_one_there_is_none():
    for runs in (2, 3, 4, 5):
        values = [float(2**at) for at in range(runs)]
        assert median(values)[1:] == (1.0, values[-1], runs)
    assert median([3.0]) == (3.0, None, None, 1)
    assert median([]) == (None, None, None, 0)
    # One that diverged does not make the median of three diverge, but that of most does.
    assert median([1e-3, math.nan, 2e-3]) == (2e-3, 1e-3, math.inf, 3)
    assert median([math.nan, 2e-3, math.nan]).value == math.inf


def test_ratios_are_paired_where_seeds_agree_and_else_medians_are_divided():
    # The ratio of the medians would be 3/40; the seed 9 has no pair.
    found = ratio({0: 1.0, 1: 3.0, 2: 8.0, 9: 1e9}, {2: 40.0, 0: 10.0, 1: 60.0})
    assert found[:3] == pytest.approx((0.1, 0.05, 0.2))
    assert found[3:] == (3, True, "")
    found = ratio({0: 1.0, 1: 3.0}, {5: 10.0, 6: 30.0, 7: 20.0})
    assert found[:3] == pytest.approx((0.1, 1 / 30, 0.3))
    assert (found.runs, found.paired) == (2, False)
    assert ratio({0: 1.0}, {5: 10.0}) == Ratio(0.1, None, None, 1, False, "")
    assert ratio({0: 0.0, 1: 0.0}, {0: 1.0, 1: 2.0})[:3] == (0, 0, 0)


@pytest.mark.parametrize(
    ("above", "below", "note"),
    [
        ({0: 1.0, 1: 1.0}, {0: 0.0, 1: 2.0}, "exactly 0 in 1 of 2 runs"),
        ({0: 0.0}, {0: 0.0}, "exactly 0 in 1 of 1"),
        ({0: math.inf}, {0: 1.0}, "not finite"),
        ({0: 1.0}, {0: math.nan}, "not finite"),
        ({}, {0: 1.0}, "no runs"),
    ],
)
def test_undefined_ratios_say_why(above: dict[int, float], below: dict[int, float], note: str):
    found = ratio(above, below)
    assert found.value is None
    assert note in found.note
    assert verdict(found, 0.5) == "open"


@pytest.mark.parametrize(
    ("ours", "printed", "said"),
    [
        ((1e-3, 5e-4, 2e-3), 5e-3, "holds"),
        ((1e-3, 5e-4, 2e-3), 9e-5, "weaker"),
        ((1e-3, 5e-4, 2e-3), 2e-2, "stronger"),
        ((1e-3, 5e-4, 2e-3), 1.12, "does not hold"),
        ((30.0, 20.0, 40.0), 17e2, "weaker"),
        ((300.0, 200.0, 400.0), 17e2, "holds"),
        ((30.0, 20.0, 40.0), 0.5, "does not hold"),
        ((0.0, 0.0, 0.0), 0.5, "stronger"),
        ((0.9, 0.7, 1.2), 0.92, "holds"),  # alike, as the thesis has it
        ((0.9, 0.7, 1.2), 0.2, "open"),  # the runs do not say which way
        ((0.9, 0.01, 20.0), 0.92, "open"),
        ((2.7, 0.36, 4.9), 0.78, "open"),  # near it, but the other way
        ((1e-3, None, None), 1e-3, "open"),
    ],
)
def test_verdicts(ours: tuple[float, float | None, float | None], printed: float, said: str):
    assert verdict(Ratio(*ours, 3, True, ""), printed) == said


A, B = [99.40, 99.42, 99.47, 99.41], [99.35, 99.39, 99.36]


def test_accuracies_are_compared_by_welch_s_formulas():
    found = compare_accuracies(A, B)
    a, b = np.var(A, ddof=1) / 4, np.var(B, ddof=1) / 3
    error, difference = math.sqrt(a + b), np.mean(A) - np.mean(B)
    degrees = (a + b) ** 2 / (a**2 / 3 + b**2 / 2)
    t = stats.t(degrees)
    assert found.difference == pytest.approx(difference)
    assert found.welch_p == pytest.approx(2 * t.sf(difference / error))
    assert found.low == pytest.approx(difference - t.ppf(0.975) * error)
    assert found.high == pytest.approx(difference + t.ppf(0.975) * error)
    one_sided = t.sf((difference + 0.1) / error), t.cdf((difference - 0.1) / error)
    assert found.equivalence_p == pytest.approx(max(one_sided))
    assert (found.runs, found.other_runs) == (4, 3)


def test_hedges_g_and_its_interval_by_their_definitions():
    g, low, high = hedges_g(A, B)
    pooled = math.sqrt((3 * np.var(A, ddof=1) + 2 * np.var(B, ddof=1)) / 5)
    # J with 5 degrees of freedom: gamma(5/2) / (sqrt(5/2) gamma(2)), and gamma(5/2) = 3 sqrt(pi) / 4
    unbiased = 0.75 * math.sqrt(math.pi) / math.sqrt(2.5)
    assert g == pytest.approx((np.mean(A) - np.mean(B)) / pooled * unbiased)
    scale = math.sqrt(1 / 4 + 1 / 3) * unbiased
    t = g / scale
    assert stats.nct.cdf(t, 5, low / scale) == pytest.approx(0.975)
    assert stats.nct.cdf(t, 5, high / scale) == pytest.approx(0.025)
    assert low < g < high
    assert all(map(math.isfinite, hedges_g([99.40, 99.41], [9.80, 9.81])))  # a huge effect


@pytest.mark.parametrize(("a", "b"), [([], []), ([99.0], [98.0, 98.5]), ([99.0, 99.0], [98.0, 98.0])])
def test_too_few_or_equal_runs_leave_the_tests_open(a: list[float], b: list[float]):
    found = compare_accuracies(a, b)
    assert found.difference == (None if not a else pytest.approx(99 - np.mean(b)))
    assert found[1:8] == (None,) * 7
    assert accuracy_verdict(found) == "open"


@pytest.mark.parametrize(
    ("welch", "equivalence", "said"),
    [(0.5, 0.01, "holds"), (0.01, 0.01, "holds"), (0.01, 0.5, "does not hold: AS is worse"), (0.5, 0.5, "open")],
)
def test_verdicts_on_accuracies(welch: float, equivalence: float, said: str):
    assert accuracy_verdict(AccuracyComparison(-0.2, 0.0, 0.0, welch, equivalence, 0.0, 0.0, 0.0, 3, 3)) == said


def test_the_thesis_s_test_is_student_s_with_a_pooled_variance():
    pooled = (3 * np.var(A, ddof=1) + 2 * np.var(B, ddof=1)) / 5
    t = (np.mean(A) - np.mean(B)) / math.sqrt(pooled * (1 / 4 + 1 / 3))
    assert pooled_p_value(A, B) == pytest.approx(2 * stats.t.sf(t, 5))
    assert pooled_p_value([1.0, 1.0], [2.0, 2.0]) is None
    assert pooled_p_value([], []) is None


@pytest.mark.filterwarnings("error")
def test_runs_of_one_arm_that_are_right_on_equally_many_images_are_no_cause_for_a_warning():
    found = compare_accuracies([99.37, 99.37], [99.2, 99.4])
    assert found.welch_p is not None
    assert 0.5 < found.welch_p < 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (3.84e-5, "3.8e-5"), (0.0123, "0.012"), (17e2, "1.7e3"), (123.4, "120"), (1.0, "1"),
     (-0.251, "-0.25"), (math.inf, "not finite"), (math.nan, "not finite"), (2e-10, "2e-10")],
)  # fmt: skip
def test_numbers_as_text(value: float | None, text: str):
    assert as_text(value) == text


def test_intervals_or_why_there_is_none_and_tables_as_text():
    assert interval(Estimate(0.5, 0.25, 1.0, 3)) == "0.5 [0.25, 1]"
    assert interval(Estimate(0.5, None, None, 1)) == "0.5 (one run)"
    assert interval(Estimate(None, None, None, 0)) == "not run"
    assert interval(Ratio(None, None, None, 2, True, "a cost is not finite")) == "undefined: a cost is not finite"
    assert interval(Ratio(None, None, None, 0, True, "no runs")) == "not run"
    assert markdown_table(["a", "b"], [["1", "2"], ["3", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
