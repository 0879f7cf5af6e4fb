from collections import Counter
from itertools import pairwise

import pytest
import torch

from lightning_as.core.chunk_order import ChunkOrder, Chunks
from tests.helpers.statistics import double, seeded


def test_of_any_order_of_the_draws_from_the_open_chunks_each_is_as_likely():
    """Chi-square over the orders of 2 + 2 + 1 draws, of which there are 30; 49.6 is the 1 % point of 29 degrees."""
    found: Counter[tuple[int, ...]] = Counter()
    source, order = seeded(), ChunkOrder(open_chunks=3)
    for _ in range(3000):
        order.begin(double(0.4, 0.4, 0.2), 5, source, 1)
        taken = [order.take(size).chunks.tolist() for size in (2, 3)]
        found[tuple(taken[0] + taken[1])] += 1
    assert len(found) == 30
    assert sum((count - 100) ** 2 / 100 for count in found.values()) < 49.6


def test_with_a_window_the_draws_of_a_chunk_stay_among_neighbours():
    order = ChunkOrder(open_chunks=1, window=4)
    order.begin(double(1), 10, seeded(), 1)
    numbers = order.take(10).numbers
    assert numbers.sort().values.tolist() == list(range(10))
    assert numbers.tolist() != list(range(10))
    order.begin(double(1), 10, seeded(), 1)
    runs = [int(order.take(1).numbers) // 4 for _ in range(10)]
    assert sum(one != other for one, other in pairwise(runs)) == 2


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_what_is_cut_between_processes_is_numbered_once(processes: int):
    """Chunks of 7, so that nearly each cut is through one."""
    order, sizes = ChunkOrder(open_chunks=2), torch.full((12,), 7)
    order.begin(sizes / 84, 84, seeded(), processes, sizes)
    taken = [order.take(6) for _ in range(14)]
    found = sorted((int(chunk), int(number)) for one in taken for chunk, number in zip(*one[:2], strict=True))
    assert found == [(chunk, number) for chunk in range(12) for number in range(7)]


def test_bad_numbers_are_refused():
    with pytest.raises(TypeError, match="`open_chunks`"):
        Chunks.of([1], 1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`open_chunks`"):
        Chunks.of([1], 0)
    for sizes in ([], [3, 0]):
        with pytest.raises(ValueError, match="with instances in them"):
            Chunks.of(sizes, 1)
    assert Chunks.of([2, 3], 1).tags().tolist() == [0, 0, 1, 1, 1]
