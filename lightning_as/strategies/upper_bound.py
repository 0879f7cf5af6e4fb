"""Importance sampling by an upper bound of the gradient norm: score more than is trained on, once that is worth it.

B = presample · b candidates are drawn uniformly with replacement and scored by a forward pass: s_i is the norm of the
loss's gradient with respect to the logits, which bounds the norm of the whole gradient up to a factor common to all.
Of them b are chosen with replacement with probabilities g_i = s_i / Σ s, and their losses get the weights
w_i = 1 / (B g_i), so that the mean of the weighted losses has the mean over the data set as its expectation. The
variance of the gradient is then that of a uniform batch that is larger by the factor τ, of which a running mean is
kept: τ ← a τ + (1 − a) τ_new with τ_new = (B Σ g²)^½, which is what the source's 1/√(1 − Σ (g − 1/B)²/Σ g²) comes to.
While τ is not above a threshold, plain uniform batches of b are trained on, with weights of 1, and τ_new is that of
their scores in the training step.

A chosen instance has, with the choice counted in, the probability r_i = B g_i / N: its candidate was drawn with
probability 1/N, and is B g_i times as likely to be trained on as one of B equals. ``weights="unbiased"``, 1/(N r_i), is
therefore w_i. If all scores are 0, g is uniform.

Source: Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance Sampling" (ICML
2018, arXiv:1803.00942), Algorithm 1, and the authors' library (idiap/importance-sampling, `ImportanceTraining`).

Cost per step: While it is active `presample` forward passes of the batch beside the training, none otherwise. The
threshold of (B + 3b)/3b is where that pays, if a backward pass costs two forward passes. O(B) for the choice.

Verified: The authors' library line by line (sampler, condition, its momentum, the threshold). Not verified: the paper's
own text, and so the exponent in its τ. Draws are independent, as there: of the uniform distribution evenly spread ones
would be shuffled epochs. A variance falls with the batch size itself, so that the factor should be B Σ g² without the
root: ``tau_form="ratio"``. With several processes each chooses from its own share of the candidates, and τ takes a step
for each of them; another number of them chooses otherwise.

When to use it: The forward pass is cheap beside the backward pass, gradients differ much between instances, and the
gradient must stay that of the mean loss.

When not: Steps are short already, or batch norm and dropout make scores in evaluation mode poor guides: the authors
advise against both.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies.batch_selector import BatchSelector, Selection
from lightning_as.strategies.scores import Scores

Score = Literal["bound", "loss"]
TauForm = Literal["sqrt", "ratio"]

_SMALLEST_TOTAL = 1e-300  # below this the shares of the scores are not precise


class UpperBoundImportanceSampling(BatchSelector):
    """Candidates chosen in proportion to their gradient bounds, once that is worth it.

    Args:
        presample: B/b, batches of candidates for one batch to train on, at least 2. Default: 3, the authors'.
        threshold: τ_th, above which candidates are scored. Default: (B + 3b)/3b, the authors', 2 with `presample` 3.
        momentum: a in [0, 1), the share of the old τ that each batch leaves. Default: 0.9, the authors'.
        score: ``"bound"``: the norm of the gradient with respect to the logits. ``"loss"``: the loss, the authors'
            other choice. Default: ``"bound"``.
        tau_form: ``"sqrt"``: (B Σ g²)^½, the authors'. ``"ratio"``: B Σ g², the factor by which the variance falls.
            Default: ``"sqrt"``.

    Raises:
        TypeError: If `presample` is not an integer.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"losses", "bounds"})
    weighted = True
    knows_probabilities = True

    def __init__(
        self,
        presample: int = 3,
        threshold: float | None = None,
        momentum: float = 0.9,
        score: Score = "bound",
        tau_form: TauForm = "sqrt",
    ) -> None:
        check_integer("presample", presample, least=2, unit="batches of candidates")
        if threshold is not None and not 0 <= threshold < math.inf:
            raise ValueError(
                f"`threshold` must be finite and not negative, got {threshold}: 0 scores from the second batch on."
            )
        check_share("momentum", momentum)
        check_choice("score", score, get_args(Score))
        check_choice("tau_form", tau_form, get_args(TauForm))
        self.presample = presample
        self.threshold = (presample + 3) / 3 if threshold is None else threshold
        self.momentum = momentum
        self.score: Score = score
        self.tau_form: TauForm = tau_form
        self.reads = frozenset({"losses"} if score == "loss" else {"bounds"})
        self.samples_by_loss = score == "loss"

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._tau = 0.0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        size *= self.presample if self._tau > self.threshold else 1
        return self._drawn_uniformly(torch.randint(len(self.bins), (size,), generator=generator, device="cpu"))

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        found = scores.losses if self.score == "loss" else scores.bounds
        assert found is not None, "it is read"
        found = self._known(found)
        if self.samples_by_loss and float(found.min()) < 0:
            raise ValueError(
                f"`losses` must not be negative to sample by them, got {float(found.min())}: add a constant to them, "
                "or use `score='bound'`."
            )
        shares = _shares(found if self.score == "loss" else found.sqrt())
        self._note(shares)
        cumulative = shares.cumsum(0)
        uniforms = torch.rand(size, dtype=torch.float64, generator=generator, device="cpu") * cumulative[-1]
        positions = torch.searchsorted(cumulative, uniforms, right=True)  # never one whose share is 0
        ratios = len(shares) * shares[positions]
        return Selection(positions, weights=ratios.reciprocal(), probabilities=ratios / len(self.bins))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        # What was chosen of candidates has weights, and was noted with them.
        if draw.weights is None and len(draw.indices):
            self._note(_shares(losses if self.score == "loss" else bounds.sqrt()))

    def metrics(self) -> dict[str, float]:
        """τ, and whether it is above the threshold."""
        return {"tau": self._tau, "active": float(self._tau > self.threshold)}

    def state_dict(self) -> dict[str, Any]:
        return {"tau": self._tau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tau = state["tau"]

    def _note(self, shares: Tensor) -> None:
        """One step of the running mean of τ."""
        ratio = len(shares) * float(shares.square().sum())
        tau = math.sqrt(ratio) if self.tau_form == "sqrt" else ratio
        self._tau = self.momentum * self._tau + (1 - self.momentum) * tau


def _shares(scores: Tensor) -> Tensor:
    """g: scores that are not negative as parts of 1, equal ones if all are 0."""
    total = scores.sum()
    if float(total) < _SMALLEST_TOTAL:
        return torch.full_like(scores, 1 / len(scores))
    return scores / total
