import math
from pathlib import Path

import pytest

from lightning_as.comparison.results import Results, Run
from lightning_as.comparison.trial import Trial


def a_run(seed: int = 0, rival: str = "uniform", value: float = 0.5) -> Run:
    return Run(rival, seed, "steps", Trial(12, 0.25, 0.125, {"val/accuracy": value, "val, loss": 1e-9}), "abc")


def test_a_run_is_there_for_the_next_call(tmp_path: Path):
    results = Results(tmp_path / "deep" / "er")
    for run in (a_run(), a_run(1, 'Odd, "name"')):
        results.add(run)
    again = Results(tmp_path / "deep" / "er")
    assert again.runs == results.runs == [a_run(), a_run(1, 'Odd, "name"')]
    assert again.find("abc", 1, "steps") == a_run(1, 'Odd, "name"')
    assert again.find("abc", 1, "time") is again.find("abd", 1, "steps") is again.find("abc", 2, "steps") is None
    assert a_run().seconds == 0.25 + 12 * 0.125


def test_a_run_is_found_by_its_share_but_for_what_no_clock_tells_apart(tmp_path: Path):
    half = a_run()._replace(budget="time", share=0.5)
    for run in (half, half._replace(share=0.9)):
        Results(tmp_path).add(run)
    results = Results(tmp_path)
    assert results.find("abc", 0, "time") == results.find("abc", 0, "time", 0.504) == half
    assert results.find("abc", 0, "time", 0.9) == half._replace(share=0.9)
    assert results.find("abc", 0, "time", 0.52) is None


def test_what_is_not_finite_comes_back(tmp_path: Path):
    Results(tmp_path).add(a_run(value=math.nan))
    assert math.isnan(Results(tmp_path).runs[0].trial.metrics["val/accuracy"])


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_is_whole(tmp_path: Path):
    for seed in range(2):
        Results(tmp_path).add(a_run(seed))
    path = tmp_path / "results.csv"
    path.write_text(path.read_text()[:-30])
    Results(tmp_path).add(a_run(2))
    assert [run.seed for run in Results(tmp_path).runs] == [0, 2]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"`out` is '.*file.*', which cannot be written \(.*\): give another"):
            Results(folder)
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"results.csv has other columns than rival, .*: give another folder, `out`"):
        Results(tmp_path)
