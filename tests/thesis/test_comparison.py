import math

import numpy as np
import pytest
from scipy import stats

from thesis import comparison

A, B = [99.40, 99.42, 99.47, 99.41], [99.35, 99.39, 99.36]
APART, POOLED = np.mean(A) - np.mean(B), (3 * np.var(A, ddof=1) + 2 * np.var(B, ddof=1)) / 5


def test_a_median_and_its_bootstrap_interval():
    values = [1.0, 5.0, 2.0, 9.0, 4.0, 7.0, 3.0]
    resamples = np.median(np.array(values)[np.indices((7,) * 7).reshape(7, -1)], axis=0)  # all 7^7 of them
    assert comparison.median(values) == (4, *np.percentile(resamples, [2.5, 97.5]), 7)
    for runs in (2, 3, 4, 5):  # of so few it is the smallest and the largest
        few = [float(2**at) for at in range(runs)]
        assert comparison.median(few)[1:] == (1.0, few[-1], runs)
    assert comparison.median([3.0]) == (3.0, None, None, 1)
    assert comparison.median([]) == (None, None, None, 0)
    # One that diverged does not make the median of three diverge, but that of most does.
    assert comparison.median([1e-3, math.nan, 2e-3]) == (2e-3, 1e-3, math.inf, 3)
    assert comparison.median([math.nan, 2e-3, math.nan]).value == math.inf


def test_ratios_are_paired_where_seeds_agree_and_else_medians_are_divided():
    # The ratio of the medians would be 3/40; the seed 9 has no pair.
    found = comparison.ratio({0: 1.0, 1: 3.0, 2: 8.0, 9: 1e9}, {2: 40.0, 0: 10.0, 1: 60.0})
    assert found == (*map(pytest.approx, (0.1, 0.05, 0.2)), 3, True, "")
    found = comparison.ratio({0: 1.0, 1: 3.0}, {5: 10.0, 6: 30.0, 7: 20.0})
    assert found == (*map(pytest.approx, (0.1, 1 / 30, 0.3)), 2, False, "")
    assert comparison.ratio({0: 1.0}, {5: 10.0}) == comparison.Ratio(0.1, None, None, 1, False, "")
    assert comparison.ratio({0: 0.0, 1: 0.0}, {0: 1.0, 1: 2.0})[:3] == (0, 0, 0)
    for above, below, note in (
        ({0: 1.0, 1: 1.0}, {0: 0.0, 1: 2.0}, "the divisor is exactly 0 in 1 of 2 runs"),
        ({0: math.inf}, {0: 1.0}, "a cost is not finite"),
        ({0: 1.0}, {0: math.nan}, "a cost is not finite"),
        ({}, {0: 1.0}, "no runs"),
    ):
        found = comparison.ratio(above, below)
        assert (found.value, found.note, comparison.verdict(found, 0.5)) == (None, note, "open")


def test_verdicts():
    for ours, said in (
        ((1e-3, 5e-4, 2e-3), {5e-3: "holds", 9e-5: "weaker", 2e-2: "stronger", 1.12: "does not hold"}),
        ((30.0, 20.0, 40.0), {290.0: "holds", 17e2: "weaker", 0.5: "does not hold"}),
        ((0.0, 0.0, 0.0), {0.5: "stronger"}),
        ((0.9, 0.7, 1.2), {0.92: "holds", 0.2: "open"}),  # as the thesis has it, and not clear which way
        ((0.9, 0.01, 20.0), {0.92: "open"}),
        ((2.7, 0.36, 4.9), {0.78: "open"}),  # near it, but the other way
        ((1e-3, None, None), {1e-3: "open"}),
    ):
        assert {printed: comparison.verdict(comparison.Ratio(*ours, 3, True, ""), printed) for printed in said} == said


def test_accuracies_are_compared_by_welch_s_formulas_and_as_the_thesis_did_it():
    found = comparison.compare_accuracies(A, B)
    a, b = np.var(A, ddof=1) / 4, np.var(B, ddof=1) / 3
    error = math.sqrt(a + b)
    t = stats.t((a + b) ** 2 / (a**2 / 3 + b**2 / 2))
    assert found.difference == pytest.approx(APART)
    assert found.welch_p == pytest.approx(2 * t.sf(APART / error))
    assert (found.low, found.high) == pytest.approx((APART - t.ppf(0.975) * error, APART + t.ppf(0.975) * error))
    assert found.equivalence_p == pytest.approx(max(t.sf((APART + 0.1) / error), t.cdf((APART - 0.1) / error)))
    assert (found.runs, found.other_runs) == (4, 3)
    pooled = math.sqrt(POOLED * (1 / 4 + 1 / 3))
    assert comparison.pooled_p_value(A, B) == pytest.approx(2 * stats.t.sf(APART / pooled, 5))
    assert comparison.pooled_p_value([1.0, 1.0], [2.0, 2.0]) is comparison.pooled_p_value([], []) is None


def test_hedges_g_and_its_interval_by_their_definitions():
    g, low, high = comparison.hedges_g(A, B)
    # J with 5 degrees of freedom: gamma(5/2) / (sqrt(5/2) gamma(2)), and gamma(5/2) = 3 sqrt(pi) / 4
    unbiased = 0.75 * math.sqrt(math.pi) / math.sqrt(2.5)
    assert g == pytest.approx(APART / math.sqrt(POOLED) * unbiased)
    scale = math.sqrt(1 / 4 + 1 / 3) * unbiased
    assert stats.nct.cdf(g / scale, 5, low / scale) == pytest.approx(0.975)
    assert stats.nct.cdf(g / scale, 5, high / scale) == pytest.approx(0.025)
    assert low < g < high
    assert all(map(math.isfinite, comparison.hedges_g([99.40, 99.41], [9.80, 9.81])))  # a huge effect


@pytest.mark.filterwarnings("error")
def test_too_few_or_equal_runs_leave_the_tests_open():
    for a, b in (([], []), ([99.0], [98.0, 98.5]), ([99.0, 99.0], [98.0, 98.0])):
        found = comparison.compare_accuracies(a, b)
        assert found.difference == (None if not a else pytest.approx(99 - np.mean(b)))
        assert found[1:8] == (None,) * 7
        assert comparison.accuracy_verdict(found) == "open"
    equal = comparison.compare_accuracies([99.37, 99.37], [99.2, 99.4])  # of one arm: no cause for a warning
    assert 0.5 < (equal.welch_p or 0) < 1
    said = {(0.5, 0.01): "holds", (0.01, 0.01): "holds", (0.01, 0.5): "does not hold: AS is worse", (0.5, 0.5): "open"}
    for p_values, holds in said.items():
        assert (
            comparison.accuracy_verdict(comparison.AccuracyComparison(-0.2, 0.0, 0.0, *p_values, 0.0, 0.0, 0.0, 3, 3))
            == holds
        )
