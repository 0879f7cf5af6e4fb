import csv
import math
from pathlib import Path

import pytest

from tests.helpers.synthetic import cell, row, write
from thesis.evidence import (
    ACCURACY,
    TARGETS,
    arm_rows,
    late_cost,
    of,
    pool,
    time_rows,
)
from thesis.evidence_figures import LABELS
from thesis.grid import ARMS, PARTS, WEIGHTS
from thesis.results import Run, read


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return pool(read([write(tmp_path / "epochs.csv", rows)]))


def training(costs: list[float], **changes: object) -> list[dict[str, object]]:
    """The rows of one run with these costs after epochs 1, 2, …."""
    return [row(epoch=at, training_cost_mean=cost, seconds=60 * at, **changes) for at, cost in enumerate([1.0, *costs])]


def test_the_same_training_of_two_experiments_counts_once_and_the_longer_one(tmp_path: Path):
    rows = [r | {"experiment": "weights"} for r in cell(epochs=10)] + cell(epochs=15)
    found = runs_of(tmp_path, rows)
    assert len(found) == 9
    assert {int(run.epochs[-1]) for run in found} == {15}
    assert {int(run.epochs[-1]) for run in runs_of(tmp_path, rows[::-1])} == {15}


def test_of_leaves_out_searches_and_selection_seeds(tmp_path: Path):
    rows = cell(seeds=1, epochs=1)
    rows += [row(seed=100), row(seed=1, delta_p=0.9, delta_q=0.1), row(seed=2, data="noisy_10")]
    assert [run.cell.seed for run in of(runs_of(tmp_path, rows), "AS", "adadelta", 256)] == [0]


def test_late_costs_are_geometric_means_over_three_epochs(tmp_path: Path):
    run = runs_of(tmp_path, training([8.0, 1e-2, 1e-4, 1e-3]))[0]
    assert late_cost(run, 4) == pytest.approx(1e-3)
    assert late_cost(run, 1) == pytest.approx(8.0)  # there is one epoch: what is before the first is none
    assert late_cost(runs_of(tmp_path, training([1.0, 0.0, 1.0]))[0], 3) == 0.0


def test_a_run_that_diverged_is_no_run_of_cost_0(tmp_path: Path):
    rows = training([1e-2] * 3, arm="uniform") + training([1e-3, math.nan, math.nan])
    found = arm_rows(runs_of(tmp_path, rows), ("AS",), "adadelta", 256)[0]
    assert (found.cost.value, found.ratio.value, found.ratio.note) == (math.inf, None, "a cost is not finite")
    assert late_cost(runs_of(tmp_path, training([1.0, math.inf]))[0], 2) == math.inf


def test_arms_are_compared_at_the_last_epoch_that_all_have(tmp_path: Path):
    rows = training([2e-2] * 5, arm="uniform") + training([2e-3] * 3, arm="AS_weighted")
    rows += training([2e-4] * 3 + [1e-9], arm="AS")
    found = arm_rows(runs_of(tmp_path, rows), WEIGHTS, "adadelta", 256)
    assert [(r.arm, r.epoch) for r in found] == [("uniform", 3), ("AS", 3), ("AS_weighted", 3)]
    assert [r.ratio.value for r in found] == pytest.approx([1.0, 0.01, 0.1])
    assert found[1].cost.value == pytest.approx(2e-4)
    assert found[1].accuracy.value == pytest.approx(99.0)
    assert [r.arm for r in arm_rows(runs_of(tmp_path, rows), PARTS, "adadelta", 256)] == ["uniform", "AS"]
    assert arm_rows(runs_of(tmp_path, rows), PARTS, "adam", 256) == []


def test_the_smallest_p_is_that_of_any_epoch(tmp_path: Path):
    rows = training([1.0, 1.0, 1.0])
    rows[2]["p"] = ";".join(["0.001", "0.199", *["0.1"] * 8])
    (found,) = arm_rows(runs_of(tmp_path, rows), ["AS"], "adadelta", 256, base="AS")
    assert found.smallest_p.value == pytest.approx(0.001)


def test_times_to_targets_and_runs_that_do_not_reach_them(tmp_path: Path):
    rows = training([0.1, 5e-3, 0.1], seed=0, test_accuracy=0.994) + training([0.1, 0.1, 5e-3], seed=1)
    rows += training([0.1, 0.1, 0.1], arm="OBS")
    found = {(r.target, r.arm): r for r in time_rows(runs_of(tmp_path, rows), ("AS", "OBS"), (256,))}
    assert len(found) == 2 * len(TARGETS)
    cost = found[TARGETS[0].label, "AS"]
    assert (cost.epochs, cost.minutes.value, cost.minutes.runs, cost.runs) == (2.5, 2.5, 2, 2)
    accuracy = found[ACCURACY.label, "AS"]  # one of two, from before the first step: half of them is not a median
    assert (accuracy.epochs, accuracy.minutes.runs, accuracy.runs) == (None, 1, 2)
    never = found[TARGETS[0].label, "OBS"]
    assert (never.epochs, never.minutes.value, never.minutes.runs, never.runs) == (None, None, 0, 1)


def test_targets_that_are_reached_after_epoch_15_are_not_reached(tmp_path: Path):
    rows = training([0.1] * 15 + [5e-3]) + training([0.1] * 14 + [5e-3], arm="OBS")
    late, in_time = [r for r in time_rows(runs_of(tmp_path, rows), ("AS", "OBS"), (256,)) if r.target == TARGETS[0][2]]
    assert (late.epochs, late.minutes.runs, in_time.epochs) == (None, 0, 15)


def test_each_arm_has_a_label():
    assert set(LABELS) == set(ARMS)


def test_rows_are_csv(tmp_path: Path):
    from thesis.tables import as_csv

    text = as_csv(arm_rows(runs_of(tmp_path, cell()), WEIGHTS, "adadelta", 256))
    assert [line["arm"] for line in csv.DictReader(text.splitlines())] == ["uniform", "AS"]
