import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.uniform_in_bins import UniformInBins
from tests.helpers.statistics import double


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 6131, 2**16 + 1])
def test_the_ends_of_the_uniforms_stay_in_the_bin(size: int):
    inside = UniformInBins(Bins([1] + [0] * size + [2]))
    assert inside.draw(torch.zeros(2, dtype=torch.int64), double(0, 1 - 2**-53))[0].tolist() == [1, size]
