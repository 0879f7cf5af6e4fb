import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from thesis import study, training
from thesis.grid import cells
from thesis.results import Cell
from thesis.study import Study, duration, seconds_left

TWO = ("64", "adam", "AS", "uniform")
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results"


def arms(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Seed and arm of each training, in the order of the file."""
    return list(dict.fromkeys((row["seed"], row["arm"]) for row in rows))


def test_cells_are_trained_once_in_order_and_the_grid_may_grow(make_study: Any, rows: Any, tmp_path: Path, capsys: Any):
    assert make_study(*TWO).run() == {}
    before = rows()
    assert [(row["arm"], row["epoch"]) for row in before] == [(a, str(e)) for a in ("uniform", "AS") for e in range(4)]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "thesis: 0 of 2 trainings done, 2 left"
    assert said[1].startswith("  thesis-uniform-adam_64-full-seed0: epoch 1 of 3, training cost ")
    assert said[-1] == "thesis: 2 of 2 trainings done, 0 left"
    assert list((tmp_path / "study" / "checkpoints").iterdir()) == []
    make_study("64", "adam", "AS", seeds=2).run()
    make_study(*TWO, "OBS").run()
    said = capsys.readouterr().out
    assert "thesis: 1 of 2 trainings done, 1 left, about " in said
    assert [name for name in ("AS", "uniform", "OBS") if f"{name}-adam_64-full-seed0: epoch" in said] == ["OBS"]
    assert arms(rows()) == [("0", "uniform"), ("0", "AS"), ("0", "OBS"), ("1", "AS")]
    assert rows()[:8] == before


def test_what_fails_is_tried_once_by_all_processes_together(make_study: Any, monkeypatch: Any, capsys: Any):
    tried: list[str] = []

    def train(cell: Cell, *rest: Any) -> Any:
        tried.append(cell.arm)
        if len(tried) == 1:
            make_study(*TWO).run()
        raise RuntimeError("no such distribution")

    monkeypatch.setattr(study, "train", train)
    failed = {f"thesis-{arm}-adam_64-full-seed0": "RuntimeError: no such distribution" for arm in ("uniform", "AS")}
    assert make_study(*TWO).run() == failed
    assert tried == ["uniform", "AS"]
    assert capsys.readouterr().out.endswith("thesis: 0 of 2 trainings done, 2 failed, 0 left\n")
    assert make_study(*TWO).run() == failed
    assert tried == ["uniform", "AS"] * 2


def test_started_again_after_an_exception_it_is_the_uninterrupted_one(make_study: Any, rows: Any, monkeypatch: Any):
    real, calls = training.measure, 0

    def measure(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 5):
            raise RuntimeError("something broke")
        return {**real(*arguments), "test_cost": float("nan")}  # which is a result

    monkeypatch.setattr(training, "measure", measure)
    said = list(make_study(*TWO).run().values())
    assert len(said) == 2
    assert all(
        re.fullmatch(r"RuntimeError: something broke( \(to begin .*, delete .*\.ckpt\))?", each) for each in said
    )
    assert make_study(*TWO).run() == {}
    calls = 100
    make_study(*TWO, folder="whole").run()
    assert rows() == rows("whole")
    assert {row["test_cost"] for row in rows()} == {"nan"}


def test_a_cell_whose_lock_another_process_holds_is_left_to_it(make_study: Any, rows: Any, tmp_path: Path, capsys: Any):
    one = make_study(*TWO, epochs=1)
    with FileLock(tmp_path / "study" / "checkpoints" / "thesis-AS-adam_64-full-seed0.lock"):
        one.run()
        assert "1 are with other processes" in capsys.readouterr().out
        assert arms(rows()) == [("0", "uniform")]
    one.run()
    assert arms(rows()) == [("0", "uniform"), ("0", "AS")]


def test_what_another_process_did_between_look_and_lock_is_not_done_again(make_study: Any, rows: Any, monkeypatch: Any):
    one, other = (make_study("64", "adam", "AS", epochs=1) for _ in range(2))
    real = FileLock.acquire

    def acquire(self: Any, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(FileLock, "acquire", real)
        other.run()
        monkeypatch.setattr(study, "train", lambda *_: pytest.fail("It was done twice."))
        return real(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert one.run() == {}
    assert len(rows()) == 2


@pytest.mark.parametrize("files", [["epochs.csv", "protocol.json"], ["epochs.csv"]])
def test_what_was_published_is_gone_on_with_by_its_csv_alone(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # some of it is of a GPU
    for published in PUBLISHED.glob("*/protocol.json"):
        protocol, folder = json.loads(published.read_text()), tmp_path / published.parent.name
        folder.mkdir()
        for file in files:
            shutil.copy(published.with_name(file), folder)
        found = Study(cells(protocol["experiment"], 2), protocol["epochs"], folder, protocol["device"])
        done, text = found._record(), published.with_name("epochs.csv").read_text()
        assert len(done) * (protocol["epochs"] + 1) == len(text.splitlines()) - 1
        assert not done.keys() & set(found._due(done))
        assert json.loads((folder / "protocol.json").read_text()) == protocol
        assert (folder / "epochs.csv").read_text() == text


@pytest.mark.parametrize(
    ("damaged", "options", "message"),
    [
        ("", {"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ("", {"epochs": 2}, "has `epochs` 1, but here it is 2: give the same, or another `folder`"),
        ("", {"device": "cuda"}, "`device` is 'cuda', but torch finds no GPU: give 'auto' or 'cpu'"),
        ("", {"device": "auto"}, "has `device` cpu, but here it is cuda: give the same"),
        ("protocol.json", {"study": "weights"}, "has `experiment` thesis, but here it is weights"),
        ("protocol.json", {"epochs": 2}, "has `epochs` 1, but here it is 2"),
        ("protocol.json", {"device": "auto"}, "has no protocol.json beside it.*give `device`"),
        ("", {"version": 2}, "has `version` 1, but here it is 2"),
        ("arm", {}, "has thesis-gone-adam_64-full-seed0, which is no cell of the study"),
        ("epochs.csv", {}, "has the study.db of an earlier version and no epochs.csv"),
        ("", {"folder": "study/epochs.csv/below"}, r"`folder` .*below cannot be written \(.*: give another one"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(damaged, options, message, make_study, tmp_path, monkeypatch):
    folder, record = tmp_path / "study", tmp_path / "study" / "epochs.csv"
    make_study("64", "adam", "AS", epochs=1).run()
    (folder / "study.db").touch()
    if damaged == "arm":
        record.write_text(record.read_text().replace(",AS,", ",gone,"))
    elif damaged:
        (folder / damaged).unlink()
    before = record.read_bytes() if record.exists() else None
    asked = {"study": "thesis", "epochs": 1, "device": "cpu", "folder": "study", "version": 1, **options}
    monkeypatch.setattr("torch.cuda.is_available", lambda: asked["device"] == "auto")
    monkeypatch.setattr(study, "PROTOCOL", asked["version"])
    with pytest.raises(ValueError, match=message):
        Study(cells(asked["study"], 1), asked["epochs"], tmp_path / asked["folder"], asked["device"])
    assert before == (record.read_bytes() if record.exists() else None)


def test_the_time_left_goes_by_the_most_similar_cells_that_are_known():
    names = [*[("AS", 64)] * 3, ("OBS", 64), ("AS", 256), ("uniform", 64), ("uniform", 1024)]
    made = [cells("thesis", 1)[0]._replace(arm=a, batch_size=b, seed=seed) for seed, (a, b) in enumerate(names)]
    known = dict(zip(made, (10.0, 30.0, 12.0, 40.0, 3.0), strict=False))
    # Its own arm and batch size; the same; the median of those with its batch size, and of all.
    assert [seconds_left([made[at]], known) for at in (0, 3, 5, 6)] == [12, 40, 21, 12]
    assert seconds_left([made[4], made[3]], known) == 43
    assert seconds_left(made, {}) is None
    said = {0.4: "0 s", 29: "29 s", 31: "1 min", 3570: "1 h 00 min", 7500: "2 h 05 min"}
    assert {seconds: duration(seconds) for seconds in said} == said
