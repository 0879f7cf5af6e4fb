from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins
from lightning_as.core import level_distribution as module
from lightning_as.core.level_distribution import LevelDistribution
from lightning_as.core.levels import LEVELS
from lightning_as.core.points import Points
from tests.helpers.looking import no_looking
from tests.helpers.statistics import double, p_value, saved, seeded

SIZE = 1000


def weigh(counts: Tensor) -> Tensor:
    """Any weights that depend on all counts."""
    return 1 + torch.arange(LEVELS, dtype=torch.float64) % 5 + counts.cumsum(0) / counts.sum()


def made(*, even: bool = False, floor: float = 0.1, size: int = SIZE) -> tuple[LevelDistribution, Bins, Tensor]:
    bins = Bins(torch.arange(size) ** 2 % 7 % 3)
    sizes = double(*bins.sizes)
    p = sizes / sizes.sum() if even else double(0.5, 0.2, 0.3)
    return LevelDistribution(bins, p, floor), bins, p


def some_levels(seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randint(1, 40, (size,), generator=seeded(seed)).short()


def expected(bins: Bins, p: Tensor, floor: float, levels: Tensor) -> Tensor:
    """r, instance by instance."""
    weights = weigh(torch.bincount(levels.long(), minlength=LEVELS)).tolist()
    w, tags = [weights[level] for level in levels.tolist()], bins.tags.tolist()
    sums = [sum(w[i] for i in range(len(w)) if tags[i] == j) for j in range(len(p))]
    return double(*((1 - floor) * float(p[tags[i]]) * w[i] / sums[tags[i]] + floor / len(w) for i in range(len(w))))


def gone_over(distribution: LevelDistribution, levels: Tensor) -> LevelDistribution:
    distribution.begin(flat=False)
    distribution.advance(64, levels, weigh)
    return distribution


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices of 128 instances in a step."""
    monkeypatch.setattr(module, "SLICE", 128)
    monkeypatch.setattr(module, "AT_ONCE", 0)
    monkeypatch.setattr(module, "_PER_DRAW", 6)  # of 64


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_distribution_is_that_of_the_formula(even: bool, floor: float):
    distribution, bins, p = made(even=even, floor=floor)
    levels = some_levels()
    ones = (1 - floor) * (p / double(*bins.sizes))[bins.tags.long()] + floor / SIZE
    for r in (ones, expected(bins, p, floor, levels), ones):
        torch.testing.assert_close(distribution.probabilities(), r, rtol=1e-12, atol=0)
        assert float(distribution.effective_size) == pytest.approx(float(1 / r.square().sum()), rel=1e-12)
        sums = torch.zeros(3, dtype=torch.float64).index_add_(0, bins.tags.long(), r)
        torch.testing.assert_close(distribution.bin_probabilities, sums)
        ends = distribution.ends_at(torch.arange(SIZE))
        torch.testing.assert_close(ends, r.cumsum(0), rtol=1e-12, atol=0)
        assert float(ends[-1]) == 1
        if distribution.flat:
            gone_over(distribution, levels)
        else:
            distribution.flatten()


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("size", [1, 63, 64, 65, SIZE])
def test_a_point_is_of_the_instance_in_whose_part_it_lies(size: int):
    for even in (True, False) if size > 10 else (True,):
        distribution = made(even=even, size=size)[0] if size > 10 else LevelDistribution(Bins.single(1), double(1), 0.1)
        for _ in range(2):
            ends = distribution.ends_at(torch.arange(size))
            starts = torch.cat([double(0), ends[:-1]])
            below = torch.nextafter(ends, double(0))
            for points in (starts, (starts + ends) / 2, below):
                draw = distribution.draw(points)
                assert draw.indices.tolist() == list(range(size))
                assert draw.bins.tolist() == distribution._bins.tags.tolist()
                torch.testing.assert_close(draw.probabilities, distribution.probabilities(), rtol=1e-15, atol=0)
            gone_over(distribution, some_levels(size=size))


@pytest.mark.usefixtures("execution")
def test_draws_are_of_the_distribution():
    distribution = gone_over(made()[0], some_levels())
    drawn = distribution.draw(Points(SIZE, "independent").take(100_000, seeded())).indices
    assert p_value(drawn, distribution.probabilities()) > 1e-3


def test_a_pass_of_strata_is_a_permutation_while_all_weights_are_one():
    distribution, points = made(even=True)[0], Points(SIZE)
    drawn = torch.cat([distribution.draw(points.take(50, seeded())).indices for _ in range(20)])
    assert torch.equal(drawn.sort().values, torch.arange(SIZE))


@pytest.mark.usefixtures("slowly")
def test_slowly_nothing_changes_until_all_is_ready_and_each_instance_counts_as_it_was_when_its_turn_came():
    distribution, bins, p = made()
    levels, before, copied = some_levels(), distribution.probabilities(), torch.zeros(SIZE).short()
    distribution.begin(flat=False)
    steps = 0
    while distribution.busy:
        start = 3 * 128 * steps
        copied[start : start + 3 * 128] = levels[start : start + 3 * 128]
        assert torch.equal(distribution.probabilities(), before)
        assert not distribution.flat
        distribution.advance(64, levels, weigh)
        levels = some_levels(seed=steps + 1) + LEVELS  # with a bit that does not count
        steps += 1
    assert steps == 8  # three times eight slices
    torch.testing.assert_close(
        distribution.probabilities(), expected(bins, p, 0.1, copied % LEVELS), rtol=1e-12, atol=0
    )
    distribution.begin(flat=True)
    assert distribution.flat
    while distribution.busy:
        distribution.advance(64, levels, weigh)
    assert torch.equal(distribution.probabilities(), before)


def test_a_step_does_no_more_than_in_proportion_to_its_batch_and_all_is_done_in_half_an_eighth_of_a_pass(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "SLICE", 64)
    monkeypatch.setattr(module, "AT_ONCE", 999)
    distribution, parts = made()[0], []
    monkeypatch.setattr(
        distribution, "_prepare", lambda *a: (parts.append(1), LevelDistribution._prepare(distribution, *a))
    )
    distribution.begin(flat=False)
    steps = 0
    while distribution.busy:
        parts.clear()
        distribution.advance(4, some_levels(), weigh)
        assert len(parts) == 3  # of 64 instances each: 48 for each draw
        steps += 1
    assert steps == 16  # 3 · 16 slices
    assert steps * 4 <= 64 + SIZE / 16


@pytest.mark.usefixtures("slowly", "execution")
@pytest.mark.parametrize("flat_next", [False, True])
def test_it_goes_on_from_a_state_to_the_bit_wherever_it_is(flat_next: bool):
    def heavier(counts: Tensor) -> Tensor:
        return weigh(counts).square()

    def stepped(distribution: LevelDistribution, step: int) -> tuple[Tensor, ...]:
        distribution.advance(64, some_levels(seed=step), heavier)
        draw = distribution.draw(torch.rand(20, dtype=torch.float64, generator=seeded(step)))
        every = torch.arange(SIZE)
        return draw.indices, draw.probabilities, distribution.effective_size, distribution.ends_at(every)

    whole = made()[0]
    whole.begin(flat=False)
    while whole.busy:
        whole.advance(64, some_levels(), weigh)
    whole.begin(flat=flat_next)
    states, seen = [], []
    for step in range(12):
        states.append((saved(whole.state_dict()), weigh if whole.busy else heavier))
        seen.append(stepped(whole, step))
    for start, (state, present) in enumerate(states):
        resumed = gone_over(made()[0], some_levels(seed=99))
        resumed.load_state_dict(state, present, heavier)
        for step in range(start, 12):
            for found, exact in zip(stepped(resumed, step), seen[step], strict=True):
                assert torch.equal(found, exact)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stage", 4), ("at", 1), ("levels", torch.zeros(0).short()), ("next", torch.zeros(SIZE).short())],
)
def test_a_damaged_state_is_refused(name: str, value: Any):
    state = gone_over(made()[0], some_levels()).state_dict()
    with pytest.raises(ValueError, match="damaged"):
        made()[0].load_state_dict(state | {name: value}, weigh, weigh)


def test_off_the_cpu_no_number_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    distribution, points = made()[0], torch.rand(30, dtype=torch.float64)
    distribution.begin(flat=False)
    with no_looking():
        distribution.advance(30, some_levels(), weigh)
        distribution.draw(points)
        distribution.begin(flat=True)
        distribution.advance(30, some_levels(), weigh)
        distribution.draw(points)
