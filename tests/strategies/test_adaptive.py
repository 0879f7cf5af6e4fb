import itertools
import logging

import pytest
import torch
from scipy.stats import chisquare

from lightning_as.bins import Bins
from lightning_as.draw import Draw
from lightning_as.strategies import AdaptiveSampling
from tests.strategies.oracle import AlgorithmOne

TAGS = torch.repeat_interleave(torch.arange(5), torch.tensor([40, 1, 17, 3, 90]))[
    torch.randperm(151, generator=torch.Generator().manual_seed(0))
]


def random_batch(
    strategy: AdaptiveSampling, generator: torch.Generator, step: int, size: int = 24
) -> tuple[Draw, torch.Tensor, torch.Tensor]:
    """Draw a batch; its losses spread over many orders, with exact zeros, and duplicates disagree."""
    draw = strategy.draw(size, generator)
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(8) * 10.0 ** (-(step % 7))
    losses[torch.rand(size, generator=generator) < 0.2] = 0.0
    bounds = torch.rand(size, dtype=torch.float64, generator=generator) * 2
    bounds[torch.rand(size, generator=generator) < 0.2] = 0.0
    return draw, losses, bounds


def agree(strategy: AdaptiveSampling, oracle: AlgorithmOne) -> None:
    p, q = torch.tensor(oracle.p, dtype=torch.float64), torch.tensor(oracle.q, dtype=torch.float64)
    torch.testing.assert_close(strategy.bin_probabilities, p, rtol=1e-9, atol=0)
    torch.testing.assert_close(strategy.instance_probabilities(), q, rtol=1e-9, atol=1e-250)


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("unseen", ["first", "mean"])
def test_agrees_with_algorithm_1_on_p_and_all_of_q(delta_q, unseen):
    strategy = AdaptiveSampling(beta=3, delta_q=delta_q, unseen=unseen)
    strategy.start(Bins(TAGS))
    oracle = AlgorithmOne(TAGS, 3, 0.9, delta_q, unseen=unseen)
    generator = torch.Generator().manual_seed(1)
    duplicates = 0
    for step in range(600):
        draw, losses, bounds = random_batch(strategy, generator, step)
        duplicates += len(draw.indices) - len(draw.indices.unique())
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), losses.tolist(), bounds.tolist())
        agree(strategy, oracle)
    assert duplicates > 100
