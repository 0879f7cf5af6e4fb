"""What a forward pass beside the training finds out for a strategy."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reading = Literal["losses", "bounds", "linear_bounds", "logits", "features", "inputs", "entropies"]
"""``bounds`` are the squared norms of the gradients with respect to the logits, ``linear_bounds`` those with respect to
the parameters of all linear layers, which are known of trained batches alone."""

_BLOCK = 2**20  # logits that are worked on at a time, 8 MB of float64


class Scores(NamedTuple):
    """What a forward pass in evaluation mode finds out of some instances; what was not asked for is None.

    On the CPU. One number of each instance is float64, the others stay as they are.
    """

    losses: Tensor | None = None
    """The loss of each, (M,)."""
    bounds: Tensor | None = None
    """The squared norm of the gradient of each loss with respect to the logits, (M,)."""
    logits: Tensor | None = None
    """(M, C): of all instances that is a lot."""
    features: Tensor | None = None
    """What goes into the last linear layer, (M, d)."""
    inputs: Tensor | None = None
    """The inputs themselves, flattened, (M, d)."""
    entropies: Tensor | None = None
    """The entropy of the predicted classes of each, in nats, (M,); NaN where a logit is not finite."""


def entropies_of(logits: Tensor) -> Tensor:
    """The entropy of the softmax of each row, block by block.

    Args:
        logits: (M, C), of at least two classes.

    Returns:
        The entropies in nats, (M,) float64 where there is float64; NaN where a logit is not finite.

    Raises:
        ValueError: If the shape is another.
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            "The strategy goes by the entropy of the predicted classes, from logits (M, C) with C ≥ 2, but they are "
            f"{tuple(logits.shape)}: let `logits_from` name what gives one logit per class, for two classes two of "
            "them, or use another strategy."
        )
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    blocks = (rows.to(wide).log_softmax(1) for rows in logits.split(max(1, _BLOCK // logits.shape[1])))
    return torch.cat([(log_p.exp() * log_p).sum(1).neg_() for log_p in blocks])
