from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.passes import Candidates, Passes, batches_of_candidates
from tests.helpers.statistics import seeded

TAGS = torch.arange(23) % 4


def counting() -> Callable[[], tuple[Tensor, ...]]:
    """Lists 0 1 2 3 4, 10 11 12 13 14, … with twice as much beside each."""
    lists = iter(torch.arange(100).view(10, 10)[:, :5])

    def new() -> tuple[Tensor, ...]:
        rows = next(lists)
        return rows, 2.0 * rows.double()

    return new


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 20])
def test_batches_of_any_size_go_through_one_list_after_another_each_made_when_it_is_needed(size):
    passes, new = Passes(100), counting()
    assert passes.left == 0
    taken = []
    for number in range(1, -(-20 // size) + 1):
        taken.append(passes.take(size, new))
        assert passes.left == -number * size % 5
    indices, twice = (torch.cat(rows) for rows in zip(*taken, strict=True))
    assert indices.tolist()[:20] == [10 * number + entry for number in range(4) for entry in range(5)]
    assert torch.equal(twice, 2.0 * indices)
    passes.begin((torch.tensor([4, 1]),))  # drops what is left
    assert passes.take(2, new)[0].tolist() == [4, 1]


@pytest.mark.parametrize("size", [1, 10, 23])
def test_candidates_go_through_shuffled_passes_whatever_their_number(size: int):
    candidates, generator = Candidates(Bins(TAGS)), seeded()
    draws = [candidates.draw(size, generator) for _ in range(-(-4 * 23 // size))]
    drawn = torch.cat([draw.indices for draw in draws])[: 4 * 23].view(4, 23)
    assert torch.equal(drawn.sort(1).values, torch.arange(23).expand(4, 23))
    assert len(drawn.unique(dim=0)) == 4
    assert torch.equal(draws[0].bins, TAGS[draws[0].indices])
    assert draws[0].probabilities.tolist() == [1 / 23] * size
    assert draws[0].weights is None


def test_the_share_of_candidates_is_one_over_a_whole_number_and_of_what_there_is():
    assert [batches_of_candidates(keep) for keep in (0.5, 0.1, 0.25, 1 / 3, 0.333, 0.02)] == [2, 10, 4, 3, 3, 50]
    for keep in (1.0, 0.4, 0.33, 0.0, -0.5, 2.0, 0.999):
        with pytest.raises(ValueError, match=rf"`keep` must be 1 over a whole number .* got {keep}: use 0.5"):
            batches_of_candidates(keep)
    with pytest.raises(ValueError, match="4 candidates cannot be had of 3 instances: use smaller batches"):
        Candidates(Bins([0, 1, 0])).draw(4, torch.Generator())
