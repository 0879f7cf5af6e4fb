import numpy as np
import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.compiled_order import find_leaves, sort_by_tag
from tests.helpers.statistics import seeded


@pytest.mark.parametrize("sizes", [[1], [5], [200], [1, 700, 3, 97, 2], [20] * 30], ids=str)
def test_instances_in_order_of_their_bins_are_found_in_them(sizes: list[int]):
    bins = Bins(
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=seeded())]
    )
    order, counts = torch.empty(len(bins), dtype=torch.int32), np.array(sizes)
    starts = counts.cumsum() - counts
    sort_by_tag(bins.tags.numpy(), starts.copy(), order.numpy())
    assert torch.equal(order.long(), bins.order())
    leaves = torch.full((len(bins),), -1)
    instances = torch.randperm(len(bins), generator=seeded(1))
    find_leaves(starts[None], counts, order.numpy(), instances.numpy(), bins.of(instances).numpy(), leaves.numpy())
    assert torch.equal(order.long()[leaves], instances)


def test_tables_of_another_size_and_bins_that_are_not_there_are_refused():
    tags, starts, order = np.zeros(3, np.int16), np.zeros(1, np.int64), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="a place for each instance"):
        sort_by_tag(tags, starts, order[:2])
    with pytest.raises(IndexError, match="A bin is not there"):
        sort_by_tag(tags + np.int16(1), starts, order)
