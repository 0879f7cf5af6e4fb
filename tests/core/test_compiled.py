"""What the loops must refuse; that they are right is tested where they are used, against the same oracles as torch."""

import pytest
import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
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
    with pytest.raises(IndexError, match="place"):
        tree_of(1).set(torch.tensor([number if number < 2 else 10**6]), torch.ones(1, 2, dtype=torch.float64))
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
        tree.set(tree.places()[:2], torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="no weight"):
        tree_of(0).draw(double(0), one)
    inside = InstanceDistribution(Bins([0, 1]))
    with pytest.raises(ValueError, match="one bin for each"):
        inside.update(torch.tensor([0, 1]), one, double(1, 1))
    for uniform in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
            inside.draw_from(BinDistribution(double(0.5, 0.5)), 0.0, double(uniform))


def test_tensors_may_be_strided_or_of_inference_mode():
    def drawn(strided: bool) -> tuple[Tensor, Tensor]:
        tree, numbers = tree_of(1), torch.linspace(0, 0.99, 100, dtype=torch.float64)
        values = torch.linspace(1, 2, 100, dtype=torch.float64).view(2, 50).T
        tree.set(tree.places()[::2], values if strided else values.contiguous())
        which = torch.arange(100) % 2
        return tree.draw(
            numbers[::2] if strided else numbers[::2].clone(), which[::2] if strided else which[::2].clone()
        )

    for mode in (False, True):
        with torch.inference_mode(mode):
            for ours, plain in zip(drawn(True), drawn(False), strict=True):
                assert torch.equal(ours, plain)
