"""Numbers for tests of strategies, and draws as if they had been made."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    """A vector in float64."""
    return torch.tensor(values, dtype=torch.float64)


def random_losses(size: int, generator: torch.Generator, step: int = 0) -> Tensor:
    """Losses or bounds over many orders of magnitude, which move with the step, with exact zeros and equal ones."""
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(4) * 10.0 ** (1 - step % 5)
    losses = torch.where(torch.rand(size, generator=generator) < 0.3, losses.round(decimals=1), losses)
    return torch.where(torch.rand(size, generator=generator) < 0.2, 0.0, losses)


def as_drawn(bins: Bins, indices: Tensor | list[int]) -> Draw:
    """A batch of these instances, as if drawn uniformly."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    return Draw(chosen, bins.of(chosen), torch.full((len(chosen),), 1 / len(bins), dtype=torch.float64))
