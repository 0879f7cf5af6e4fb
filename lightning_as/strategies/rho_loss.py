"""RHO-LOSS: of a large batch, train on what is not yet learned, but can be.

Candidates come from shuffled passes over the data and are scored by a forward pass. Trained on are the b with the
largest reducible holdout loss, L[y|x; θ] − IL[y|x]: their loss less their irreducible loss, which is that of a model
trained on other data. What is learned has a low loss, what is mislabelled or ambiguous has a high irreducible one, and
neither is chosen. The choice is deterministic and has no weights.

The irreducible losses are made once, before: ``lightning-as irreducible-losses`` does it for the thesis's network on
MNIST, and :func:`lightning_as.plugin.irreducible.irreducible_losses` for any module and data set, by training two
models, each on one half of the training set, that score each other's half. No hold-out set is needed then.

Source: Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt" (ICML
2022, arXiv:2206.07137), Algorithm 1, and the authors' code (OATML/RHO-Loss).

Cost per step: Beside the training 1/keep forward passes of the batch, 10 by default; O(M log M) for the choice among M
candidates. Before the training two models on half of the data each, and one forward pass of every instance. 20 bytes of
memory per instance.

Verified: The paper, and the authors' code for the choice and for the two halves. The authors' epochs count the
instances that are trained on, and so does this package's, which goes over the candidates 1/keep times. Draws keep the
uniform probabilities of their candidates: for a deterministic choice there are no others, and weights that go by them
are refused. With several processes each chooses from its own share, so that another number of them chooses otherwise.

When to use it: Labels are noisy or data is redundant, steps are dear and forward passes cheap.

When not: The data is clean and small, so that the largest losses are the ones to learn; or the gradient must stay that
of the mean loss.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.passes import Candidates, batches_of_candidates
from lightning_as.strategies.batch_selector import BatchSelector, Selection
from lightning_as.strategies.scores import Scores

_REMEDY = (
    "make them with `lightning-as irreducible-losses --output FILE` for the thesis's network on MNIST, or with "
    "lightning_as.plugin.irreducible.irreducible_losses for your own module and data."
)


class RHOLoss(BatchSelector):
    """The candidates whose losses are the furthest above those of a model trained on other data.

    Args:
        irreducible_losses: The irreducible loss of each training instance, in the data set's order, (N,); or the
            path of a file that `torch.save` wrote such a tensor to. Needed.
        keep: Share of the candidates that is trained on, 1 over a whole number. Default: 0.1, the source's.

    Raises:
        ValueError: If `irreducible_losses` is missing, cannot be read, or is not one finite number per instance; if
            `keep` is out of its range.
    """

    def __init__(self, irreducible_losses: str | list[float] | Tensor | None = None, keep: float = 0.1) -> None:
        if irreducible_losses is None:
            raise ValueError(f"`irreducible_losses` is missing: {_REMEDY}")
        self.factor = batches_of_candidates(keep)
        losses = _load(irreducible_losses) if isinstance(irreducible_losses, str) else irreducible_losses
        losses = torch.as_tensor(losses, dtype=torch.float64, device="cpu").detach()
        if losses.dim() != 1 or not bool(losses.isfinite().all()):
            raise ValueError(
                "`irreducible_losses` must be one finite number per instance, (N,), got the shape "
                f"{tuple(losses.shape)} with {int((~losses.isfinite()).sum())} that are not finite: {_REMEDY}"
            )
        self.irreducible_losses = losses

    def start(self, bins: Bins) -> None:
        super().start(bins)
        if len(self.irreducible_losses) != len(bins):
            raise ValueError(
                f"`irreducible_losses` are of {len(self.irreducible_losses)} instances, but the data set has "
                f"{len(bins)}: {_REMEDY}"
            )
        self._candidates = Candidates(bins)

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return self._candidates.draw(size * self.factor, generator)

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        assert scores.losses is not None, "they are read"
        reducible = self._known(scores.losses) - self.irreducible_losses.index_select(0, draw.indices)
        return Selection(reducible.argsort(descending=True, stable=True)[:size])

    def state_dict(self) -> dict[str, Any]:
        return {"candidates": self._candidates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._candidates.load_state_dict(state["candidates"])


def _load(path: str) -> Tensor:
    try:
        losses = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"`irreducible_losses` cannot be read from {path!r}, which is missing or no file of `torch.save`: {_REMEDY}"
        ) from error
    if not isinstance(losses, Tensor):
        raise ValueError(f"`irreducible_losses`: {path!r} has a {type(losses).__name__}, not a tensor (N,): {_REMEDY}")
    return losses
