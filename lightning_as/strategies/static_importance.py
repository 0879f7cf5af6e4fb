"""Static importance sampling: instances in fixed proportion to how fast their gradients can change, half uniform.

For losses whose gradients are Lipschitz with constants L_i the distribution

    p_i = λ/N + (1 − λ) L_i / Σ L,        w_i = 1 / (N p_i) ≤ 1/λ,

lets weighted SGD converge at a rate that depends on the mean of the constants and not on the largest. With λ = ½ it
also keeps the dependence on the noise at the optimum, at most doubled; λ = 0 is p_i ∝ L_i. The distribution never
moves.

Constants that are not given are taken once, before the first draw, from the inputs: L_i ∝ ‖x_i‖². That supposes a
linear model with a loss of bounded second derivative, such as least squares or logistic regression, whose per-sample
gradient has the constant c ‖x_i‖²; of a deep network it is no more than a guess. The common factor cancels. If all are
0, the distribution is uniform; until they are known, too.

Source: Needell, Srebro, Ward, "Stochastic Gradient Descent, Weighted Sampling, and the Randomized Kaczmarz Algorithm"
(2013, arXiv:1310.5715), partially biased sampling, λ = ½. Zhao and Zhang, "Stochastic Optimization with Importance
Sampling for Regularized Loss Minimization" (ICML 2015), p_i = L_i / Σ L in Iprox-SMD. Their draws are independent,
`points="independent"` and the preset; by default they are spread evenly.

Cost per step: No extra forward pass; O(batch · log N). Once, if constants are to be estimated, a pass over the data
without the model, whose inputs are all in memory at that moment. 32 bytes of memory per instance.

Verified: The formula of Zhao and Zhang in the paper's full text. Needell et al. from the abstract and secondary
sources: the exact form of the theorem could not be verified, and of the published MATLAB file the slip `1/2*n` is not
copied. Weights multiply the losses, where Needell et al. divide the step.

When to use it: Linear models, and inputs whose norms differ by much.

When not: Inputs of about the same norm, such as images, on which it is nearly uniform sampling with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_as.core.arguments import check_choice, check_share
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.points import Kind, Points
from lightning_as.core.state import require
from lightning_as.strategies.base import Strategy
from lightning_as.strategies.scores import Scores


class StaticImportanceSampling(Strategy):
    """A fixed distribution from Lipschitz constants, such as squared input norms, mixed with the uniform.

    Args:
        uniform_share: λ in [0, 1], the share of the uniform distribution; no weight exceeds 1/λ. Default: 0.5, as
            Needell et al. Zhao and Zhang's is 0, with which an instance of constant 0 is never drawn.
        constants: L of each instance, (N,) numbers, finite and not negative; a tensor will do. None: the squared norms
            of the inputs. Default: None.
        points: As in :class:`AdaptiveSampling`; the sources' are independent. Default: ``"strata"``.

    Raises:
        ValueError: If an option is out of its range; in :meth:`start` if there is not a constant for each instance.
    """

    reads = frozenset({"inputs"})  # of an object, nothing if the constants are given
    weighted = True

    def __init__(
        self, uniform_share: float = 0.5, constants: Sequence[float] | None = None, points: Kind = "strata"
    ) -> None:
        check_share("uniform_share", uniform_share, with_one=True)
        check_choice("points", points, get_args(Kind))
        self.uniform_share = uniform_share
        self.points: Kind = points
        self.constants = None if constants is None else _check(constants)
        self.reads = frozenset({"inputs"}) if constants is None else frozenset()

    def start(self, bins: Bins) -> None:
        super().start(bins)
        if self.constants is not None and len(self.constants) != len(bins):
            raise ValueError(
                f"`constants` must be one for each of the {len(bins)} instances, got {len(self.constants)}."
            )
        self._points = Points(len(bins), self.points)
        self._set(self.constants)

    @property
    def scoring(self) -> bool:
        return self._known is None

    def wanted(self) -> Tensor | None:
        return torch.arange(len(self.bins), device="cpu") if self._known is None else None

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.inputs is not None, "`reads` asks for them"
        constants = torch.empty(len(indices), dtype=torch.float64, device="cpu")
        squares = [part.to(torch.float64).square().sum(1) for part in scores.inputs.split(1024)]  # float64 in parts
        constants[indices] = torch.cat(squares)
        at = (~constants.isfinite()).nonzero()
        if len(at):
            raise ValueError(
                f"The squared norm of the input {int(at[0])} is {float(constants[at[0]])}: correct the data, or give "
                "`constants`."
            )
        self._set(constants)

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        indices = torch.searchsorted(self._cumulative, self._points.take(size, generator), right=True)
        probabilities = self._probabilities.index_select(0, indices)
        weights = (len(self.bins) * probabilities).reciprocal()
        return Draw(indices, self.bins.of(indices), probabilities, weights=weights)

    def probabilities(self) -> Tensor:
        return self._probabilities.clone()

    def metrics(self) -> dict[str, float]:
        """The largest weight there can be."""
        smallest = float(self._probabilities[self._probabilities > 0].min())
        return {"largest_weight": 1 / (len(self.bins) * smallest)}

    def state_dict(self) -> dict[str, Any]:
        constants = None if self._known is None else self._known.clone()
        return {"constants": constants, "drawn": self._points.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        constants = state["constants"]
        if self.constants is not None and (constants is None or not torch.equal(constants, self.constants)):
            raise ValueError("The state to load is of other `constants` than those given: use those it was saved with.")
        if constants is not None:
            fits = isinstance(constants, Tensor) and constants.shape == (len(self.bins),)
            require(fits and constants.dtype == torch.float64, "`constants` is not a number for each instance")
            constants = _check(constants)
        self._set(constants)
        self._points.load_state_dict(state["drawn"])

    def _set(self, constants: Tensor | None) -> None:
        """Make the distribution from the constants; the uniform one if they are not known, or all 0."""
        self._known = constants
        probabilities = self._uniform(len(self.bins))
        if constants is not None and float(constants.max()) > 0:
            relative = constants / constants.max()  # whose sum neither overflows nor is 0
            share = 1 - self.uniform_share
            probabilities.mul_(self.uniform_share).add_(relative, alpha=share / float(relative.sum()))
        self._probabilities = probabilities
        cumulative = probabilities.cumsum(0)
        self._cumulative = cumulative / cumulative[-1]  # ends in exactly 1


def _check(constants: Sequence[float] | Tensor) -> Tensor:
    constants = torch.as_tensor(constants, dtype=torch.float64, device="cpu")
    if constants.dim() != 1 or len(constants) == 0:
        raise ValueError(f"`constants` must be one number per instance, got the shape {tuple(constants.shape)}.")
    wrong = (~((constants >= 0) & constants.isfinite())).nonzero()[:, 0]
    if len(wrong):
        raise ValueError(
            f"`constants` must be finite and not negative, got {float(constants[wrong[0]])} at position "
            f"{int(wrong[0])}."
        )
    return constants.clone()
