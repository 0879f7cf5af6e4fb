import math
from pathlib import Path

import pytest

from tests.thesis.test_evidence import runs_of, training
from thesis.grid import MENDS
from thesis.mends import collapse_rows, default_rows, longest
from thesis.thesis import BATCH_SIZES, OPTIMIZERS


def mends(costs: dict[str, float], seed: int = 100) -> list[dict[str, object]]:
    """All six settings of the given arms, whose cost at every epoch is the given one."""
    return [
        r
        for arm, cost in costs.items()
        for optimizer in OPTIMIZERS
        for batch_size in BATCH_SIZES
        for r in training(
            [cost] * 2, arm=arm, optimizer=optimizer, batch_size=batch_size, seed=seed, experiment="mends"
        )
    ]


def test_the_default_is_the_best_that_is_nowhere_much_worse(tmp_path: Path):
    rows = mends({"AS": 1e-3, "AS_floor": 5e-4, "AS_statistic": 1e-4, "AS_robust": 8e-4})
    for r in rows:  # the best on the whole costs ten times as much in one setting
        if (r["arm"], r["optimizer"], r["batch_size"]) == ("AS_statistic", "adam", 64):
            r["training_cost_mean"] = 1e-2
    found = {r.arm: r for r in default_rows(runs_of(tmp_path, rows))}
    assert list(found) == list(MENDS)
    assert [r.arm for r in found.values() if r.chosen] == ["AS_floor"]
    assert found["AS"].mean_ratio == pytest.approx(1.0)
    statistic = found["AS_statistic"]
    assert statistic.mean_ratio == pytest.approx(math.exp((5 * math.log(0.1) + math.log(10)) / 6))
    assert (statistic.worst_ratio, statistic.worst, statistic.settings) == (pytest.approx(10.0), "Adam 64", 6)
    assert (found["AS_original"].settings, found["AS_original"].mean_ratio) == (0, None)


def test_a_candidate_without_all_settings_is_not_chosen_and_reported_seeds_choose_nothing(tmp_path: Path):
    rows = mends({"AS": 1e-3, "AS_floor": 1e-4})
    without = [r for r in rows if (r["arm"], r["batch_size"]) != ("AS_floor", 64)]
    assert [r.arm for r in default_rows(runs_of(tmp_path, without)) if r.chosen] == ["AS"]
    reported = mends({"AS": 1e-3, "AS_floor": 1e-4}, seed=0)
    assert not any(r.chosen or r.settings for r in default_rows(runs_of(tmp_path, reported)))


def with_smallest(smallest: dict[int, float], **changes: object) -> list[dict[str, object]]:
    """A run of 20 epochs, in some of which the smallest entry of P is the given one."""
    rows = training([1.0] * 17 + [1e-3, 1e-4, 1e-5], **{"optimizer": "adam", "batch_size": 64, **changes})
    for epoch, value in smallest.items():
        rows[epoch]["p"] = ";".join([str(value), str(0.2 - value), *["0.1"] * 8])
    return rows


def test_a_collapse_is_for_good_or_not_and_the_cost_is_that_of_the_end(tmp_path: Path):
    rows = with_smallest({4: 5e-4, 18: 1e-3, 19: 9e-4, 20: 1e-9}) + with_smallest({4: 5e-4, 18: 1e-5}, arm="AS_floor")
    rows += training([1.0] * 15, arm="AS_robust") + with_smallest({20: 0.0}, seed=100)
    collapsed, recovered = collapse_rows(runs_of(tmp_path, rows))
    assert (collapsed.arm, collapsed.epochs, collapsed.smallest_p) == ("AS", 20, 1e-9)
    assert (collapsed.collapsed_epochs, collapsed.collapsed_since) == (3, 19)
    assert collapsed.cost == pytest.approx(1e-4)
    assert collapsed.accuracy == pytest.approx(99.0)
    assert (recovered.arm, recovered.collapsed_epochs, recovered.collapsed_since) == ("AS_floor", 2, None)


def test_a_collapse_from_the_beginning_is_since_the_beginning(tmp_path: Path):
    (found,) = collapse_rows(runs_of(tmp_path, with_smallest(dict.fromkeys(range(21), 1e-6))))
    assert (found.collapsed_epochs, found.collapsed_since) == (21, 0)


def test_the_longest_are_those_of_the_greatest_length(tmp_path: Path):
    rows = training([1.0] * 3, seed=1) + training([1.0] * 5, seed=2) + training([1.0] * 5, seed=3)
    assert [run.cell.seed for run in longest(runs_of(tmp_path, rows))] == [2, 3]
    assert longest([]) == []
