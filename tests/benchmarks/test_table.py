from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.budgets.table import FIELDS, append, cell, cell_of, read
from benchmarks.budgets.tasks import TASKS
from benchmarks.budgets.training import left

MNIST = TASKS["mnist"]


def line(rival: str = "uniform", budget: float = 0.5, seed: int = 0) -> Mapping[str, object]:
    return dict.fromkeys(FIELDS, "0") | cell_of(MNIST, budget, seed, rival)._asdict()


def test_lines_come_back_and_one_that_was_cut_off_does_not(tmp_path: Path):
    path = tmp_path / "folder" / "budget.csv"
    assert read(path) == []
    append(path, [line()])
    with path.open("a") as stream:
        stream.write("mnist,0.5,0,rs2,se")
    append(path, [line("InfoBatch(delta=1, prune_share=0.5)")])  # with a comma
    assert [row["rival"] for row in read(path)] == ["uniform", "InfoBatch(delta=1, prune_share=0.5)"]
    assert cell(read(path)[1]) == cell_of(MNIST, 0.5, 0, "InfoBatch(delta=1, prune_share=0.5)")


def test_other_columns(tmp_path: Path):
    path, fields = tmp_path / "other.csv", ["config", "factor"]
    append(path, [{"config": "a", "factor": 2}], fields)
    assert read(path, fields) == [{"config": "a", "factor": "2"}]
    with pytest.raises(ValueError, match="other columns"):
        read(path)


def test_a_table_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "other.csv").write_text("task,seed\nmnist,0\n")
    with pytest.raises(ValueError, match="other columns"):
        read(tmp_path / "other.csv")


def test_only_what_is_not_done_is_left_and_uniform_sampling_beside_it():
    done = {cell_of(MNIST, 0.5, 0, rival) for rival in ("uniform", "rs2")}
    groups = left(MNIST, [0.25, 0.5], 0, ["uniform", "rs2", "obs"], done)
    assert [(group.budget, group.rivals) for group in groups] == [
        (0.25, ("uniform", "rs2", "obs")),
        (0.5, ("uniform", "obs")),
    ]
    assert left(MNIST, [0.5], 0, ["uniform", "rs2"], done) == []


def test_a_cell_is_another_one_if_its_settings_change_but_not_by_how_it_is_shown():
    before = cell_of(MNIST, 0.5, 0, "rs2")
    assert before != cell_of(MNIST._replace(learning_rate=1.0), 0.5, 0, "rs2")
    assert before.config != cell_of(MNIST, 0.5, 0, "obs").config
    assert before == cell_of(MNIST._replace(seeds=1, figure="imbalanced"), 0.5, 0, "rs2")
