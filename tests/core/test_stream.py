import torch

from lightning_as.core.draw import importance_weights
from lightning_as.core.stream import Stream


def test_a_probability_is_in_units_of_the_uniform_one():
    stream = Stream()
    assert (len(stream), stream.sizes, stream.labels, stream.chunks) == (1, [1], None, None)
    assert torch.equal(importance_weights(torch.tensor([0.5, 2.0]), len(stream)), torch.tensor([2.0, 0.5]))
