"""A strategy at work, batches as if drawn by it, and a training of it beside an oracle."""

from typing import Any

import torch
from torch import Tensor

from lightning_as import Bins, Draw, Strategy
from tests.helpers.statistics import double, seeded


def random_losses(size: int, generator: torch.Generator, step: int = 0) -> Tensor:
    """Losses or bounds over many orders of magnitude, which move with the step, with exact zeros and equal ones."""
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(4) * 10.0 ** (1 - step % 5)
    losses = torch.where(torch.rand(size, generator=generator) < 0.3, losses.round(decimals=1), losses)
    return torch.where(torch.rand(size, generator=generator) < 0.2, 0.0, losses)


def started(strategy: Any, bins: Bins | int, total: int | None = 6000, per_epoch: int = 6) -> Any:
    """A strategy at work on some bins, or on so many instances in three, in a training of so many batches."""
    strategy.start(Bins(torch.arange(bins) % min(bins, 3)) if isinstance(bins, int) else bins)
    strategy.plan(total, per_epoch)
    return strategy


def as_drawn(strategy: Strategy, indices: Tensor | list[int]) -> Draw:
    """A batch of these instances, as if drawn uniformly."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    bins = strategy.bins.of(chosen)
    within = 1 / double(*strategy.bins.sizes)[bins]
    return Draw(chosen, bins, torch.full_like(within, 1 / len(strategy.bins)), within)


def learn(strategy: Strategy, indices: Tensor | list[int], numbers: Tensor) -> None:
    """Tell a strategy the losses of some instances, which are their bounds as well."""
    strategy.update(as_drawn(strategy, indices), numbers, numbers)


def follow(strategy: Strategy, oracle: Any, steps: int, size: int = 12) -> None:
    """Train with random losses, and compare with an oracle before each batch; in which of duplicates the last counts.

    It has ``probabilities()``, ``weights(indices, step)`` of a batch, and ``learn(indices, numbers)``.
    """
    generator = seeded()
    for step in range(steps):
        if step % strategy.progress.per_epoch == 0:
            strategy.start_epoch(generator)
        expected = double(*oracle.probabilities())
        torch.testing.assert_close(strategy.probabilities(), expected, rtol=1e-9, atol=0)
        draw = strategy.draw(size, generator)
        strategy.progress.step()
        torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-9, atol=0)
        weights = double(*oracle.weights(draw.indices.tolist(), step))
        torch.testing.assert_close(draw.weights, weights, rtol=1e-9, atol=0)
        # Repeat some, whose losses disagree.
        batch = draw.indices[torch.randint(size, (size,), generator=generator)]
        numbers = random_losses(size, generator, step)
        learn(strategy, batch, numbers)
        oracle.learn(batch.tolist(), numbers.tolist())
