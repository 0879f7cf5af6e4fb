import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.synthetic import Rows, row, runs_of, write
from thesis.results import COLUMNS, Cell, of_setting, read, read_rows, timed, write_rows

PUBLISHED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*/epochs.csv"))


def test_rows_become_runs_in_order_of_epochs():
    rows = [row(epoch=2, seconds=8, p="0.25;0.75"), row(epoch=0, seconds=0, p="0.5;0.5")]
    first, second = runs_of([*rows, row(seed=2, epoch=0), row(seed=1, variance_weighted="inf")])  # not epoch 0 alone
    assert first.cell == Cell("thesis", "AS", "adadelta", 256, "full", 0)
    assert first.epochs.tolist() == [0, 2]
    assert first.at("seconds", 2) == 8
    np.testing.assert_array_equal(first.p, [[0.5, 0.5], [0.25, 0.75]])
    assert (second.cell.seed, second.at("variance_weighted", 15)) == (1, np.inf)
    with pytest.raises(KeyError, match="no epoch 1"):
        first.at("seconds", 1)


def test_of_a_run_in_several_files_the_longest_counts_or_the_first(tmp_path: Path):
    write(tmp_path / "a" / "epochs.csv", [row(epoch=1, seconds=5), row(epoch=2, seconds=10)])
    more = write(tmp_path / "b.csv", [row(epoch=1, seconds=6), row(epoch=2, seconds=12), row(epoch=3, seconds=18)])
    for paths in ([tmp_path / "a", more], [more, tmp_path / "a"]):
        (run,) = read(paths)
        assert (run.epochs.tolist(), run.measured["seconds"].tolist()) == ([1, 2, 3], [6, 12, 18])
    rows = {"seven": row(seconds=7), "eight": row(seconds=8), "other": row(test_cost=0.5)}
    paths = [write(tmp_path / f"{name}.csv", [content]) for name, content in rows.items()]
    assert [run.at("seconds", 15) for run in read(paths[:2])] == [7]
    with pytest.raises(ValueError, match=r"other.csv: epoch 15 of .* was read before, with other figures"):
        read(paths)


def test_seconds_on_a_gpu_that_several_trainings_share_are_no_number(tmp_path: Path):
    for seed, device in enumerate(("cpu", "cuda")):
        write(tmp_path / device / "epochs.csv", [row(seed=seed, seconds=9)])
        (tmp_path / device / "protocol.json").write_text(json.dumps({"device": device}))
    runs = read([tmp_path / "cpu", tmp_path / "cuda"])
    np.testing.assert_array_equal([run.at("seconds", 15) for run in runs], [9, np.nan])
    assert [run.cell.seed for run in timed(runs)] == [0]


def test_what_was_published_is_read_and_written_again_byte_by_byte_or_not_at_all(tmp_path: Path):
    path = tmp_path / "epochs.csv"
    for published in PUBLISHED:
        found = read_rows(published)
        write_rows(path, found)
        assert path.read_bytes() == published.read_bytes()
        with pytest.raises(KeyError):
            write_rows(path, {cell: [{"epoch": "1"}] for cell in found})
        assert path.read_bytes() == published.read_bytes()


def test_select_takes_one_setting_on_the_full_data():
    rows = [row(), row(arm="OBS"), row(data="noisy_10", seed=7), row(optimizer="adam", seed=8)]
    runs = runs_of([*rows, *(row(experiment="grid-search", delta_p=0.9, delta_q=q, seed=9) for q in (0.1, 0.4))])
    assert [run.cell.arm for run in of_setting(runs, "thesis", "adadelta", 256)] == ["AS", "OBS"]
    assert [run.cell.seed for run in of_setting(runs, "thesis", "adadelta", 256, "AS")] == [0]
    assert [run.cell.delta_q for run in of_setting(runs, "grid-search", "adadelta", 256, deltas=(0.9, 0.4))] == [0.4]


HEADER = ",".join(COLUMNS).encode()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{name: value for name, value in row().items() if name != "ess"}], r"missing \['ess'\]"),
        ([row(more=1)], r"unknown \['more'\]"),
        ([row(), row(batch_size="many", seed=1)], r"line 3: batch_size is 'many', which is not a number \(int\)"),
        ([row(test_accuracy="")], r"test_accuracy is ''"),
        ([row(), row(test_accuracy=0.5)], "line 3: epoch 15 of .* was read before in this file"),
        ([row(epoch=1), row(p="0.5;0.5")], "column p"),
        ([row(p="a;b")], "column p"),
        (HEADER, "no rows"),
        (HEADER + b"\nthesis,AS", "line 2 has not 19 values. Was it cut off"),
        (b"\x80\x81\xff", "not a CSV file"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(rows: Rows | bytes, message: str, tmp_path: Path):
    file = tmp_path / "epochs.csv"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*epochs.csv"):
        read([tmp_path])
    file.write_bytes(rows) if isinstance(rows, bytes) else write(file, rows)
    with pytest.raises(ValueError, match=message):
        read([tmp_path])
