import pytest

from tests.helpers.synthetic import Rows, evidence, row, runs_of, titles
from thesis.evidence import pool
from thesis.results import PROBED
from thesis.variance import layer_rows, noise_rows, numbers
from thesis.variance_figure import variance_figure


def varied(ratios: list[float], **changes: object) -> Rows:
    """A training with these variances of the weighted estimate over a uniform draw's, after epochs 0, 1, …"""
    rows = [row(epoch=at, variance_uniform=0.5, variance_weighted=0.5 * r, **changes) for at, r in enumerate(ratios)]
    return rows


def studied(own: list[float], **changes: object) -> Rows:
    """A training of the study, with these values of ``ratio_own`` after epochs 0, 1, …, and 2 in all else."""
    rest = dict.fromkeys(PROBED, 2.0)
    return [row(experiment="variance", epoch=at, **rest | {"ratio_own": r}, **changes) for at, r in enumerate(own)]


def test_the_ratio_is_a_median_over_the_epochs_and_then_over_the_runs():
    rows = varied([9, 0.5, 0.7, 0.6, 1.5, 3, *[9] * 20])  # of 15 epochs: 3 below 1, the last ones at 9
    rows += varied([9, 0.8, 0.2, 0.4, *[0.9] * 12], seed=1) + varied(
        [9, 5.0, 5.0], seed=100
    )  # which is no reported one
    (found,) = noise_rows(pool(runs_of(rows)))
    assert (found.optimizer, found.batch_size, found.arm, found.epochs) == ("adadelta", 256, "AS", 15)
    assert found.middle[:3] == pytest.approx(((9 + 0.9) / 2, 0.9, 9))
    assert found.early[:3] == pytest.approx((0.5, 0.4, 0.6))
    assert (found.below, found.of) == (3 + 15, 30)
    assert numbers([found], [])["noise/adadelta_256/AS/early/low"] == pytest.approx(0.4)


def test_a_figure_of_the_study_is_that_before_after_and_at_the_end():
    rows = studied([1.0, 0.2, 0.6, 0.4]) + studied([1.0, 0.4, 0.8, 0.6], seed=1) + studied([1.0, 7], arm="OBS")
    runs = runs_of(rows)
    found = {(r.arm, r.quantity): r for r in layer_rows(runs)}
    own = found["AS", "ratio_own"]
    assert (own.untrained.value, own.trained.value, own.last.value) == pytest.approx((1.0, 0.5, 0.5))
    assert found["OBS", "ratio_own"].trained.value == 7
    known = numbers([], list(found.values()))
    assert known["layer/adadelta_256/AS/ratio_own/last/high"] == pytest.approx(0.6)
    assert known["layer/adadelta_256/AS/ratio_norm"] == 2
    assert evidence(rows).runs == []  # they are in no other question
    assert titles(variance_figure(runs, list(found.values()))) == [
        "Adadelta",
        "other distributions, at the networks of AS",
    ]
