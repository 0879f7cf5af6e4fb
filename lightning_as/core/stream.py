"""What stands in for the partition of a data set whose instances have no positions, and nobody knows how many."""

from __future__ import annotations

import torch

from lightning_as.core.bins import Bins


class Stream(Bins):
    """A single bin with a single instance, which is any.

    So N is 1, and what is called the probability r of an instance is N r, how many times as often it comes as under
    uniform sampling.
    """

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, dtype=torch.int64, device="cpu"))
