"""Biased importance sampling: instances in proportion to their loss, and weights that undo a part of it.

An instance is drawn, with replacement, with probability p_i ∝ s_i, where s_i = (last loss + smoothing)^exponent. One
that has no loss yet counts as the mean of those that have. With w_i = (Σ s / N) / s_i, the weight that makes the
estimate of the mean loss unbiased, the losses of a batch are weighted by

    ŵ_i = w_i^k · Σ_batch w s / Σ_batch w^k s.

So k = 1 is unbiased; k = 0 weights all alike, which stresses the large losses; and k → −∞ goes towards the largest loss
alone. The factor keeps the weighted sum of the batch's scores what it is with k = 1.

With ``predictor="lstm"`` the scores are not the last losses but what a small recurrent network predicts from an
instance's last 10 losses and its bin (:mod:`lightning_as.strategies._loss_predictor`), at least 10⁻⁶. For each batch
`presample` indices are drawn uniformly, scored, and the batch from them, in proportion; Σ s / N is the mean of their
scores. A drawn instance's probability is then 1/(N w_i), as estimated from the presample.

Source: Katharopoulos and Fleuret, "Biased Importance Sampling for Deep Neural Network Training" (2017,
arXiv:1706.00043) and its library, `HistorySampler`, `LSTMSampler`, `BiasedReweightingPolicy`; sampling in proportion to
the last loss also in section 5 of Schaul et al., "Prioritized Experience Replay" (2015), there without weights. Their
draws are independent, `points="independent"` and the preset; by default those of ``"history"`` are spread evenly.

Cost per step: No extra forward pass of the module. ``"history"``: O(batch · log N). ``"lstm"``: a forward pass of the
small network on `presample` instances and a training step on the batch, some 30 ms on one CPU core once the histories
are full. 25 bytes of memory per instance, ``"lstm"`` 63.

Verified: Weights, scores, the network, its 10 losses, first loss of 1, presample of 2048, clipping at 10⁻⁶ and the
defaults k = 0.5 and smoothing 0 in the authors' code; the paper's text and its results could not be read. Departures:
`HistorySampler` also recomputes all scores by forward passes every few batches, this does not; its library smooths and
takes powers separately. In the network torch's initial parameters of the LSTMs and of the linear layer, and Adam's ε,
take the place of those of Keras, a loss of exactly 0 counts where Keras masks it, and losses are cut at 10⁶.

When to use it: As the simplest sampling by losses, between plain importance sampling (k = 1) and stress on what is
hard.

When not: With smoothing 0 an instance whose loss was 0 once is never drawn again, and one with a small loss rarely,
however the model changes; noisy labels are drawn most.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_positive
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.points import Kind, Points
from lightning_as.core.weighted_distribution import WeightedDistribution
from lightning_as.strategies._loss_predictor import LossPredictor
from lightning_as.strategies.base import Strategy

Predictor = Literal["history", "lstm"]
_LARGEST = 1e200  # of a score: the sum over a data set is finite
_SMALLEST_PREDICTION = 1e-6


class LossProportional(Strategy):
    """Instances in proportion to their last, or predicted, loss; weighted in part.

    Args:
        smoothing: What is added to every loss, at least 0; more is more uniform. Default: 0, as in the authors' code.
        exponent: The power of loss + smoothing, at least 0. Default: 1, as in the paper; `PowerSmoothing` of the
            authors' code takes 0.5.
        bias_exponent: k, at most 1: the power of the weights. Default: 0.5, as in the authors' code.
        predictor: Where the losses come from. ``"history"``: the last known one. ``"lstm"``: predicted by a small
            network. Default: ``"history"``.
        presample: Uniformly drawn instances that the small network scores for each batch, at least 1. Default: 2048, as
            in the authors' code.
        seed: Seed of the small network's initial parameters. Default: 0.
        points: As in :class:`AdaptiveSampling`, for ``"history"``; the authors' are independent, and so are all of
            ``"lstm"``, whose distribution is another in each batch. Default: ``"strata"``.

    Raises:
        TypeError: If `presample` or `seed` is not an integer.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"losses"})
    weighted = True
    samples_by_loss = True

    def __init__(
        self,
        smoothing: float = 0.0,
        exponent: float = 1.0,
        bias_exponent: float = 0.5,
        predictor: Predictor = "history",
        presample: int = 2048,
        seed: int = 0,
        points: Kind = "strata",
    ) -> None:
        for name, value in (("smoothing", smoothing), ("exponent", exponent)):
            check_positive(name, value, with_zero=True)
        if not -math.inf < bias_exponent <= 1:
            raise ValueError(f"`bias_exponent` must be finite and at most 1, which is unbiased; got {bias_exponent}.")
        check_choice("predictor", predictor, get_args(Predictor))
        check_integer("presample", presample, unit="instances")
        check_integer("seed", seed, least=-(2**63))
        check_choice("points", points, get_args(Kind))
        self.smoothing = smoothing
        self.exponent = exponent
        self.bias_exponent = bias_exponent
        self.predictor: Predictor = predictor
        self.presample = presample
        self.seed = seed
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._distribution = WeightedDistribution(bins)
        self._points = Points(len(bins), self.points if self.predictor == "history" else "independent")
        self._small = LossPredictor(bins, self.seed) if self.predictor == "lstm" else None

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        points = self._points.take(size, generator)
        draw = self._distribution.draw(points) if self._small is None else self._draw_presampled(points, generator)
        weights = biased_weights(draw.probabilities * len(self.bins), self.bias_exponent)
        return draw._replace(weights=weights)

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        if self._small is None:
            self._distribution.set(draw.indices, self._scores(losses))
        else:
            self._small.learn(draw.indices, losses)

    def probabilities(self) -> Tensor:
        """The present distribution, (N,) float64; with ``"lstm"`` that of a presample of everything. O(N)."""
        if self._small is None:
            return self._distribution.probabilities()
        parts = torch.arange(len(self.bins), device="cpu").split(4096)
        scores = torch.cat([self._predicted_scores(part) for part in parts])
        total = scores.sum()
        return scores / total if float(total) else torch.full_like(scores, 1 / len(scores))

    def metrics(self) -> dict[str, float]:
        """Share of instances seen; of the small network the root mean squared error for the last batch."""
        if self._small is None:
            return {"seen": self._distribution.known / len(self.bins)}
        return {"seen": self._small.seen / len(self.bins), "prediction_error": self._small.error}

    def state_dict(self) -> dict[str, Any]:
        state = self._distribution.state() if self._small is None else self._small.state_dict()
        return {"predictor": self.predictor, "state": state, "drawn": self._points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._small is None:
            self._distribution.load_state(state["state"])
        else:
            self._small.load_state_dict(state["state"])
        self._points.load_state_dict(state["drawn"])

    def _scores(self, losses: Tensor) -> Tensor:
        return (losses + self.smoothing).pow(self.exponent).clamp_(max=_LARGEST)

    def _predicted_scores(self, indices: Tensor) -> Tensor:
        assert self._small is not None
        return self._scores(self._small.predict(indices).clamp_(min=_SMALLEST_PREDICTION))

    def _draw_presampled(self, points: Tensor, generator: torch.Generator) -> Draw:
        candidates = torch.randint(len(self.bins), (self.presample,), generator=generator, device="cpu")
        scores = self._predicted_scores(candidates)
        mean = scores.mean()
        if not float(mean):  # a large exponent may leave nothing of them
            scores, mean = torch.ones_like(scores), torch.ones_like(mean)
        cumulative = scores.cumsum(0)
        chosen = torch.searchsorted(cumulative / cumulative[-1], points, right=True)
        indices = candidates[chosen]
        return Draw(indices, self.bins.of(indices), scores[chosen] / (mean * len(self.bins)))


def biased_weights(relative: Tensor, exponent: float) -> Tensor:
    """The weights ŵ of a batch.

    Args:
        relative: N p of each instance, that is its score over the mean score, (B,) float64, above 0.
        exponent: k, at most 1.

    Returns:
        ŵ, (B,): the unbiased 1/(N p) to the power k, times what keeps the weighted sum of the scores.
    """
    powers = relative.log().mul_(-exponent)
    powers = powers.sub_(powers.max()).exp_()  # a common factor cancels
    return powers * (len(relative) / (powers * relative).sum())
