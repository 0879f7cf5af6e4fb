import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.helpers.synthetic import ACCURACIES, cell, write
from thesis.results import Run, read
from thesis.tables import (
    accuracy_rows,
    as_csv,
    cell_rows,
    missing_cells,
    ratio_rows,
)


def runs_of(tmp_path: Path, rows: list[dict[str, object]]) -> list[Run]:
    return read([write(tmp_path / "epochs.csv", rows)])


def test_ratios_after_epoch_15_under_mean_and_median(tmp_path: Path):
    found = [r for r in ratio_rows(runs_of(tmp_path, cell(epochs=16)), "adadelta") if r.batch_size == 256]
    assert [(r.against, r.statistic) for r in found] == [
        ("uniform", "mean"),
        ("uniform", "median"),
        ("OBS", "mean"),
        ("OBS", "median"),
    ]
    # By seed: over uniform 1e-4, 4e-4, 5e-5; over OBS 0.5, 0.25, 0.5.
    for r in found:
        values = (1e-4, 5e-5, 4e-4) if r.against == "uniform" else (0.5, 0.25, 0.5)
        assert r.ours[:3] == pytest.approx(values)
        assert (r.ours.runs, r.ours.paired, r.epoch, r.verdict) == (3, True, 15, "holds")
        assert r.printed == (9.02e-5 if r.against == "uniform" else 0.2)


def test_the_values_of_each_arm(tmp_path: Path):
    found = {r.arm: r for r in cell_rows(runs_of(tmp_path, cell()), "adadelta") if r.batch_size == 256}
    assert found["AS"].cost_mean == (pytest.approx(3e-6), pytest.approx(2e-6), pytest.approx(4e-6), 3)
    assert found["uniform"].cost_median.value == pytest.approx(2e-5)
    assert found["OBS"].accuracy.value == pytest.approx(99.41)
    assert [found[arm].minutes.value for arm in ("AS", "OBS", "uniform")] == pytest.approx([1.5, 1.25, 1.0])
    assert found["uniform"].minutes_printed == 0.29
    assert found["AS"].zeros == 0


def test_unequal_lengths_meet_at_the_last_common_epoch(tmp_path: Path):
    rows = cell(arms=("AS", "uniform")) + cell(arms=("OBS",), epochs=12)
    runs = runs_of(tmp_path, rows)
    found = [r for r in ratio_rows(runs, "adadelta") if r.batch_size == 256 and r.statistic == "mean"]
    assert [r.epoch for r in found] == [12, 12]
    assert [r.ours.value for r in found] == pytest.approx([1e-4, 0.5])
    by_arm = {r.arm: r for r in cell_rows(runs, "adadelta") if r.batch_size == 256}
    assert by_arm["AS"].cost_mean.value == pytest.approx(3e-5)
    assert by_arm["AS"].minutes.value == pytest.approx(1.2)


def test_what_is_missing_is_open_and_named(tmp_path: Path):
    runs = runs_of(tmp_path, cell(arms=("AS", "uniform")))
    found = {(r.against, r.batch_size): r for r in ratio_rows(runs, "adadelta") if r.statistic == "mean"}
    assert found["uniform", 256].ours.value == pytest.approx(1e-4)
    for at in (("OBS", 256), ("uniform", 64)):
        assert (found[at].ours.value, found[at].ours.note, found[at].epoch) == (None, "no runs", None)
        assert found[at].verdict == "open"
    missing = missing_cells(runs)
    assert len(missing) == 16
    assert missing[3] == "Adadelta, batch 256, OBS"
    assert not any("batch 256, AS" in name for name in missing if name.startswith("Adadelta"))


def test_a_median_cost_of_0_and_a_single_seed(tmp_path: Path):
    rows = [r | {"training_cost_median": 0} if r["arm"] != "uniform" else r for r in cell(seeds=1)]
    runs = runs_of(tmp_path, rows)
    of_uniform, of_obs = [r for r in ratio_rows(runs, "adadelta") if r.batch_size == 256 and r.statistic == "median"]
    assert of_uniform.ours[:4] == (0, None, None, 1)
    assert of_obs.ours.value is None
    assert "exactly 0" in of_obs.ours.note
    assert (of_uniform.verdict, of_obs.verdict) == ("open", "open")
    assert [r.zeros for r in cell_rows(runs, "adadelta") if r.batch_size == 256] == [1, 1, 0]


def test_table_2_by_runs_and_as_the_thesis_did_it(tmp_path: Path):
    first, second, *others = accuracy_rows(runs_of(tmp_path, cell(epochs=20)))
    assert (first.printed.against, second.printed.against) == ("uniform", "OBS")
    final = {arm: [100 * (a + 5e-4) for a in values] for arm, values in ACCURACIES.items()}
    for found in (first, second):
        welch = stats.ttest_ind(final["AS"], final[found.printed.against], equal_var=False)
        assert found.ours.welch_p == pytest.approx(float(welch.pvalue))  # pyright: ignore[reportAttributeAccessIssue]
        assert (found.epoch, found.values) == (20, 15)
        # The averaged curves are straight lines over epochs 6 to 20, a constant apart.
        steps = np.arange(6, 21) * 1e-4
        apart = np.mean(ACCURACIES["AS"]) - np.mean(ACCURACIES[found.printed.against])
        t = apart / math.sqrt(2 * np.var(steps, ddof=1) / 15)
        assert found.pooled_p == pytest.approx(2 * stats.t.sf(abs(t), 28))
    assert (first.verdict, second.verdict) == ("does not hold: AS is better", "holds")
    assert first.ours.difference == pytest.approx(0.11)
    assert all((r.verdict, r.epoch, r.ours.runs, r.pooled_p) == ("open", None, 0, None) for r in others)


def test_curves_that_have_fewer_than_15_values_say_so(tmp_path: Path):
    assert accuracy_rows(runs_of(tmp_path, cell(epochs=4)))[0].values == 4


def test_rows_as_csv(tmp_path: Path):
    text = as_csv(ratio_rows(runs_of(tmp_path, cell(arms=("AS", "uniform"))), "adadelta"))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 12
    assert [(r["ours_value"], r["ours_low"], r["verdict"]) for r in lines[4:7]] == [
        ("0.0001", "5e-05", "holds"),
        ("0.0001", "5e-05", "holds"),
        ("", "", "open"),
    ]
