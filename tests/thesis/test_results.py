from pathlib import Path

import numpy as np
import pytest

from tests.helpers.synthetic import cell, row, write
from thesis.results import common_epochs, last_common_epoch, read, select


def test_rows_become_runs_in_order_of_epochs(tmp_path: Path):
    rows = [row(epoch=2, seconds=8, p="0.25;0.75"), row(epoch=0, seconds=0, p="0.5;0.5"), row(seed=1)]
    first, second = read([write(tmp_path / "epochs.csv", rows)])
    assert first.cell[:6] == ("thesis", "AS", "adadelta", 256, "full", 0)
    assert first.cell.delta_p is None
    assert first.epochs.tolist() == [0, 2]
    assert first.at("seconds", 2) == 8
    np.testing.assert_array_equal(first.p, [[0.5, 0.5], [0.25, 0.75]])
    assert second.cell.seed == 1
    with pytest.raises(KeyError, match="no epoch 1"):
        first.at("seconds", 1)


def test_of_a_run_in_several_files_the_longest_counts_with_its_own_seconds(tmp_path: Path):
    write(tmp_path / "a" / "epochs.csv", [row(epoch=1, seconds=5), row(epoch=2, seconds=10)])
    more = write(tmp_path / "b.csv", [row(epoch=1, seconds=6), row(epoch=2, seconds=12), row(epoch=3, seconds=18)])
    for paths in ([tmp_path / "a", more], [more, tmp_path / "a"]):
        (run,) = read(paths)
        assert run.epochs.tolist() == [1, 2, 3]
        assert run.measured["seconds"].tolist() == [6, 12, 18]


def test_of_equally_long_ones_the_first_counts(tmp_path: Path):
    paths = [write(tmp_path / f"{seconds}.csv", [row(seconds=seconds)]) for seconds in (5, 6)]
    assert [run.at("seconds", 15) for run in read(paths)] == [5]


def test_files_that_differ_about_a_run_are_refused(tmp_path: Path):
    paths = [write(tmp_path / f"{loss}.csv", [row(test_cost=loss)]) for loss in (0.5, 0.6)]
    with pytest.raises(ValueError, match=r"0.6.csv: epoch 15 of .* was read before, with other figures. Leave one out"):
        read(paths)


def test_infinite_values_zeros_and_runs_before_their_first_epoch(tmp_path: Path):
    rows = [row(variance_weighted="inf", training_cost_median="0"), row(seed=1, epoch=0)]
    (run,) = read([write(tmp_path / "epochs.csv", rows)])
    assert run.at("variance_weighted", 15) == np.inf
    assert run.at("training_cost_median", 15) == 0


def test_select_takes_one_cell_on_the_full_data(tmp_path: Path):
    rows = [*cell(epochs=1), row(data="noisy_10", seed=7), row(optimizer="Adam", seed=8)]
    rows += [row(experiment="grid-search", delta_p=0.9, delta_q=q, seed=9) for q in (0.1, 0.4)]
    runs = read([write(tmp_path / "epochs.csv", rows)])
    assert [run.cell.seed for run in select(runs, "thesis", "adadelta", 256, "AS")] == [0, 1, 2]
    assert len(select(runs, "thesis", "adadelta", 256)) == 9
    assert [run.cell.seed for run in select(runs, "thesis", "adam", 256)] == [8]
    (point,) = select(runs, "grid-search", "adadelta", 256, deltas=(0.9, 0.4))
    assert point.cell.delta_q == 0.4


def test_epochs_in_common(tmp_path: Path):
    rows = [row(seed=0, epoch=e) for e in range(6)] + [row(seed=1, epoch=e) for e in range(4)]
    runs = read([write(tmp_path / "epochs.csv", rows)])
    assert common_epochs(runs) == [0, 1, 2, 3]
    assert (last_common_epoch(runs), last_common_epoch(runs, 2), last_common_epoch([])) == (3, 2, None)


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in row().items() if key != name}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([without("ess")], r"missing \['ess'\]"),
        ([row(more=1)], r"unknown \['more'\]"),
        ([row(), row(batch_size="many", seed=1)], r"line 3: batch_size is 'many', which is not a number \(int\)"),
        ([row(test_accuracy="")], r"test_accuracy is ''"),
        ([row(), row(test_accuracy=0.5)], "line 3: epoch 15 of .* was read before in this file"),
        ([row(epoch=1), row(p="0.5;0.5")], "column p"),
        ([row(p="a;b")], "column p"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(rows: list[dict[str, object]], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read([write(tmp_path / "epochs.csv", rows)])


def test_files_that_are_no_results(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*epochs.csv"):
        read([tmp_path])
    path = write(tmp_path / "epochs.csv", [row(), row(seed=1)])
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n")
    with pytest.raises(ValueError, match="no rows"):
        read([path])
    path.write_text("\n".join([*lines[:2], lines[2][:40]]))
    with pytest.raises(ValueError, match="line 3 has not 19 values"):
        read([path])
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(ValueError, match="not a CSV file"):
        read([path])
