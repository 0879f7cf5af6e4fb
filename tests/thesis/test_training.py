import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from thesis.grid import Cell, cells, select
from thesis.measurements import Row
from thesis.training import train


class StoppedError(Exception):
    pass


def without_seconds(rows: list[Row]) -> list[Row]:
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


def ignore(rows: list[Row]) -> None:
    pass


def stop_at(epoch: int) -> Any:
    """Stops after the measurements of an epoch, before its checkpoint."""

    def report(rows: list[Row]) -> None:
        if len(rows) == epoch + 1:
            raise StoppedError

    return report


CELLS = [
    *cells("thesis", 1)[:3],
    *select(cells("time", 1), ["adam", "InfoBatch", "SelectiveBackprop"]),
    *select(cells("ablation", 1), ["noisy_10", "AS_one_bin", "gopal"]),
]


@pytest.mark.parametrize("cell", [Cell(**{**vars(cell), "batch_size": 20}) for cell in CELLS], ids=lambda c: c.name)
def test_with_every_kind_of_arm_a_resumed_training_has_the_rows_of_the_uninterrupted_one(cell: Cell, tmp_path: Path):
    whole = train(cell, 3, tmp_path / "whole.ckpt", "cpu", ignore)
    assert [row["epoch"] for row in whole] == ["0", "1", "2", "3"]
    with pytest.raises(StoppedError):
        train(cell, 3, tmp_path / "it.ckpt", "cpu", stop_at(2))
    reported: list[list[Row]] = []
    torch.rand(7)  # the random state of another process
    rest = train(cell, 3, tmp_path / "it.ckpt", "cpu", lambda rows: reported.append(list(rows)))
    assert [len(rows) for rows in reported] == [3, 4]
    assert without_seconds(rest) == without_seconds(whole)
    seconds = [float(row["seconds"]) for row in rest]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0 < seconds[1] < seconds[2]


def test_a_training_that_only_had_to_end_has_its_rows(tmp_path: Path):
    cell = cells("thesis", 1)[0]
    path = tmp_path / "it.ckpt"
    whole = train(cell, 2, path, "cpu", ignore)
    assert train(cell, 2, path, "cpu", stop_at(2)) == whole


def test_a_checkpoint_is_whole_whenever_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell, path = cells("thesis", 1)[0], tmp_path / "it.ckpt"
    with pytest.raises(StoppedError):
        train(cell, 3, path, "cpu", stop_at(2))
    shutil.copy(path, tmp_path / "copy.ckpt")

    def cut_short(trainer: Any, to: Path) -> None:
        Path(to).write_bytes(path.read_bytes()[:1000])
        raise StoppedError

    monkeypatch.setattr("thesis.training.Trainer.save_checkpoint", cut_short)
    with pytest.raises(StoppedError):
        train(cell, 3, path, "cpu", ignore)
    assert path.read_bytes() == (tmp_path / "copy.ckpt").read_bytes()


def test_the_seed_is_the_cells_and_the_data_and_the_first_parameters_are_the_same_for_all_arms(tmp_path: Path):
    first = [train(cell, 1, tmp_path / cell.name, "cpu", ignore) for cell in cells("thesis", 2)[:2]]
    assert first[0][0]["training_cost_mean"] == first[1][0]["training_cost_mean"]
    other = train(cells("thesis", 2)[18], 1, tmp_path / "other", "cpu", ignore)
    assert other[0]["training_cost_mean"] != first[0][0]["training_cost_mean"]
