import pytest
import torch

from lightning_as.core.ranking import Ranking
from tests.helpers.statistics import double, seeded

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
        odd = double(0.0, -0.0, INF, -INF, 5e-324, -5e-324)[torch.randint(6, (size,), generator=generator)]
        return torch.where(torch.rand(size, generator=generator) < 0.5, odd, values)
    return values


@pytest.mark.parametrize(("kind", "first"), [("distinct", 0.0), ("ties", 0.0), ("odd", INF)])
@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_order_is_that_of_a_sort_after_every_batch(size, kind, first):
    generator = seeded()
    ranking, values = Ranking(size) if first == INF else Ranking(size, value=first), [first] * size
    merges = 0
    for step in range(250):
        order = by_sorting(values)
        assert ranking.at(torch.arange(size)).tolist() == order
        ranks = torch.randint(size, (20,), generator=generator)  # in any order and with repeats
        assert ranking.at(ranks).tolist() == [order[rank] for rank in ranks.tolist()]
        assert ranking.values.tolist() == values
        if step % 80 == 79:
            assert ranking.order().tolist() == order
        count = int(torch.randint(0, min(2 * size, 40) + 1, (), generator=generator))
        indices = torch.randint(size, (count,), generator=generator)  # with duplicates, of which the last counts
        new = random_values(kind, count, step, generator)
        with torch.inference_mode(step % 2 == 0):  # strategies learn in it, and are started and saved outside
            ranking.set(indices, new)
        for index, value in zip(indices.tolist(), new.tolist(), strict=True):
            values[index] = value
        merges += len(ranking._ranks) == 0
    if size == 500:
        assert 3 < merges < 150  # both searches have been at work, that in one run and that in two
    assert ranking.at(torch.tensor([], dtype=torch.int64)).tolist() == []


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
