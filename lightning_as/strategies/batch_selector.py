"""The batch selectors: strategies that have candidates loaded and scored, and train on a part of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_as.core.draw import Draw
from lightning_as.strategies.base import LARGEST, Strategy
from lightning_as.strategies.scores import Scores


class Selection(NamedTuple):
    """What a batch selector chose of the candidates."""

    positions: Tensor
    """Where the chosen are among the candidates, (b,) int64; one may be chosen twice."""
    weights: Tensor | None = None
    """The factors on their losses, (b,) float64; None for the draw's own."""
    probabilities: Tensor | None = None
    """Their probabilities with the choice counted in, (b,) float64; None for the draw's own."""


class BatchSelector(Strategy):
    """A batch selector: draws candidates, and trains on a part of them.

    :meth:`draw` is asked for a batch of `size`, and gives as many candidates as it likes, that many or a multiple. With
    more, they are scored (:attr:`reads`), and :meth:`select` chooses. Among several processes each chooses from its own
    share of the candidates, and all know what the others chose. One whose :class:`Selection` has the probabilities says
    so by :attr:`knows_probabilities`.
    """

    # A share is all that a process has loaded. So another number of processes chooses otherwise of equal candidates, as
    # also where a training goes on with another number than before.
    knows_probabilities = False

    @abstractmethod
    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        """Choose `size` of the candidates of one process.

        Args:
            draw: The candidates, as they were drawn.
            scores: Their scores, as far as :attr:`reads` asks for them, of this draw's rows.
            size: Number of instances to train on.
            generator: For what is random in the choice.

        Returns:
            The part that is trained on, in any order.
        """

    def probabilities(self) -> Tensor:
        """The distribution of the candidates, which is uniform; what is chosen of them depends on their scores."""
        return self._uniform(len(self.bins))

    def _known(self, scores: Tensor) -> Tensor:
        """Scores of candidates, (M,), with the mean of the others for those that are not finite, which are counted."""
        known = scores.isfinite()
        if not bool(known.all()):
            self._note_skipped(int((~known).sum()))
            others = scores[known].clamp(-LARGEST, LARGEST)
            scores = torch.where(known, scores, others.mean() if len(others) else torch.zeros_like(scores))
        return scores.clamp(-LARGEST, LARGEST)
