"""The squared norm of the loss's gradient with respect to the logits, in closed form.

Thesis, eqs. (80) to (87); after Katharopoulos and Fleuret, "Not All Samples Are Created Equal" (ICML 2018),
who bound the norm of the whole gradient by that of the last layer's pre-activations, up to a constant that
all instances share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_as.compiled import in_use, kernels


def gradient_bound(logits: Tensor, targets: Tensor) -> Tensor:
    """‖softmax(z) − y‖² of the softmax cross-entropy, for each instance.

    Args:
        logits: z, (B, C), of any floating type.
        targets: Class of each instance, (B,) integers; y is its one-hot vector.

    Returns:
        The squared norms, (B,) float64, in [0, 2]. They carry no gradient.
    """
    if in_use(logits.device):
        return _compiled(logits.detach(), targets)
    softmax = torch.softmax(logits.detach(), dim=1, dtype=torch.float64)
    others = softmax.scatter_(1, targets.unsqueeze(1), 0.0)
    # 1 − softmax_y is what the others sum to: subtracting would cancel all digits of a sure prediction.
    rest = others.sum(1)
    return torch.linalg.vecdot(others, others).addcmul_(rest, rest)


def _compiled(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype != torch.float32:
        logits = logits.to(torch.float64)
    if len(targets) != len(logits):
        raise RuntimeError(f"There are {len(targets)} targets for logits of the shape {tuple(logits.shape)}.")
    bounds = torch.empty(len(logits), dtype=torch.float64)
    kernels().bound_gradients(logits.contiguous().numpy(), targets.contiguous().numpy(), bounds.numpy())
    return bounds
