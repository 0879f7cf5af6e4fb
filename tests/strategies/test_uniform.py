import pytest
import torch

from lightning_as.strategies import Uniform
from tests.helpers.statistics import seeded
from tests.helpers.strategies import started


@pytest.mark.parametrize("size", [5, 23, 40])
def test_passes_are_permutations_that_differ_even_if_batches_straddle_them_and_an_epoch_begins_a_new_one(size: int):
    strategy, generator = started(Uniform(), 23), seeded()
    first = strategy.draw(10, generator).indices
    strategy.start_epoch(generator)
    drawn = torch.cat([strategy.draw(size, generator).indices for _ in range(-(-4 * 23 // size))])[: 4 * 23].view(4, 23)
    assert torch.equal(drawn.sort(1).values, torch.arange(23).expand(4, 23))
    assert len(drawn.unique(dim=0)) == 4
    assert drawn[0, :10].tolist() != first.tolist()
    assert len(started(Uniform(replacement=True), 23).draw(23, generator).indices.unique()) < 23
