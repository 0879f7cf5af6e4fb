"""The norm of the gradient of one sample's loss with respect to a linear layer, of all samples of a batch at once.

With inputs x_t and output gradients g_t at the positions t of a sample its gradient is Σ_t g_t x_tᵀ for the weight and
Σ_t g_t for the bias. The squared norm of the first is Σ_{s,t} (g_s·g_t)(x_s·x_t), for which the products of all pairs
of positions are enough. They are fewer than the weight's entries if the sequence is short, and otherwise the gradient
itself is made. After Goodfellow, "Efficient Per-Example Gradient Computations" (2015), for one position; Li, Tramèr,
Liang, Hashimoto, "Large Language Models Can Be Strong Differentially Private Learners" (2022), for sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**24  # numbers that are made at a time, 64 MB of float32


def squared_gradients(given: Tensor, weight: bool, bias: bool, gradient: Tensor) -> Tensor:
    """The squared norm of each sample's gradient with respect to a layer's parameters.

    Args:
        given: The layer's input x, (B, …, d_in), with any number of dimensions of positions.
        weight: Whether the weight counts.
        bias: Whether the bias counts.
        gradient: The gradient of the sum of all losses with respect to the layer's output, g, (B, …, d_out).

    Returns:
        The squared norms, (B,) float64, from products in float32, or in float64 if one of both is.
    """
    wide = torch.promote_types(torch.promote_types(given.dtype, gradient.dtype), torch.float32)
    inputs, gradients = (part.reshape(len(part), -1, part.shape[-1]) for part in (given, gradient))
    squares = gradients.new_zeros(len(gradients), dtype=torch.float64)
    if bias:
        squares += gradients.sum(1, dtype=torch.float64).square().sum(1)
    if weight:
        positions, entries = inputs.shape[1], inputs.shape[2] * gradients.shape[2]
        in_pairs = 2 * positions**2 <= entries
        block = max(1, _BLOCK // (2 * positions**2 if in_pairs else entries))
        blocks = zip(inputs.split(block), gradients.split(block), strict=True)
        squares += torch.cat([_of_weight(x.to(wide), g.to(wide), in_pairs) for x, g in blocks])
    return squares


def _of_weight(x: Tensor, g: Tensor, in_pairs: bool) -> Tensor:
    """‖Σ_t g_t x_tᵀ‖² of each sample, (B,) float64, from (B, T, d_in) and (B, T, d_out)."""
    if not in_pairs:
        return (g.mT @ x).square().sum((1, 2), dtype=torch.float64)
    return (g @ g.mT).mul_(x @ x.mT).sum((1, 2), dtype=torch.float64).clamp_(min=0)  # rounding may have gone below
