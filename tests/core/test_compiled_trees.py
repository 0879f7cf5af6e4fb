"""The loops over all leaves of sum trees, against what is done one by one."""

import numpy as np
import pytest
import torch

from lightning_as.core.compiled_trees import copy_leaves
from lightning_as.core.sum_tree import SumTree
from tests.helpers.statistics import seeded

SIZES = [[1], [5], [200], [1, 700, 3, 97, 2], [20] * 30]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_leaves_at_once_are_what_they_are_one_by_one(
    sizes: list[int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    trees = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    tree, plain = SumTree(sizes, channels=2, dtype=dtype), SumTree(sizes, channels=2, dtype=dtype)
    every, leaves = torch.arange(len(trees)), torch.rand(len(trees), 2, dtype=dtype, generator=seeded())
    tree.load(leaves)
    plain.set(every, leaves, trees)
    assert torch.equal(tree.leaf_rows, plain.leaf_rows)
    assert torch.equal(tree.sum_rows, plain.sum_rows)
    assert torch.equal(tree.leaves(), leaves)
    tree.fill([0.5, 2.0])
    plain.set(every, torch.tensor([0.5, 2.0]).repeat(len(trees), 1), trees)
    assert torch.equal(tree.leaf_rows, plain.leaf_rows)
    assert torch.equal(tree.sum_rows, plain.sum_rows)
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    plain.load(leaves)
    assert torch.equal(plain.leaves(), leaves)


def test_tables_of_another_size_are_refused():
    with pytest.raises(ValueError, match="a row for each leaf"):
        copy_leaves(*SumTree([3]).arrays[1:], np.zeros((4, 1)), True)
