import torch

from lightning_as.report.series import LENGTH, Series
from tests.helpers.statistics import double


def noted(count: int, series: Series | None = None, first: int = 1) -> Series:
    series = Series() if series is None else series
    for at in range(first, first + count):
        series.note(at, {"ess": at / 1000, "loss": 2.0 * at, "skipped": 3.0}, lambda at=at: double(at, 1))
    return series


def test_it_keeps_what_was_noted():
    series = noted(3)
    assert series.at == [1, 2, 3]
    assert series.figure("ess") == [0.001, 0.002, 0.003]
    assert all(value != value for value in series.figure("gain"))
    assert series.bins().tolist() == [[1, 1], [2, 1], [3, 1]]
    assert series.last == {"ess": 0.003, "loss": 6.0}


def test_a_long_fit_has_few_points_evenly_spread_and_few_looks():
    series, looks = Series(), list[int]()
    for at in range(1, 10_001):
        series.note(at, {"ess": at}, lambda at=at: (looks.append(at), double(1))[1])
    assert LENGTH // 2 <= len(series.at) <= LENGTH
    assert {late - early for early, late in zip(series.at, series.at[1:], strict=False)} == {series.at[1] - 1}
    assert series.figure("ess") == series.at
    assert series.last == {"ess": 10_000}
    assert len(looks) < 10 * LENGTH


def test_it_goes_on_where_it_was_and_begins_anew_with_a_training():
    whole = noted(3 * LENGTH)
    resumed = Series()
    resumed.load_state_dict(noted(2 * LENGTH + 1).state_dict())
    noted(LENGTH - 1, resumed, first=2 * LENGTH + 2)
    assert resumed.at == whole.at
    assert resumed.figure("loss") == whole.figure("loss")
    assert torch.equal(resumed.bins(), whole.bins())
    assert resumed.last == whole.last
    assert noted(2, resumed).at == [1, 2]


def test_what_is_noted_twice_counts_once_and_what_is_not_said_then_stays():
    series = noted(3)
    series.note(3, {"ess": 9.0}, lambda: double(9, 9))
    assert series.figure("ess")[-1] == 0.003
    series.note(4, {}, lambda: double(4, 1))
    assert series.at == [1, 2, 3, 4]
    assert series.figure("ess")[-1] != series.figure("ess")[-1]
    assert series.last == {"ess": 0.003, "loss": 6.0}
    series.note(5, {"ess": 0.5, "loss": float("nan")}, lambda: double(4, 1))
    assert series.last == {"ess": 0.5}


def test_other_bins_begin_anew():
    series = noted(3)
    series.note(4, {"ess": 0.5}, lambda: double(1, 1, 1))
    assert series.bins().tolist() == [[1, 1, 1]]
    assert series.figure("ess") == [0.5]


def test_before_anything_was_noted_there_is_nothing():
    series = Series()
    series.load_state_dict(Series().state_dict())
    assert (series.at, series.figure("gain"), series.last) == ([], [], {})
    assert len(series.bins()) == 0
