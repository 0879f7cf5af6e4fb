import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.uniform_in_bins import UniformInBins
from tests.helpers.statistics import double


def test_uniforms_go_to_the_members_in_equal_steps():
    inside = UniformInBins(Bins([2, 0, 1, 1, 2, 2, 1, 2, 2, 2]))
    for bin_, members in enumerate([[1], [2, 3, 6], [0, 4, 5, 7, 8, 9]]):
        bins = torch.full((len(members),), bin_)
        drawn, q = inside.draw(bins, (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members))
        assert drawn.tolist() == members
        assert q.tolist() == inside.probability(drawn, bins).tolist() == [1 / len(members)] * len(members)


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 6131, 2**16 + 1])
def test_the_ends_of_the_uniforms_stay_in_the_bin(size: int):
    inside = UniformInBins(Bins([1] + [0] * size + [2]))
    assert inside.draw(torch.zeros(2, dtype=torch.int64), double(0, 1 - 2**-53))[0].tolist() == [1, size]
