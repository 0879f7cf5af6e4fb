import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import BatchSelector, Scores, Selection
from tests.helpers.statistics import double
from tests.helpers.strategies import as_drawn, started


class Last(BatchSelector):
    reads = frozenset({"losses", "bounds"})
    samples_by_loss = True
    any_device = True

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.learned: list[tuple[list[int], list[float], list[float]]] = []

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return self._drawn_uniformly(torch.randint(len(self.bins), (size,), generator=generator))

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        assert scores.losses is not None
        return Selection(self._known(scores.losses).argsort()[:size])

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.learned.append((draw.indices.tolist(), losses.tolist(), bounds.tolist()))

    def state_dict(self) -> dict[str, Any]:
        return {"learned": list(self.learned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learned = list(state["learned"])


def test_what_is_not_finite_is_left_out_and_counted_with_one_warning(caplog: pytest.LogCaptureFixture):
    strategy = started(Last(), 5)
    draw = as_drawn(strategy, [3, 1, 0, 2])
    with caplog.at_level(logging.WARNING):
        strategy.update(draw, double(1.0, math.nan, 1e300, 2.0), double(4.0, 1.0, 1.0, math.inf))
        strategy.update(draw, double(1.0, 2.0, 3.0, 4.0), double(0.0, 0.0, 0.0, math.inf))
        strategy.update(draw, double(0.0, 2.0, 3.0, 4.0), double(0.0, 1.0, 2.0, 3.0))
    assert strategy.learned == [
        ([3, 0], [1.0, 1e100], [4.0, 1.0]),
        ([3, 1, 0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([3, 1, 0, 2], [0.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]),
    ]
    assert strategy.skipped == 3
    (record,) = caplog.records
    assert "2 losses are not finite" in record.getMessage()
    with pytest.raises(ValueError, match=r"`losses` must not be negative to sample by them, got -0\.5: .*OnlineBatch"):
        strategy.update(draw, double(1.0, -0.5, 1.0, 1.0), double(1.0, 1.0, 1.0, 1.0))


@pytest.mark.usefixtures("in_torch")
def test_off_the_cpu_what_is_of_no_use_is_marked_and_counted_later():
    strategy = started(Last(), 5)
    strategy.skipped = 4
    for _ in range(2):
        losses, bounds = double(1.0, -2.0, 1e300, math.nan), double(1.0, 1.0, 1.0, 1.0)
        strategy.update(as_drawn(strategy, [3, 1, 0, 2]), losses, bounds)
        _, *told = strategy.learned[-1]
        for got, expected in zip(told, ([1.0, math.nan, 1e100, math.nan], [1.0, math.nan, 1.0, math.nan]), strict=True):
            torch.testing.assert_close(double(*got), double(*expected), equal_nan=True)
    assert strategy.skipped == 4 + 2 * 2


def test_on_a_copy_of_its_bins_it_goes_on_and_on_others_it_begins_anew():
    with pytest.raises(RuntimeError, match=r"Last has no bins before it is started: call `start\(bins\)`"):
        _ = Last().bins
    strategy = started(Last(), 5, 8, 4)
    strategy.keep_record(True)
    strategy.progress.step()
    strategy.record.add(torch.tensor([0, 1]), torch.full((6, 2), math.nan, dtype=torch.float64))
    strategy.keep_record(True)  # which it does
    strategy.update(as_drawn(strategy, [0, 1]), double(math.nan, 1.0), double(1.0, 1.0))
    moved = copy.copy(strategy.bins)
    for bins in (strategy.bins, moved, moved):
        strategy.work_on(bins)
        assert strategy.bins is bins
        assert (strategy.skipped, strategy.progress.done, strategy.progress.total) == (1, 1, 8)
        assert strategy.record is not None
        assert strategy.record.batches == 1
        assert len(strategy.learned) == 1
    strategy.work_on(Bins([0, 0, 1, 1, 1]))
    assert (strategy.skipped, strategy.progress.done, strategy.learned) == (0, 0, [])
    assert strategy.record.batches == 0
    strategy.keep_record(False)
    assert strategy.record is None
