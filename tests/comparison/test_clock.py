from array import array
from typing import Any
from unittest.mock import Mock

import pytest

from lightning_as.comparison import clock
from lightning_as.comparison.clock import Clock, step_seconds

NOTHING: Any = None


def a_trainer(device: str = "cuda", num_workers: int = 0) -> Any:
    return Mock(**{"strategy.root_device.type": device, "train_dataloader.num_workers": num_workers})


class Time:
    """Stands still, but where it is told to pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(clock.time, "process_time", lambda: self.now / 2)


def test_a_step_is_all_but_validation(monkeypatch: pytest.MonkeyPatch):
    time, called = Time(monkeypatch), []
    watch = Clock(lambda: called.append(1))
    watch.on_validation_end(NOTHING, NOTHING)  # the check before training
    watch.beginning.on_train_start(a_trainer(), NOTHING)
    time.now += 7.0
    for step in range(6):
        time.now += 0.0 if step == 0 else 2.0  # loading
        watch.on_train_batch_start(NOTHING, NOTHING, NOTHING, step)
        time.now += 3.0
        watch.on_train_batch_end(NOTHING, NOTHING, NOTHING, NOTHING, step)
        if step in (1, 3):
            time.now += 50.0
            watch.on_validation_end(NOTHING, NOTHING)
            time.now += 11.0
            watch.on_validation_end(NOTHING, NOTHING)
    assert (watch.start_seconds, watch.steps, len(called)) == (7.0, 6, 6)
    assert watch.step_seconds() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("device", "threads", "num_workers", "seconds"),
    [("cpu", 1, 0, 1.5), ("cpu", 2, 0, 3.0), ("cpu", 1, 2, 3.0), ("cuda", 1, 0, 3.0)],
)
def test_the_processors_time_counts_where_one_thread_does_all(
    monkeypatch: pytest.MonkeyPatch, device: str, threads: int, num_workers: int, seconds: float
):
    time, watch = Time(monkeypatch), Clock()
    monkeypatch.setattr(clock.torch, "get_num_threads", lambda: threads)
    watch.beginning.on_train_start(a_trainer(device, num_workers), NOTHING)
    watch.on_train_batch_start(NOTHING, NOTHING, NOTHING, 0)
    time.now += 3.0
    watch.on_train_batch_end(NOTHING, NOTHING, NOTHING, NOTHING, 0)
    assert watch.step_seconds() == seconds


def marks(steps: list[float]) -> array:
    return array("d", [sum(steps[: at + 1]) for at in range(len(steps))])


def test_the_time_of_a_step_ignores_disturbances_and_counts_what_comes_in_each_epoch():
    quiet = [1.0] * 110
    assert step_seconds(marks(quiet)) == pytest.approx(1.0)
    assert step_seconds(marks([30.0] * 10 + quiet[10:])) == pytest.approx(1.0)  # kernels are chosen
    assert step_seconds(marks([*quiet[:60], 500.0, *quiet[60:]])) == pytest.approx(1.0)
    scoring_at_each_tenth = [6.0 if at % 10 == 5 else 1.0 for at in range(110)]
    assert step_seconds(marks(scoring_at_each_tenth)) == pytest.approx(1.5, abs=0.25)
    assert step_seconds(marks([4.0])) == 4.0
    assert step_seconds(marks([4.0, 2.0])) == 2.0
