from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from lightning_as import Uniform
from thesis import grid, measurements, study
from thesis.grid import Arm
from thesis.storage import NAME, open_study, parameters
from thesis.study import Study

MakeStudy = Callable[..., Study]
Rows = Callable[..., list[dict[str, str]]]
TWO = ("64", "adam", "AS", "uniform")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder / 'study.db'}").trials


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials(folder)]


def broken(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring fails after so many times."""
    real, calls = measurements.measure, 0

    def measure(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise RuntimeError("something broke")
        return real(*arguments)

    monkeypatch.setattr(measurements, "measure", measure)


def test_a_study_trains_its_cells_in_order_and_writes_them(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, capsys: Any
):
    assert make_study(*TWO).run() == {}
    found = rows()
    assert [(row["arm"], row["epoch"]) for row in found] == [(a, str(e)) for a in ("uniform", "AS") for e in range(4)]
    assert {(row["optimizer"], row["batch_size"], row["data"], row["seed"]) for row in found} == {
        ("adam", "64", "full", "0")
    }
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "thesis: 0 of 2 trainings done, 2 left"
    assert said[1].startswith("  thesis-uniform-adam_64-full-seed0: epoch 1 of 3, training cost ")
    assert said[4].startswith("thesis: 1 of 2 trainings done, 1 left, about ")
    assert said[-1] == "thesis: 2 of 2 trainings done, 0 left"
    assert list((tmp_path / "study" / "checkpoints").iterdir()) == []
    first, second = trials(tmp_path / "study")
    assert first.params == {"arm": "uniform", "optimizer": "adam", "batch_size": 64, "data": "full", "seed": 0}
    assert f"{second.value:.6g}" == found[-1]["training_cost_mean"]
    assert list(second.intermediate_values) == [1, 2, 3]


def test_a_finished_cell_is_not_repeated_and_the_grid_may_grow(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, capsys: Any
):
    make_study(*TWO, epochs=1).run()
    before = rows()
    make_study(*TWO, epochs=1, seeds=2).run()
    make_study(*TWO, "OBS", epochs=1, seeds=1).run()
    assert Counter(trial.user_attrs["cell"] for trial in trials(tmp_path / "study")) == {
        f"thesis-{arm}-adam_64-full-seed{seed}": 1
        for arm, seed in [("uniform", 0), ("AS", 0), ("uniform", 1), ("AS", 1), ("OBS", 0)]
    }
    assert [(row["seed"], row["arm"]) for row in rows()[::2]] == [
        ("0", "uniform"),
        ("0", "AS"),
        ("0", "OBS"),
        ("1", "uniform"),
        ("1", "AS"),
    ]
    assert rows()[:4] == before


def test_a_failed_cell_is_recorded_the_others_go_on_and_it_is_tried_again(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def fail() -> Uniform:
        raise RuntimeError("no such law")

    with monkeypatch.context() as patch:
        patch.setitem(grid.ARMS, "uniform", Arm(fail))
        assert make_study(*TWO).run() == {"thesis-uniform-adam_64-full-seed0": "RuntimeError: no such law"}
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE"]
    assert {row["arm"] for row in rows()} == {"AS"}
    assert "thesis: 1 of 2 trainings done, 1 failed, 0 left" in capsys.readouterr().out
    assert make_study(*TWO).run() == {}
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [row["arm"] for row in rows()] == ["uniform"] * 4 + ["AS"] * 4


@pytest.mark.parametrize("after", [0, 1, 2, 3, 6])
def test_started_again_after_an_exception_a_study_is_the_uninterrupted_one(
    after: int, make_study: MakeStudy, rows: Rows, monkeypatch: pytest.MonkeyPatch
):
    make_study(*TWO, folder="whole").run()
    with monkeypatch.context() as patch:
        broken(after, patch)
        failed = make_study(*TWO).run()
    assert set(failed.values()) == {"RuntimeError: something broke"}
    assert len(failed) == (2 if after < 4 else 1)
    make_study(*TWO).run()
    assert rows() == rows("whole")


def test_the_rows_are_in_the_trial_after_each_epoch(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken(3, monkeypatch)
    make_study("64", "adam", "AS").run()
    (trial,) = trials(tmp_path / "study")
    assert [row["epoch"] for row in trial.user_attrs["rows"]] == ["0", "1", "2"]


def test_a_cost_that_is_not_a_number_is_a_result(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = measurements.measure
    monkeypatch.setattr(measurements, "measure", lambda *of: {**real(*of), "training_cost_mean": float("nan")})
    assert make_study("64", "adam", "AS", epochs=1).run() == {}
    assert [row["training_cost_mean"] for row in rows()] == ["nan", "nan"]
    assert trials(tmp_path / "study")[0].value == float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"epochs": 2}, "has `epochs` 1, but here it is 2: give the same, or another `folder`"),
        ({"device": "cuda"}, "`device` is 'cuda', but torch finds no GPU: give 'auto' or 'cpu'"),
    ],
)
def test_another_protocol_is_refused_before_the_first_training(
    options: dict[str, Any], message: str, make_study: MakeStudy, tmp_path: Path
):
    make_study("64", "adam", "AS", epochs=1).run()
    with pytest.raises(ValueError, match=message):
        make_study(*TWO, **options)
    assert len(trials(tmp_path / "study")) == 1


def test_another_storage_does_not_overwrite_the_results_of_a_folder(make_study: MakeStudy, rows: Rows, tmp_path: Path):
    make_study("64", "adam", "AS", epochs=1).run()
    for options in ({"epochs": 2}, {"epochs": 1, "device": "cuda"}):
        with pytest.raises(ValueError, match="give"):
            make_study("64", "adam", "AS", **options, storage=f"sqlite:///{tmp_path / 'another.db'}").run()
    assert len(rows()) == 2


def test_a_study_of_a_cpu_is_not_gone_on_with_on_a_gpu(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch):
    make_study("64", "adam", "AS", epochs=1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ValueError, match="has `device` cpu, but here it is cuda: give the same"):
        make_study("64", "adam", "AS", epochs=1, device="auto")


def test_another_experiment_is_refused_with_both_names(make_study: MakeStudy, tmp_path: Path):
    make_study(*TWO)
    with pytest.raises(ValueError, match="has `experiment` thesis, but here it is weights"):
        Study(grid.cells("weights", 1), 3, tmp_path / "study")


def test_a_protocol_that_another_process_wrote_at_the_same_moment_is_found(make_study: MakeStudy, tmp_path: Path):
    late = make_study(*TWO)
    opened = open_study(f"sqlite:///{tmp_path / 'study' / 'study.db'}")
    opened.set_user_attr("protocol", {**opened.user_attrs["protocol"], "epochs": 50})
    with pytest.raises(ValueError, match="has `epochs` 50, but here it is 3"):
        late.run()
    assert trials(tmp_path / "study") == []


def enqueue(folder: Path, name: str = "thesis-AS-adam_64-full-seed0") -> optuna.Study:
    """What another process does when it begins a cell."""
    opened = open_study(f"sqlite:///{folder / 'study.db'}")
    (cell,) = (cell for cell in grid.cells("thesis", 1) if cell.name == name)
    opened.enqueue_trial(parameters(cell), user_attrs={"cell": name})
    return opened


def test_of_two_trials_of_a_cell_the_later_one_gives_way(make_study: MakeStudy, rows: Rows, tmp_path: Path):
    one = make_study("64", "adam", "AS", epochs=1)
    enqueue(tmp_path / "study")
    enqueue(tmp_path / "study")
    one.run()
    assert states(tmp_path / "study") == ["COMPLETE", "PRUNED"]
    assert len(rows()) == 2


def test_a_trial_that_another_process_snatched_leaves_one_without_a_cell_which_is_given_up(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one, real = make_study("64", "adam", "AS", epochs=1), optuna.Study.ask
    taken: list[Any] = []

    def ask(self: optuna.Study, *arguments: Any) -> Any:
        if not taken:
            taken.append(real(self))  # the other process is quicker
        return real(self, *arguments)

    monkeypatch.setattr(optuna.Study, "ask", ask)
    one.run()
    assert states(tmp_path / "study") == ["RUNNING", "PRUNED"]
    assert rows() == []


def test_a_cell_whose_lock_another_process_holds_is_left_to_it(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(study, "_PATIENCE", 0.1)
    one = make_study(*TWO, epochs=1)
    with FileLock(tmp_path / "study" / "checkpoints" / "thesis-AS-adam_64-full-seed0.lock"):
        one.run()
    assert states(tmp_path / "study") == ["COMPLETE", "PRUNED"]
    assert {row["arm"] for row in rows()} == {"uniform"}


def running(folder: Path, place: str | None) -> optuna.Study:
    """The trial of a process that has died, or of one at another place."""
    opened = enqueue(folder)
    trial = opened.ask()
    if place is not None:
        trial.set_user_attr("place", place)
    return opened


def test_a_trial_of_this_place_whose_lock_is_free_is_gone_on_with(make_study: MakeStudy, rows: Rows, tmp_path: Path):
    one = make_study("64", "adam", "AS", epochs=1)
    running(tmp_path / "study", one._place)
    one.run()
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE"]


def test_a_trial_of_another_place_is_left_alone_until_its_heart_stops(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    for name in ("_HEARTBEAT", "GRACE"):
        monkeypatch.setattr(f"thesis.storage.{name}", 1)
    one = make_study("64", "adam", "AS", epochs=1)
    opened = running(tmp_path / "study", "elsewhere:/folder")
    storage: Any = opened._storage
    storage.record_heartbeat(opened.trials[0]._trial_id)
    one.run()
    assert states(tmp_path / "study") == ["RUNNING"]
    assert "1 are with other processes" in capsys.readouterr().out
    time.sleep(2.5)  # the database counts whole seconds
    one.run()
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE"]
    assert len(rows()) == 2


def test_a_trial_of_a_process_that_died_before_its_first_heartbeat_is_freed(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = make_study("64", "adam", "AS", epochs=1)
    running(tmp_path / "study", None)
    one.run()
    assert states(tmp_path / "study") == ["RUNNING"]  # it may have just begun
    monkeypatch.setattr(study, "GRACE", 0)
    one.run()
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE"]


def test_a_process_that_was_taken_for_dead_gives_way_at_the_end_of_its_epoch(
    make_study: MakeStudy, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    make_study("64", "adam", "AS", epochs=2, folder="whole").run()
    one, real, ended = make_study("64", "adam", "AS", epochs=2), measurements.measure, False

    def measure(*arguments: Any) -> Any:
        nonlocal ended
        if not ended:
            one._study.tell(0, state=TrialState.FAIL)
            ended = True
        return real(*arguments)

    monkeypatch.setattr(measurements, "measure", measure)
    assert one.run() == {}
    assert "given way to another process" in capsys.readouterr().out
    assert states(tmp_path / "study") == ["FAIL", "COMPLETE"]
    assert rows() == rows("whole")


def test_a_storage_of_its_own_url_is_used(make_study: MakeStudy, rows: Rows, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    make_study("64", "adam", "AS", epochs=1, storage=url).run()
    assert not (tmp_path / "study" / "study.db").exists()
    make_study("64", "adam", "AS", epochs=1, storage=url, folder="other").run()
    assert len(optuna.load_study(study_name=NAME, storage=RDBStorage(url)).trials) == 1
    assert rows("other") == rows()
