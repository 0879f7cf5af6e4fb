"""The squared norm of the loss's gradient with respect to the logits, in closed form.

Thesis, eqs. (80) to (87); after Katharopoulos and Fleuret, "Not All Samples Are Created Equal" (ICML 2018),
who bound the norm of the whole gradient by that of the last layer's pre-activations, up to a constant that
all instances share.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_bound(logits: Tensor, targets: Tensor) -> Tensor:
    """‖softmax(z) − y‖² of the softmax cross-entropy, for each instance.

    Args:
        logits: z, (B, C), of any floating type.
        targets: Class of each instance, (B,) integers; y is its one-hot vector.

    Returns:
        The squared norms, (B,) float64, in [0, 2]. They carry no gradient.
    """
    softmax = torch.softmax(logits.detach(), dim=1, dtype=torch.float64)
    others = softmax.scatter_(1, targets.unsqueeze(1), 0.0)
    # 1 − softmax_y is what the others sum to: subtracting would cancel all digits of a sure prediction.
    rest = others.sum(1)
    return torch.linalg.vecdot(others, others).addcmul_(rest, rest)
