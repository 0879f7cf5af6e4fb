import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from lightning_as.core.record import SMOOTHING, Record
from lightning_as.core.state import check_layout
from tests.helpers.statistics import saved, seeded
from tests.helpers.tiny import differences

SIZE, BATCH = 40, 24
CPU = torch.device("cpu")


def looks(batches: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches with instances that are drawn twice, and some numbers that are not known."""
    generator, found = seeded(3), []
    for _ in range(batches):
        indices = torch.randint(SIZE - 5, (BATCH,), generator=generator)
        numbers = torch.randn(4, BATCH, dtype=torch.float64, generator=generator)
        numbers[2] = numbers[2].sigmoid()
        unknown = torch.rand(4, BATCH, generator=generator) < 0.1
        numbers[unknown] = torch.tensor([math.nan, math.inf]).repeat(BATCH * 2)[: int(unknown.sum())].double()
        labels = torch.where(torch.rand(BATCH, generator=generator) < 0.1, math.nan, (indices % 3).double())
        others = torch.randint(3, (BATCH,), generator=generator).double()
        found.append((indices, torch.cat([numbers, labels[None], others[None]])))
    return found


def _mean(values: list[float], weights: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


class Naive:
    """One instance, from the definitions: all looks at it are kept."""

    def __init__(self) -> None:
        self.drawn, self.last, self.label, self.other = 0, math.nan, math.nan, math.nan
        self.losses, self.shares, self.margins = list[float](), list[float](), list[float]()
        self.weights = list[float]()

    def row(self, batches: int) -> dict[str, float]:
        mean, variance = math.nan, math.nan
        for at, share in enumerate(self.shares):  # West's weighted mean and variance
            away = 0.0 if at == 0 else share - mean
            variance = SMOOTHING * (0.0 if at == 0 else variance + (1 - SMOOTHING) * away**2)
            mean = share if at == 0 else mean + (1 - SMOOTHING) * away
        right = [False, *(margin > 0 for margin in self.margins)]
        turns = list(pairwise(right))
        known = bool(self.margins)
        smoothed = self.losses[0] if self.losses else math.nan
        for loss in self.losses[1:]:
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
        return {
            "label": self.label,
            "drawn": self.drawn,
            "loss": self.losses[-1] if self.losses else math.nan,
            "smoothed_loss": smoothed,
            "confidence": mean,
            "variability": math.sqrt(variance) if known else math.nan,
            "margin": sum(self.margins) / len(self.margins) if known else math.nan,
            "late_margin": _mean(self.margins, self.weights) if known else math.nan,
            "other": self.other,
            "learnt": turns.count((False, True)) if known else math.nan,
            "forgotten": turns.count((True, False)) if known else math.nan,
            "age": batches - self.last,
        }


def naive(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[dict[str, float]]:
    rows = [Naive() for _ in range(SIZE)]
    for number, (indices, look) in enumerate(batches, 1):
        at = {index: place for place, index in enumerate(indices.tolist())}  # the last of each
        for index in indices.tolist():
            rows[index].drawn += 1
        for index, place in at.items():
            row = rows[index]
            row.last = number
            loss, _, share, margin, label, other = (float(part[place]) for part in look)
            row.losses += [loss] if math.isfinite(loss) else []
            row.label = label if label >= 0 else row.label
            if math.isfinite(share) and math.isfinite(margin):
                row.shares.append(share)
                row.margins.append(margin)
                row.weights.append(number**2)
                row.other = other
    return [row.row(len(batches)) for row in rows]


@pytest.mark.usefixtures("execution")
def test_it_has_what_all_looks_have_shown_and_goes_on_from_a_state():
    batches, record, resumed = looks(30), Record(SIZE, CPU), Record(SIZE, CPU)
    for number, (indices, look) in enumerate(batches):
        record.add(indices, look)
        if number == 12:
            resumed.load_state_dict(saved(record.state_dict()))
        elif number > 12:
            resumed.add(indices, look)
    columns, expected = record.columns(), naive(batches)
    for name in expected[0]:
        own = columns[name].double()
        own = own.masked_fill(own < 0, math.nan) if not columns[name].is_floating_point() else own
        oracle = torch.tensor([row[name] for row in expected], dtype=torch.float64)
        torch.testing.assert_close(own, oracle, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)
    torch.testing.assert_close(columns["share"], columns["drawn"] / (30 * BATCH))
    assert (columns["drawn"] == 0).sum() >= 5
    assert differences(resumed.state_dict(), record.state_dict()) == []
    assert differences(record.to(CPU).state_dict(), record.state_dict()) == []


@pytest.mark.usefixtures("execution")
def test_numbers_too_large_for_it_are_the_largest_and_can_be_loaded_again():
    record, largest = Record(2, CPU), torch.finfo(torch.float32).max
    for sign in (1, 1, -1):
        look = torch.tensor([[1e300], [0.0], [0.5], [sign * 6e38], [1.0], [0.0]], dtype=torch.float64)
        record.add(torch.tensor([1]), look)
    state = saved(record.state_dict())
    check_layout(state, Record(2, CPU).state_dict())
    again = Record(2, CPU)
    again.load_state_dict(state)
    found = again.columns()
    assert (float(found["loss"][1]), float(found["smoothed_loss"][1])) == (largest, largest)
    assert float(found["margin"][1]) == pytest.approx((2 * largest - 6e38) / 3, rel=1e-6)
    # The looks count by 1, 4 and 9.
    assert float(found["late_margin"][1]) == pytest.approx((5 * largest - 9 * 6e38) / 14, rel=1e-6)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [("numbers", -1.0, "negative variance"), ("counts", 99, "batches that were not")],
)
def test_a_state_that_cannot_be_is_refused(part: str, value: Any, message: str):
    record = Record(SIZE, CPU)
    state = record.state_dict()
    state[part] = torch.full_like(state[part], value)
    with pytest.raises(ValueError, match=f"damaged: .*{message}"):
        record.load_state_dict(state)
