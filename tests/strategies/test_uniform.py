import pytest
import torch

from lightning_as.strategies import Uniform
from tests.helpers.statistics import seeded
from tests.helpers.strategies import started


@pytest.mark.parametrize("size", [5, 23, 40])
def test_epochs_are_permutations_that_differ_even_if_batches_straddle_them(size: int):
    strategy, generator = started(Uniform(), 23), seeded()
    drawn = torch.cat([strategy.draw(size, generator).indices for _ in range(-(-4 * 23 // size))])[: 4 * 23].view(4, 23)
    assert torch.equal(drawn.sort(1).values, torch.arange(23).expand(4, 23))
    assert len(drawn.unique(dim=0)) == 4


def test_an_epoch_drops_what_was_left_and_with_replacement_draws_repeat():
    strategy, repeated, generator = started(Uniform(), 23), started(Uniform(replacement=True), 23), seeded()
    first = strategy.draw(10, generator).indices
    strategy.start_epoch(generator)
    second = torch.cat([strategy.draw(size, generator).indices for size in (10, 13)])
    assert second.sort().values.tolist() == list(range(23))
    assert second[:10].tolist() != first.tolist()
    assert len(repeated.draw(23, generator).indices.unique()) < 23
