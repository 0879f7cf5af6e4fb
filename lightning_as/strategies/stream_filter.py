"""The stream filters: strategies that keep or skip what a stream brings, and choose no positions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.stream import Stream
from lightning_as.strategies.base import Strategy


class StreamFilter(Strategy):
    """A strategy for an :class:`lightning_as.AdaptiveIterableLoader`.

    An instance is known by the hash of its key, which is its index in a :class:`Draw`. The probabilities there are
    those under :class:`Stream`, N r; what is `within` is the chance with which it was kept.
    """

    def start(self, bins: Bins) -> None:
        """Make the initial state.

        Raises:
            ValueError: If these are the bins of data with positions.
        """
        if not isinstance(bins, Stream):
            raise ValueError(
                f"{type(self).__name__} keeps or skips what a stream brings, and chooses no positions, which these "
                "data have: use another strategy, such as ClosenessSampling(), the default; or, if the data set is an "
                "IterableDataset, an AdaptiveIterableLoader."
            )
        super().start(bins)

    @abstractmethod
    def keep(self, keys: Tensor, uniform: float) -> tuple[Tensor, Draw]:
        """Decide which candidates are trained on.

        Args:
            keys: Hashes of the keys of candidates, in the order in which they came, (C,) int64.
            uniform: A uniform random number in [0, 1), all that is random in the decision.

        Returns:
            The positions of those that are kept, (b,) int64 ascending, of which there may be none; and these as a draw.
        """

    def repeated(self, keys: Tensor) -> Tensor:
        """Whether candidates, (C,), have come before in this pass over the stream. Default: nobody knows."""
        return torch.zeros(len(keys), dtype=torch.bool, device="cpu")

    def begin_pass(self) -> None:
        """Be told that the stream begins. Default: nothing."""

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        """Not possible.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"{type(self).__name__} keeps or skips what a stream brings: it cannot draw.")

    def probabilities(self) -> Tensor:
        """1, of the one instance that stands for all."""
        return self._uniform(len(self.bins))

    def keep_record(self, kept: bool) -> None:
        """Nothing: a record is by positions."""
