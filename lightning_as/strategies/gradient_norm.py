"""Importance sampling SGD: instances in proportion to the last known norm of their own gradient, weighted.

An instance is drawn, with replacement, with probability p_i ∝ ω_i, and its loss weighted by mean(ω) / ω_i = 1/(N p_i).
So the expected gradient is that of the plain mean loss, and its variance is least where ω_i is the gradient's norm. The
squared norm with respect to all fully connected layers costs no more than the batch's own backward pass:

    ‖∇_i‖² = Σ over linear layers (‖x_i‖² + 1) ‖∂L_i/∂y_i‖²,        ω_i = √‖∇_i‖² + c.

x and y are a layer's input and output, and the 1 is there if it has a bias. Of a layer that sees several positions of
an instance, as in a transformer, it is ‖Σ_t ∂L_i/∂y_it x_itᵀ‖² + ‖Σ_t ∂L_i/∂y_it‖². The constant c keeps old norms from
giving an instance up: no weight exceeds mean(ω) / c. Until enough instances have a norm that is not stale, sampling is
uniform.

Source: Alain, Lamb, Sankar, Courville, Bengio, "Variance Reduction in SGD by Distributed Importance Sampling" (2015,
arXiv:1511.06481) and the authors' code. Its draws are independent, `points="independent"` and the preset; by default
they are spread evenly.

Cost per step: No extra forward pass; the norms take a square and a sum of each linear layer's input and output
gradient. A layer on sequences of T positions takes T² (d_in + d_out) or T d_in d_out multiplications per instance,
whichever needs less memory, and its input is kept until the backward pass. O(batch · log N) for the
draw and the update; 25 bytes of memory per instance, with `staleness` 33.

Verified: The norm, the constant, the threshold and the weights in the authors' code; the paper's text, and which
constant and staleness its curves are of, could not be read. Departures: the source's workers score the whole data set
all the time, beside the training, while this learns the norms of the batches that are trained on; staleness is counted
in batches and not in seconds; and an instance whose norm is unknown or stale counts as the mean, where the source
leaves it out, and so minimises the mean loss of the others only.

When to use it: Networks of linear layers, with a loss that is the mean over the batch and must stay it.

When not: Convolutions do most of the work, for their gradients are not seen, nor are those of linear layers that a
module does not call, as of `nn.MultiheadAttention`; layers whose input does not begin with the batch; and batches so
small against the data set that all norms are old.
"""

from __future__ import annotations

from collections import deque
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_integer, check_positive, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.points import Kind, Points
from lightning_as.core.state import require_indices
from lightning_as.core.weighted_distribution import WeightedDistribution
from lightning_as.strategies.base import Strategy


class GradientNormSampling(Strategy):
    """Instances in proportion to the norm of their gradient in all linear layers, weighted.

    Args:
        constant: c, finite and at least 0, what is added to every norm. Default: 1. The authors' configurations have
            0.1, 1 and most often 10, for four layers of 2048 units, whose norms are large.
        staleness: Number of batches for which a norm is good, at least 1: that of the last batch is 1 old. None: for
            ever. Default: None. The source has 20 seconds, or 60 batches.
        warm_up: In [0, 1): sampling is uniform until a greater share of the instances has a norm that is good. Default:
            0.1, the source's.
        points: As in :class:`AdaptiveSampling`; the source's are independent. Default: ``"strata"``.

    Raises:
        TypeError: If `staleness` is not an integer.
        ValueError: If an option is out of its range.
    """

    reads = frozenset({"linear_bounds"})
    weighted = True

    def __init__(
        self,
        constant: float = 1.0,
        staleness: int | None = None,
        warm_up: float = 0.1,
        points: Kind = "strata",
    ) -> None:
        check_positive("constant", constant, with_zero=True)
        if staleness is not None:
            check_integer("staleness", staleness, unit="batches, or None for norms that never age")
        check_share("warm_up", warm_up)
        check_choice("points", points, get_args(Kind))
        self.constant = constant
        self.staleness = staleness
        self.warm_up = warm_up
        self.points: Kind = points

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._distribution = WeightedDistribution(bins)
        self._points = Points(len(bins), self.points)
        self._batches = 0  # learned from
        dated = 0 if self.staleness is None else len(bins)
        self._last = torch.zeros(dated, dtype=torch.int64, device="cpu")  # batch of each one
        self._recent: deque[Tensor] = deque()  # the instances of the last batches

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        points = self._points.take(size, generator)
        warm = self._warm
        draw = self._distribution.draw(points) if warm else self._drawn_uniformly((points * len(self.bins)).long())
        return draw._replace(weights=(len(self.bins) * draw.probabilities).reciprocal())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self._batches += 1
        self._distribution.set(draw.indices, bounds.sqrt().add_(self.constant))
        if self.staleness is None:
            return
        self._last.index_fill_(0, draw.indices, self._batches)
        self._recent.append(draw.indices.clone())
        if len(self._recent) > self.staleness:
            old = self._recent.popleft()
            self._distribution.forget(old[self._last[old] == self._batches - self.staleness])  # the others came again

    def probabilities(self) -> Tensor:
        if self._warm:
            return self._distribution.probabilities()
        return self._uniform(len(self.bins))

    def metrics(self) -> dict[str, float]:
        """Share of instances whose norm is good, and the mean of those norms."""
        known = self._distribution.known
        return {
            "usable": known / len(self.bins),
            "gradient_norm": self._distribution.mean - self.constant if known else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "staleness": str(self.staleness),
            "weights": self._distribution.state(),
            "batches": self._batches,
            "last": self._last.clone(),
            "recent": [part.clone() for part in self._recent],
            "drawn": self._points.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in state["recent"]:
            require_indices("recent", part, len(self.bins))
        self._distribution.load_state(state["weights"])
        self._batches = state["batches"]
        self._last = state["last"].clone()
        self._recent = deque(part.clone() for part in state["recent"])
        self._points.load_state_dict(state["drawn"])

    @property
    def _warm(self) -> bool:
        return self._distribution.known > self.warm_up * len(self.bins)
