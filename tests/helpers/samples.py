"""Logits and targets of a few samples, the same each time."""

import torch
from torch import Tensor

from tests.helpers.statistics import seeded

B, C = 6, 4
WEIGHTS = [0.5, 0.0, 2.0, 1.25]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def classes(*shape: int, count: int = C) -> Tensor:
    return torch.randint(count, shape, generator=seeded(1))


def soft(*shape: int) -> Tensor:
    return normal(*shape, seed=2).softmax(1)


def some_ignored(*shape: int, ignored: int = -100) -> Tensor:
    """Class indices; sample 0 has one ignored pixel and sample 1 nothing else."""
    targets = classes(*shape)
    targets.view(shape[0], -1)[0, 0] = ignored
    targets[1] = ignored
    return targets
