"""Repeated sampling of random subsets, RS2: each pass goes over a fresh random subset of the data.

A pass goes over a uniform random subset of ⌊`fraction` · N⌋ instances, in random order. Without replacement the subsets
are consecutive parts of a permutation, which is made anew once what is left of it is too short; with replacement each
subset is drawn from all of the data.

RS2 is meant for a budget: training sees `fraction` · N instances per pass, and its schedule is fitted to as many passes
as a full training has epochs. An epoch has as many batches as ever, thus 1/`fraction` passes: for the
budget of the source, plan `fraction` times as many epochs. Without replacement the order of the draws is then that
of shuffled epochs, and what is left of the method is its schedule, which is its point: a selection has to beat it.

Source: Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning" (ICLR 2024,
arXiv:2305.18424).

Cost per step: No extra forward pass; O(batch), and O(N) once per permutation; 12 bytes of memory per instance, and 8
per one of the subset.

Verified: The abstract and two implementations by others, which agree on the above, also in that they drop the part of a
permutation that is too short for a subset. The paper's body and the authors' code could not be verified.

When to use it: As the baseline for every method that claims to save training by selecting data.

When not: Never wrong, but no more than a shorter training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.passes import Passes
from lightning_as.strategies.base import Strategy


class RepeatedRandomSubset(Strategy):
    """A fresh uniform subset of the data in each pass: what a selection has to beat.

    Args:
        fraction: Size of a subset, as a share of the data in (0, 1]; at least one instance. Default: 0.1, as in the
            source's ImageNet figures.
        replacement: Whether a subset may have instances of the ones before, before all have had their turn. Default:
            False.

    Raises:
        ValueError: If `fraction` is out of its range.
    """

    reads = frozenset()

    def __init__(self, fraction: float = 0.1, replacement: bool = False) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"`fraction` must be in (0, 1], a share of the data set; got {fraction}.")
        self.fraction = fraction
        self.replacement = replacement

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._size = max(1, int(self.fraction * len(bins) + 1e-9))  # 0.29 · 100 is 29, not 28.99…
        self._subsets = Passes(len(bins))
        self._permutation = Passes(len(bins))

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        (indices,) = self._subsets.take(size, lambda: self._subset(generator))
        return self._drawn_uniformly(indices)

    def probabilities(self) -> Tensor:
        return self._uniform(len(self.bins))

    def state_dict(self) -> dict[str, Any]:
        return {"subsets": self._subsets.state_dict(), "permutation": self._permutation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._subsets.load_state_dict(state["subsets"])
        self._permutation.load_state_dict(state["permutation"])

    def _subset(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The instances of a pass."""
        if self.replacement or self._permutation.left < self._size:
            self._permutation.begin((torch.randperm(len(self.bins), generator=generator, device="cpu"),))
        return self._permutation.take(self._size, tuple)  # there is enough left: no new list is made
