"""The loops over all leaves of sum trees, against torch's tables of places."""

import numpy as np
import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.compiled_trees import copy_leaves, place_instances
from lightning_as.core.sum_tree import SumTree
from tests.helpers.statistics import seeded


@pytest.mark.parametrize("sizes", [[1], [5], [200], [1, 700, 3, 97, 2], [20] * 30])
def test_all_leaves_at_once_are_what_they_are_one_by_one(sizes: list[int], monkeypatch: pytest.MonkeyPatch):
    bins = Bins(
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=seeded())]
    )
    tree, plain = SumTree(sizes, channels=2), SumTree(sizes, channels=2)
    place_of, instance_of = torch.empty(len(bins), dtype=torch.int64), torch.empty(len(bins), dtype=torch.int32)
    firsts = (part.numpy() for part in tree.firsts())
    place_instances(bins.tags.numpy(), *firsts, 2, tree.fanout, place_of.numpy(), instance_of.numpy())
    assert torch.equal(instance_of.long(), bins.order())
    assert torch.equal(place_of[bins.order()], tree.places())
    assert torch.equal(tree.places_of(torch.arange(sizes[0])), tree.places()[: sizes[0]])
    leaves = torch.rand(len(bins), 2, dtype=torch.float64, generator=seeded())
    tree.load(leaves)
    plain.set(plain.places(), leaves)
    assert torch.equal(tree.memory, plain.memory)
    assert torch.equal(tree.leaves(), leaves)
    tree.fill([0.5, 2.0])
    plain.set(plain.places(), torch.tensor([0.5, 2.0]).double().repeat(len(bins), 1))
    assert torch.equal(tree.memory, plain.memory)
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    plain.load(leaves)
    assert torch.equal(plain.leaves(), leaves)


def test_tables_of_another_size_are_refused():
    tree, leaves, tags = SumTree([3]), np.zeros((4, 1)), np.zeros(3, np.int32)
    places, numbers, table = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="a row for each leaf"):
        copy_leaves(tree.memory.numpy(), 0, np.array([3]), leaves, back=True)
    with pytest.raises(ValueError, match="a place and a leaf for each instance"):
        place_instances(tags, places, numbers, 1, 3, table[:2], table)
    with pytest.raises(IndexError, match="A bin is not there"):
        place_instances(tags + 1, places, numbers, 1, 3, table, table)
