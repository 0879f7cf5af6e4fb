import pytest
import torch
from scipy.stats import chisquare

from benchmarks.budgets.variants import long_tail, mislabel


def test_wrong_labels_are_so_many_each_class_as_likely_and_those_of_the_seed():
    labels = torch.arange(5).repeat(4000)
    wrong = mislabel(labels, 0.4, seed=3)
    spoilt = wrong != labels
    assert int(spoilt.sum()) == 8000
    shifts = torch.bincount((wrong - labels)[spoilt] % 5, minlength=5)
    assert shifts[0] == 0
    assert chisquare(shifts[1:].numpy()).pvalue > 1e-6
    assert torch.equal(wrong, mislabel(labels, 0.4, seed=3))
    assert not torch.equal(wrong, mislabel(labels, 0.4, seed=4))
    fewer = mislabel(labels, 0.1, seed=3)
    assert torch.equal(fewer[fewer != labels], wrong[fewer != labels])
    assert torch.equal(mislabel(labels, 0.0, seed=3), labels)


@pytest.mark.parametrize(("ratio", "sizes"), [(1.0, [100, 100, 100]), (100.0, [100, 10, 1]), (1e6, [100, 1, 1])])
def test_a_long_tail_falls_exponentially_from_the_smallest_class_and_keeps_one(ratio: float, sizes: list[int]):
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate((150, 100, 300))]).flip(0)
    kept = long_tail(labels, ratio, seed=1)
    assert torch.bincount(labels[kept]).tolist() == sizes
    assert torch.equal(kept, kept.unique())
    assert torch.equal(kept, long_tail(labels, ratio, seed=1))
    assert not torch.equal(kept, long_tail(labels, ratio, seed=2))
