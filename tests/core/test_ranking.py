from __future__ import annotations

import pytest
import torch

from lightning_as.core.ranking import Ranking
from tests.helpers.statistics import seeded

INF = float("inf")


def by_sorting(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


def random_values(kind: str, size: int, step: int, generator: torch.Generator) -> torch.Tensor:
    """Distinct values; values of which many are equal; or values near and far, with infinite ones and signed zeros."""
    values = torch.randn(size, dtype=torch.float64, generator=generator)
    if kind == "ties":
        return values.round()
    if kind == "odd":
        values = values * 10.0 ** (step % 600 - 300)
        pool = torch.tensor([0.0, -0.0, INF, -INF, 5e-324, -5e-324], dtype=torch.float64)
        odd = torch.rand(size, generator=generator) < 0.5
        values[odd] = pool[torch.randint(len(pool), (int(odd.sum()),), generator=generator)]
    return values


@pytest.mark.parametrize("kind", ["distinct", "ties", "odd"])
@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_order_is_that_of_a_sort_after_every_batch(size, kind):
    generator = seeded()
    ranking, values = Ranking(size), [INF] * size
    merges = 0
    for step in range(250):
        count = int(torch.randint(0, min(2 * size, 40) + 1, (), generator=generator))
        indices = torch.randint(size, (count,), generator=generator)  # with duplicates, of which the last counts
        new = random_values(kind, count, step, generator)
        with torch.inference_mode(step % 2 == 0):  # strategies learn in it, and are started and saved outside
            ranking.set(indices, new)
        for index, value in zip(indices.tolist(), new.tolist(), strict=True):
            values[index] = value
        merges += len(ranking._ranks) == 0
        assert ranking.at(torch.arange(size)).tolist() == by_sorting(values)
        assert ranking.values.tolist() == values
        if step % 80 == 79:
            assert ranking.order().tolist() == by_sorting(values)
    if size == 500:
        assert 3 < merges < 150  # both searches have been at work, that in one run and that in two


def test_at_takes_ranks_in_any_order_and_with_repeats():
    generator = seeded(1)
    ranking = Ranking(100, value=0.0)
    ranking.set(torch.arange(0, 100, 7), torch.rand(15, dtype=torch.float64, generator=generator) - 0.5)
    order = by_sorting(ranking.values.tolist())
    ranks = torch.randint(100, (300,), generator=generator)
    assert ranking.at(ranks).tolist() == [order[rank] for rank in ranks.tolist()]
    assert ranking.at(ranks[:0]).tolist() == []


def test_a_ranking_by_hand():
    ranking = Ranking(5)
    assert ranking.order().tolist() == [0, 1, 2, 3, 4]
    ranking.set(torch.tensor([0, 3, 0]), torch.tensor([9.0, 2.0, 1.0], dtype=torch.float64))
    assert ranking.order().tolist() == [1, 2, 4, 3, 0]
    ranking.set(torch.tensor([1, 4]), torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert ranking.order().tolist() == [2, 1, 3, 4, 0]
    assert ranking.at(torch.tensor([4, 0])).tolist() == [0, 2]


def test_loaded_values_give_the_same_order_and_are_a_copy():
    generator = seeded(2)
    ranking, restored = Ranking(200), Ranking(200)
    for _ in range(30):
        indices = torch.randint(200, (20,), generator=generator)
        ranking.set(indices, torch.rand(20, dtype=torch.float64, generator=generator).round(decimals=1))
    values = ranking.values.clone()
    restored.set(torch.tensor([3]), torch.tensor([7.0], dtype=torch.float64))
    restored.load(values)
    values.zero_()
    assert torch.equal(restored.at(torch.arange(200)), ranking.at(torch.arange(200)))
    for one in (ranking, restored):
        one.set(torch.tensor([5, 3, 5]), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert torch.equal(restored.order(), ranking.order())
    assert restored.order().data_ptr() != restored.order().data_ptr()


def test_batches_are_merged_without_a_pass_over_all_of_a_large_set(monkeypatch: pytest.MonkeyPatch):
    merges = []
    ranking, generator = Ranking(100_000), seeded(4)
    merge_all = ranking._merge_all
    monkeypatch.setattr(ranking, "_merge_all", lambda: (merges.append(1), merge_all()))
    for _ in range(200):
        ranking.set(torch.randint(100_000, (64,), generator=generator), torch.rand(64, dtype=torch.float64))
    assert 1 <= len(merges) <= 8  # every √(2 N / B) = 56 batches
    assert ranking.order().tolist() == by_sorting(ranking.values.tolist())


@pytest.mark.parametrize("size", [0, -1])
def test_there_must_be_an_instance(size):
    with pytest.raises(ValueError, match=f"`size` must be at least 1 instance, got {size}"):
        Ranking(size)
