"""How much a distribution lowers the variance of the gradient estimate, and why: the study ``variance``.

The gradient is that of the last layer, weights and bias, which is known of all instances at once: with h_i what enters
the layer, it is d_i ⊗ (h_i, 1) for instance i, so that its squared norm is G_i² = ‖d_i‖² (1 + ‖h_i‖²). Of one draw from
a distribution r with the weight 1/(N r_i), the trace of the covariance is

    V(r) = (1/N²) Σ G_i² / r_i − ‖(1/N) Σ d_i ⊗ (h_i, 1)‖²,

and each ``ratio_…`` is V(r) / V(1/N): below 1 the weighted estimate has less variance than a uniform draw's. All is
exact, over the whole training set, of the network as it is after the epoch, in evaluation mode. What is put for r:

* ``own``: the sampler's own distribution; ``own_floor``: nine tenths of it and a tenth uniform;
* ``q_loss``, ``q_bound``, ``q_norm``: its P, and Q in proportion to the losses l, the bounds ‖d‖, the norms G of now;
* ``p_sizes``, ``p_best``: its Q, and P the bins' shares of the data, or the one with the least variance for that Q,
  P_j ∝ (Σ_{i in j} G_i² / q_i)^½;
* ``loss``, ``bound``, ``norm``: in proportion to l, ‖d‖, G over the whole set; the last is the least that is possible;
* ``presample``: the estimate of upper-bound importance sampling, a batch of b of 3b candidates, over a uniform batch.

P and Q are those of the classes: P_j = Σ r_i over the class, q_i = r_i / P_j. Beside them ``moment_logits`` is the
ratio of the second moments of the gradients with respect to the logits, (1/N²) Σ ‖d_i‖² / r_i over (1/N) Σ ‖d_i‖²,
which ``moment_batch``, what the callback logs as ``adaptive/variance_ratio``, estimates from the last batches alone.

Of 512 images, ``factor`` is the norm of the gradient of all parameters over ‖d‖, which eq. (59) bounds by one number
for all of them: its quantiles, and how well ‖d‖ and the loss agree with the norm, by rank and by Pearson's correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_as.models.evaluation import Instances

SAMPLE = 512
"""Images whose whole gradients are looked at, the same ones in all trainings."""
_PRESAMPLE = 3
_SMALLEST_SHARE = 1e-12
"""Of the mean: added to losses, which are exactly 0 where the gradient is not quite."""


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What enters a layer while the context is open, (B, F) of each call, on the CPU."""
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().cpu()))
    try:
        yield found
    finally:
        handle.remove()


def probe(found: Instances, features: Tensor, own: Tensor, labels: Tensor, batch_size: int) -> dict[str, float]:
    """The variances of the module's docstring.

    Args:
        found: Losses and gradients with respect to the logits of the training set.
        features: h, (N, F).
        own: The sampler's distribution, (N,) float64.
        labels: The class of each instance, (N,).
        batch_size: b.

    Returns:
        By the names of :data:`thesis.results.PROBED`, but for those of whole gradients and of the batches.
    """
    bounds = found.gradients.norm(dim=1)
    squares = bounds.square() * (1 + features.to(torch.float64).square().sum(dim=1))
    mean = found.gradients.T @ torch.cat([features, features.new_ones(len(features), 1)], dim=1).to(torch.float64)
    mean_square, norms = float((mean / len(squares)).square().sum()), squares.sqrt()
    uniform = float(squares.mean()) - mean_square
    losses = found.losses + _SMALLEST_SHARE * found.losses.mean()
    candidates = distributions(own, losses, bounds, norms, labels)
    ratios = {f"ratio_{name}": (_second_moment(squares, r) - mean_square) / uniform for name, r in candidates.items()}
    return ratios | {
        "variance_layer": uniform,
        "ratio_presample": _presampled(bounds, squares, mean_square, batch_size),
        "moment_logits": _second_moment(bounds.square(), own) / float(bounds.square().mean()),
        "rank_loss_bound": _rank(found.losses, bounds),
    }


def distributions(own: Tensor, losses: Tensor, bounds: Tensor, norms: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What is put for r, see the module; all (N,) float64, and of sum 1."""

    def in_bins(values: Tensor) -> Tensor:
        """The sum over each instance's bin."""
        return values.new_zeros(int(labels.max()) + 1).index_add_(0, labels, values)[labels]

    size = len(own)
    p, share = in_bins(own), in_bins(torch.full_like(own, 1 / size))
    q = own / p
    best = in_bins(torch.where(norms == 0, 0.0, norms.square() / q)).sqrt()
    found = {
        "own": own,
        "own_floor": 0.9 * own + 0.1 / size,
        "q_loss": p * losses / in_bins(losses),
        "q_bound": p * bounds / in_bins(bounds),
        "q_norm": p * norms / in_bins(norms),
        "p_sizes": share * q,
        "p_best": best * q,
        "loss": losses,
        "bound": bounds,
        "norm": norms,
    }
    return {name: r / r.sum() for name, r in found.items()}


def whole_gradients(module: nn.Module, inputs: Tensor, losses: Tensor, gradients: Tensor) -> dict[str, float]:
    """How the norm of the gradient of all parameters goes with bound and loss, see the module.

    Args:
        module: In evaluation mode, so that an instance's gradient is its own.
        inputs: Of the sample, (S, …).
        losses: l, (S,).
        gradients: d, (S, C).
    """
    bounds = gradients.norm(dim=1)
    some = bounds > 0
    factors = gradient_factors(module, inputs[some.to(inputs.device)], (gradients / bounds[:, None])[some].to(inputs))
    bounds, losses = bounds[some].cpu(), losses[some].cpu()
    norms = factors * bounds
    low, middle, high = factors.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=factors.dtype)).tolist()
    return {
        "factor_low": low,
        "factor_median": middle,
        "factor_high": high,
        "rank_bound_norm": _rank(bounds, norms),
        "rank_loss_norm": _rank(losses, norms),
        "pearson_bound_norm": _pearson(bounds, norms),
        "pearson_loss_norm": _pearson(losses, norms),
    }


def gradient_factors(module: nn.Module, inputs: Tensor, directions: Tensor) -> Tensor:
    """‖J_iᵀ u_i‖, with J_i the Jacobian of the logits of instance i with respect to all parameters, (S,) float64.

    Args:
        module: Gives logits (1, C) for an instance.
        inputs: (S, …).
        directions: u, (S, C); with u = d / ‖d‖ nothing of a small gradient is rounded off.
    """
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    buffers = dict(module.named_buffers())

    def value(parameters: dict[str, Tensor], one: Tensor, direction: Tensor) -> Tensor:
        return functional_call(module, (parameters, buffers), (one[None],))[0] @ direction

    gradients = vmap(grad(value), in_dims=(None, 0, 0), chunk_size=64)
    squares = [
        part.flatten(1).to(torch.float64).square().sum(dim=1)
        for part in gradients(parameters, inputs, directions).values()
    ]
    return torch.stack(squares).sum(dim=0).sqrt().cpu()


def _rank(first: Tensor, second: Tensor) -> float:
    return float(np.asarray(spearmanr(first, second))[0])


def _pearson(first: Tensor, second: Tensor) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def _second_moment(squares: Tensor, r: Tensor) -> float:
    """(1/N²) Σ G²/r; infinite if what has a gradient is never drawn."""
    return float(torch.where(squares == 0, 0.0, squares / r).sum()) / len(squares) ** 2


def _presampled(bounds: Tensor, squares: Tensor, mean_square: float, batch_size: int) -> float:
    """The variance of b of M = 3b candidates, drawn in proportion to the bounds g, over that of a uniform batch of b.

    Candidates are independent, so that the second moment of one draw, the mean of Σ g Σ G²/g / M² over them, is
    E[G²]/M + (1 − 1/M) E[g] E[G²/g]. A batch has the b-th part of its variance, and that of the candidates' mean.
    """
    candidates = _PRESAMPLE * batch_size
    uniform = float(squares.mean()) - mean_square
    over = float(torch.where(bounds == 0, 0.0, squares / bounds).mean())
    moment = float(squares.mean()) / candidates + (1 - 1 / candidates) * float(bounds.mean()) * over
    within = moment - mean_square - uniform / candidates
    return within / uniform + batch_size / candidates
