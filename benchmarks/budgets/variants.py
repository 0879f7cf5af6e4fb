"""Data made worse on purpose: wrong labels, and long tails."""

from __future__ import annotations

import torch
from torch import Tensor


def mislabel(labels: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which a share is wrong: any other class, each as likely.

    Args:
        labels: (N,) int64, 0 to C - 1.
        share: In [0, 1]; a larger share has the wrong labels of a smaller one.
        seed: Of which instances and of what they get.

    Returns:
        (N,) int64.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, size = int(labels.max()) + 1, len(labels)
    chosen = torch.randperm(size, generator=generator)[: round(share * size)]
    shifts = torch.randint(1, classes, (size,), generator=generator)
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + shifts[chosen]) % classes
    return wrong


def long_tail(labels: Tensor, ratio: float, seed: int) -> Tensor:
    """Instances that are kept so that the classes' sizes fall exponentially, as in Cui et al. (2019).

    Class c of C keeps n · ratio^(-c / (C - 1)) of its instances, n the size of the smallest class, at least one.

    Args:
        labels: (N,) int64, 0 to C - 1.
        ratio: Of the first class's size to the last one's, at least 1.
        seed: Of which instances are kept.

    Returns:
        Their positions, ascending, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(labels)
    kept = []
    for label in range(len(sizes)):
        members = (labels == label).nonzero()[:, 0]
        share = ratio ** (-label / (len(sizes) - 1))
        shuffled = members[torch.randperm(len(members), generator=generator)]
        kept.append(shuffled[: max(1, round(share * int(sizes.min())))])
    return torch.cat(kept).sort().values
