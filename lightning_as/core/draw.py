"""What one draw of a batch leaves behind until the batch has been trained on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST_UNIFORM = 1 - 2**-53
"""The largest float64 below 1."""


class Draw(NamedTuple):
    """A drawn batch. The probabilities are those of the distribution at the time of the draw."""

    indices: Tensor
    """Instances, (B,) int64."""
    bins: Tensor
    """The bin of each instance, (B,) int64."""
    probabilities: Tensor
    """Probability r_i of each instance under the whole distribution, (B,) float64."""
    within: Tensor | None = None
    """Probability of each instance given the bin it was drawn from, (B,) float64; None where bins are of no use.

    That bin is another one than in :attr:`bins` where a strategy makes bins of its own.
    """
    weights: Tensor | None = None
    """The factors on the losses that the method's source asks for, (B,) float64; None where it asks for none."""

    def select(self, positions: Tensor) -> Draw:
        """A part of the batch: the instances at the given positions, (b,) int64."""
        parts = (None if field is None else field.index_select(0, positions) for field in self)
        return Draw(*parts)  # pyright: ignore[reportArgumentType]

    def to(self, device: torch.device | str) -> Draw:
        """The same on another device."""
        parts = (None if field is None else field.to(device) for field in self)
        return Draw(*parts)  # pyright: ignore[reportArgumentType]


def effective_sample_size(probabilities: Tensor) -> Tensor:
    """Number of instances that a distribution is effectively spread over: 1 / Σ r².

    Estimated from draws: the mean of r over draws from r is an unbiased estimate of Σ r². The uniform distribution
    gives N, one on m instances in equal shares gives m.

    Args:
        probabilities: r of each drawn instance, (B,).

    Returns:
        The estimate, a number of instances, ().
    """
    return probabilities.mean().reciprocal()


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Random numbers, which all come from generators of the CPU, on a device, without waiting until they are there.

    One generator for all devices makes the draws of a seed the same wherever the state is.
    """
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def stratified_uniforms(size: int, generator: torch.Generator) -> Tensor:
    """Uniforms in [0, 1), one in each of `size` equal parts, ascending: (size,) float64.

    What the inverse of a cumulative distribution makes of one of them, taken at random, is drawn from it. Together they
    are spread more evenly than independent draws.
    """
    uniforms = torch.rand(size, dtype=torch.float64, generator=generator, device="cpu")
    uniforms.add_(torch.arange(size, device="cpu")).div_(size)
    return uniforms.clamp_(max=LARGEST_UNIFORM)  # rounding may have given 1


Weighting = Literal["none", "unbiased", "clipped", "power"]


def importance_weights(
    probabilities: Tensor, size: float, weighting: Weighting = "unbiased", limit: float = 10.0, power: float = 0.5
) -> Tensor:
    """The weight of each drawn instance, 1 where the distribution is the uniform one.

    Args:
        probabilities: r of each drawn instance under the distribution that it was drawn from, (B,).
        size: Number of instances in the data set, N; of those in a process of its own :attr:`Bins.mean_size`.
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
