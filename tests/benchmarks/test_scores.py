import math

import numpy as np
import pytest

from benchmarks.wrong_labels.scores import average_precision, found, standardised


def test_the_average_precision_is_the_mean_over_the_wrong_ones_and_what_is_unknown_is_last():
    wrong = np.array([True, False, True, False, True])
    score = np.array([3.0, 2.0, 1.0, 0.0, math.nan])
    assert average_precision(score, wrong) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(np.zeros(5), wrong) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)  # in the data's order


def test_what_is_suspected_is_told_by_precision_and_recall():
    flagged, wrong = np.array([True, True, True, False]), np.array([True, False, False, True])
    assert found(flagged, wrong) == {"suspected": "0.7500", "precision": "0.3333", "recall": "0.5000"}
    assert found(np.zeros(4, bool), wrong) == {"suspected": "0.0000", "precision": "0.0000", "recall": "0.0000"}


def test_each_class_is_standardised_by_itself():
    made = standardised(np.array([1.0, 10.0, 3.0, 30.0, math.nan]), np.array([0, 1, 0, 1, 1]))
    np.testing.assert_allclose(made, [-1, -1, 1, 1, math.nan])
