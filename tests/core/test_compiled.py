"""What the loops must refuse; that they are right is tested where they are used, against the same oracles as torch."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from lightning_as.core.bin_distribution import GradientBinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.core.sum_tree import SumTree
from tests.helpers.statistics import double


def tree_of(weight: float) -> SumTree:
    tree = SumTree([70, 30], 2)
    tree.load(torch.full((100, 2), weight))
    return tree


@pytest.mark.parametrize("number", [-1, 2, 10**6])
def test_trees_places_and_instances_that_are_not_there_are_refused(number: int):
    inside, one = InstanceDistribution(Bins([0] * 70 + [1] * 30)), torch.tensor([0])
    with pytest.raises(IndexError, match="tree"):
        tree_of(1).draw(double(0.5), torch.tensor([number]))
    with pytest.raises(IndexError, match="A tree"):
        tree_of(1).set(one, torch.ones(1, 2), torch.tensor([number]))
    with pytest.raises(IndexError, match="leaf"):
        tree_of(1).set(torch.tensor([number if number != 2 else 70]), torch.ones(1, 2))
    with pytest.raises(IndexError, match="leaf"):
        tree_of(1).set(one, torch.ones(1, 2), one + 1)
    with pytest.raises(IndexError, match="instance"):
        inside.update(one, one + 1, double(1))
    with pytest.raises(IndexError, match="instance"):
        inside.update(torch.tensor([number if number != 2 else 100]), one, double(1))
    with pytest.raises(IndexError, match="bin"):
        inside.update(one, torch.tensor([number]), double(1))


def test_numbers_that_do_not_go_together_are_refused():
    tree, one = tree_of(1), torch.tensor([0])
    with pytest.raises(ValueError, match="uniform"):
        tree.draw(double(0, 0), one)
    with pytest.raises(ValueError, match="coefficients"):
        tree.draw(double(0), one, torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="one value"):
        tree.set(torch.tensor([0, 1]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="no weight"):
        tree_of(0).draw(double(0), one)
    inside = InstanceDistribution(Bins([0, 1]))
    with pytest.raises(ValueError, match="one bin for each"):
        inside.update(torch.tensor([0, 1]), one, double(1, 1))
    for floor, point in product((0.0, 0.1), (1.0, -0.1, float("nan"))):
        with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
            inside.draw_from(double(0.5, 0.5), double(0.5, 1), floor, double(point))
    with pytest.raises(ValueError, match="P must be of as many bins"):
        inside.draw_from(double(0.5, 0.5), double(1), 0.0, double(0))
    inside.load(double(0, 1))
    with pytest.raises(ValueError, match="no weight"):
        inside.draw_from(double(0.5, 0.5), double(0.5, 1), 0.1, double(0))
    over_bins = GradientBinDistribution([1, 1])
    with pytest.raises(ValueError, match="a bin and a probability for each bound"):
        over_bins.update(one, double(1, 1), double(1, 1))
    with pytest.raises(IndexError, match="A bin is not there"):
        over_bins.update(one + 2, double(1), double(1))


def test_tensors_may_be_strided_or_of_inference_mode():
    def drawn(made: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        tree, numbers = tree_of(1), torch.linspace(0, 0.99, 100, dtype=torch.float64)
        leaves = torch.arange(200)[::4]  # of which the first 35 are of the first tree
        tree.set(made(leaves.div(2).long()), made((1 + numbers).view(2, 50).T), made((leaves >= 140).long()))
        return tree.draw(made(numbers[::2]), made(torch.arange(100)[::2] % 2))

    for mode in (False, True):
        with torch.inference_mode(mode):
            for ours, plain in zip(drawn(lambda tensor: tensor), drawn(Tensor.contiguous), strict=True):
                assert torch.equal(ours, plain)
