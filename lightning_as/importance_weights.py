"""Importance weights: what makes the gradient of sampled batches the gradient of the plain mean again.

An instance drawn with probability r_i instead of 1/N counts w_i = 1 / (N r_i) times; then the expected gradient is that
of the mean loss over the data set. Thesis, eq. (65). The weights reach the loss of a module that knows nothing of
them by scaling the rows of its logits' gradient: for a mean of per-sample losses that is the weighted mean's gradient.
Batch norm in training mode couples the samples before the logits: its statistics are of the sampled batch all the same.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Weighting = Literal["none", "unbiased", "clipped", "power"]


def importance_weights(
    probabilities: Tensor, size: int, weighting: Weighting = "unbiased", limit: float = 10.0, power: float = 0.5
) -> Tensor:
    """The weight of each drawn instance, 1 where the law is the uniform one.

    Args:
        probabilities: r of each drawn instance under the law that it was drawn from, (B,).
        size: Number of instances in the data set, N.
        weighting: ``"unbiased"``: w = 1 / (N r), eq. (65). ``"clipped"``: min(w, `limit`), which bounds the variance.
            ``"power"``: w^`power`, between no weights (0) and unbiased ones (1). ``"none"``: 1.
        limit: The largest weight of ``"clipped"``. Default: 10.
        power: The exponent of ``"power"``. Default: 0.5.

    Returns:
        The weights, (B,), in the type of `probabilities`.
    """
    if weighting == "none":
        return torch.ones_like(probabilities)
    weights = (probabilities * size).reciprocal()
    if weighting == "clipped":
        return weights.clamp(max=limit)
    return weights.pow(power) if weighting == "power" else weights


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is scaled row by row: ``ScaleGradient.apply(logits, weights)``.

    Logits are (B, …), weights (B,).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return logits.clone()  # not a view, which may not be changed in place afterwards

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (weights,) = ctx.saved_tensors
        rows = weights.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))
        return gradient * rows, None
