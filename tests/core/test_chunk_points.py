from collections import Counter
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor

from lightning_as.core.chunk_order import Chunks, shares_of
from lightning_as.core.chunk_points import ChunkPoints
from tests.helpers.statistics import double, seeded

MASSES = double(0.31, 0.07, 0.22, 0.4)
ENDS = MASSES.cumsum(0) / MASSES.sum()


def some_chunks(count: int = 30, size: int = 20, width: int = 4) -> tuple[Chunks, Tensor, Tensor]:
    """Chunks, the masses of a distribution over them, and the ends of their intervals."""
    masses = torch.rand(count, dtype=torch.float64, generator=seeded(1))
    masses /= masses.sum()
    ends = masses.cumsum(0)
    return Chunks.of([size] * count, width), masses, ends / ends[-1]


def chunks_of(points: Tensor, ends: Tensor = ENDS) -> list[int]:
    return torch.searchsorted(ends, points, right=True).tolist()


def test_the_shares_are_rounded_and_without_bias_by_enumeration():
    """Over all orders of the chunks, and over all intervals of the offset in which no share changes."""
    draws = 7
    expected = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4)):
        masses = MASSES[list(order)]
        breaks = sorted({0.0, 1.0, *(1 - float(x) % 1 for x in draws * masses.cumsum(0))})
        for low, high in pairwise(breaks):
            shares = shares_of(masses, draws, (low + high) / 2)
            assert int(shares.sum()) == draws
            assert (shares - draws * masses).abs().max() < 1
            expected[list(order)] += (high - low) * shares / 24
    torch.testing.assert_close(expected, draws * MASSES)


def test_in_a_pass_each_chunk_is_opened_once_and_few_are_open_at_a_time():
    chunks, masses, ends = some_chunks()
    points, source = ChunkPoints(chunks), seeded()
    for _ in range(3):
        drawn, seen = [], []
        for _ in range(60):
            drawn += chunks_of(points.take(10, source, ends), ends)
            seen.append(set(drawn[-10:]) | set(points.order.open(0)))
        counts = Counter(drawn)
        assert all(abs(counts[chunk] - 600 * float(mass)) < 1 for chunk, mass in enumerate(masses))
        for chunk in counts:  # its draws are in one stretch
            at = [number for number, some in enumerate(seen) if chunk in some]
            assert at == list(range(at[0], at[-1] + 1))


def test_the_points_of_a_chunk_are_one_of_each_stratum():
    points = ChunkPoints(Chunks.of([25] * 4, 2)).take(100, seeded(), ENDS)
    for chunk, (low, high) in enumerate(zip([0.0, *ENDS.tolist()], ENDS.tolist(), strict=False)):
        inside = (points[(points >= low) & (points < high)] - low) / (high - low)
        assert (inside * len(inside)).long().sort().values.tolist() == list(range(len(inside))), chunk


def test_under_the_uniform_distribution_a_pass_is_a_permutation():
    sizes = [13, 1, 40, 7, 39]
    chunks = Chunks.of(sizes, 2)
    ends = chunks.starts()[1:].double() / 100
    points, source = ChunkPoints(chunks), seeded()
    for _ in range(20):
        drawn = torch.cat([points.take(20, source, ends) for _ in range(5)]) * 100
        assert drawn.long().sort().values.tolist() == list(range(100))


def test_a_point_lies_in_its_chunk_wherever_that_is_now():
    points, source = ChunkPoints(Chunks.of([16] * 4, 1)), seeded(3)
    points.take(8, source, ENDS)
    moved = double(0.9, 0.9 + 1e-16, 0.95, 1.0)  # of which the second is hardly there
    coming = points.order.open(0) + points.order.next(0, 4)
    for _ in range(7):
        assert set(chunks_of(points.take(8, source, moved), moved)) <= set(coming)


def test_any_instance_is_drawn_as_often_as_it_is_to_be():
    inside = double(0.5, 0.3, 0.15, 0.05)  # four instances in each chunk
    instances = (MASSES[:, None] * inside).flatten().cumsum(0) / MASSES.sum()
    counts, passes = torch.zeros(16, dtype=torch.float64), 400
    points, source = ChunkPoints(Chunks.of([4] * 4, 2)), seeded()
    for _ in range(passes):
        drawn = torch.searchsorted(instances, points.take(16, source, ENDS), right=True)
        counts += torch.bincount(drawn, minlength=16)
    expected = passes * 16 * (MASSES[:, None] * inside).flatten() / MASSES.sum()
    # Each count of a pass is within three of its expectation; its standard deviation is below one.
    assert ((counts - expected).abs() < 4 * passes**0.5).all()


def test_each_process_has_chunks_of_its_own():
    chunks, _, ends = some_chunks(40, 20, 3)
    points, source = ChunkPoints(chunks), seeded()
    drawn = [chunks_of(points.take(16, source, ends, processes=2), ends) for _ in range(50)]
    own = [{chunk for batch in drawn for chunk in batch[rank::2]} for rank in range(2)]
    assert len(own[0] & own[1]) <= 1  # the one across the cut
    assert own[0] | own[1] == set(range(40))


def test_with_another_number_of_processes_a_new_pass_begins():
    chunks, _, ends = some_chunks()
    points, source = ChunkPoints(chunks), seeded()
    points.take(12, source, ends, processes=2)
    points.take(12, source, ends, processes=3)
    assert points.order.left(3) == 588
    assert points.order.left(2) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_it_goes_on_from_a_state_in_mid_pass(processes: int):
    chunks, _, ends = some_chunks(10, 10, 3)
    points, source = ChunkPoints(chunks), seeded()
    for _ in range(7):
        points.take(10, source, ends, processes)
    other, copied = ChunkPoints(chunks), seeded()
    other.load_state_dict(points.state_dict())
    copied.set_state(source.get_state())
    assert other.order.open(processes - 1) == points.order.open(processes - 1) != []
    assert other.order.next(processes - 1, 9) == points.order.next(processes - 1, 9) != []
    for _ in range(12):
        assert torch.equal(other.take(10, copied, ends, processes), points.take(10, source, ends, processes))


@pytest.mark.parametrize(("part", "value"), [("plan", 10), ("open", 100), ("opened", 99), ("left", 10_000)])
def test_a_damaged_state_is_refused(part: str, value: int):
    chunks, _, ends = some_chunks(10, 10, 3)
    points = ChunkPoints(chunks)
    points.take(10, seeded(), ends)
    state = points.state_dict()
    own = state if part == "left" else state["parts"][0]
    own[part] = torch.full_like(own[part], value) if isinstance(own[part], Tensor) else value
    with pytest.raises(ValueError, match="is damaged"):
        ChunkPoints(chunks).load_state_dict(state)


def test_a_batch_of_more_than_a_pass_is_refused():
    with pytest.raises(ValueError, match="more than the 5 instances of a pass"):
        ChunkPoints(Chunks.of([2, 3], 1)).take(6, seeded(), double(0.4, 1), 2)
