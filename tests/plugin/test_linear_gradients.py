"""Norms of the gradients of linear layers on sequences, against autograd on one sample at a time."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_as.plugin import linear_gradients
from lightning_as.plugin.hooks import LinearGradients
from lightning_as.plugin.linear_gradients import squared_gradients
from tests.helpers.gradients import own_gradients
from tests.helpers.tiny import normal

B, C = 6, 4


class Sequences(LightningModule):
    """Linear layers on tokens, on an image with its channels last, and on the mean over both."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 5, bias=False))
        self.image = nn.Linear(5, 7)
        self.head = nn.Linear(7, C)

    def forward(self, x: Tensor) -> Tensor:
        features = self.tokens(x).view(len(x), 2, -1, 5)
        return self.head(self.image(features).tanh().mean((1, 2)))


@pytest.mark.parametrize("positions", [2, 30])  # in pairs, and not
@pytest.mark.parametrize("block", [1, 2**24])
def test_the_norms_of_sequences_are_those_of_one_sample_at_a_time(
    positions: int, block: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(linear_gradients, "_BLOCK", block)
    module, inputs, targets = Sequences().double(), normal(B, positions, 3).double(), torch.arange(B) % C
    module.image.bias.requires_grad_(False)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    expected = own_gradients(module, inputs, targets, trained)
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    cross_entropy(module(inputs), targets, reduction="sum").backward()
    norms = gradients.squared_norms()
    assert norms is not None
    torch.testing.assert_close(norms, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", [3, 40])
def test_lower_precisions_are_widened(dtype: torch.dtype, positions: int):
    given, gradient = normal(B, positions, 9).to(dtype), normal(B, positions, 7, seed=1).to(dtype)
    norms = squared_gradients(given, True, True, gradient)
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, squared_gradients(given.double(), True, True, gradient), rtol=1e-5, atol=0)
    only_bias = squared_gradients(given, False, True, gradient)
    torch.testing.assert_close(only_bias, gradient.double().sum(1).square().sum(1))
