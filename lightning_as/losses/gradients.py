"""The squared norm of the gradient of each sample's loss with respect to the logits.

Source: the gradient with respect to the logits bounds that with respect to all parameters, up to a constant that all
samples share: Katharopoulos and Fleuret, "Not All Samples Are Created Equal" (ICML 2018); Avalos, master's thesis
(2021), eqs. (80) to (87), the closed form for cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.execution import loops
from lightning_as.losses.cross_entropy import CrossEntropy
from lightning_as.losses.elementwise import BinaryCrossEntropy, MeanSquaredError
from lightning_as.losses.entries import rows


def gradient_bound(logits: Tensor, targets: Tensor) -> Tensor:
    """‖softmax(z) − y‖² of the softmax cross-entropy of each instance: thesis, eq. (87).

    Args:
        logits: z, (B, C), of any floating type.
        targets: Class of each instance, (B,) integers; y is its one-hot vector.

    Returns:
        The squared norms, (B,) float64, in [0, 2]. They carry no gradient.

    Raises:
        ValueError: If there is not one target for each instance.
        RuntimeError: If a target is not the index of a class.
    """
    if len(targets) != len(logits):
        raise ValueError(f"`targets` must be one for each of the {len(logits)} instances, got {len(targets)}.")
    compiled = loops(logits.device)
    if compiled is not None:
        return _compiled_bound(compiled, logits.detach(), targets)
    softmax = torch.softmax(logits.detach(), dim=1, dtype=torch.float64)
    others = softmax.scatter_(1, targets.unsqueeze(1), 0.0)
    # 1 − softmax_y is what the others sum to: subtracting would cancel all digits of a sure prediction.
    rest = others.sum(1)
    return torch.linalg.vecdot(others, others).addcmul_(rest, rest)


def squared_gradient_norms(loss: Callable[[Tensor, Any], Tensor], logits: Tensor, targets: Any) -> Tensor:
    """‖∂loss/∂z‖² of each sample's own loss by its own logits z, for any per-sample loss.

    In closed form for plain :class:`CrossEntropy` of samples, else by autograd on a copy of the logits, whatever
    mode the caller is in. No other gradient is touched, such as that of a parameter of the loss.

    Args:
        loss: Called with logits of the given shape, and with the targets as they are; gives (B,). The losses of
            this module are called with float64 logits, others with float32 ones at least, since they may hold tensors.
        logits: z, (B, ...), of any floating type.
        targets: What the loss takes, a tensor or anything else.

    Returns:
        The squared norms, (B,) float64 on the logits' device, without a gradient; float32 on MPS, which has no float64.

    Raises:
        ValueError: If the loss gives another shape than (B,).
    """
    if isinstance(loss, CrossEntropy) and _has_closed_form(loss, logits, targets):
        return _of_cross_entropy(logits, targets.long().flatten(), loss.ignore_index)
    # Autograd saves no tensors that were made in inference mode, only copies of them.
    with torch.inference_mode(False), torch.enable_grad():
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        ready = isinstance(loss, (CrossEntropy, BinaryCrossEntropy, MeanSquaredError))
        dtype = wide if ready else torch.promote_types(logits.dtype, torch.float32)
        z = logits.detach().to(dtype, copy=True).requires_grad_()
        losses = loss(z, targets.clone() if isinstance(targets, Tensor) and targets.is_inference() else targets)
        if losses.shape != logits.shape[:1]:
            raise ValueError(
                f"`loss` must give one loss per sample, {tuple(logits.shape[:1])}, got the shape "
                f"{tuple(losses.shape)}. Take the mean over a sample's entries, and none over the batch."
            )
        (gradient,) = torch.autograd.grad(losses.sum(), z)
        return rows(gradient).to(wide).square().sum(1)


def _has_closed_form(loss: CrossEntropy, logits: Tensor, targets: Any) -> bool:
    # A subclass may compute something else. MPS has no float64.
    if type(loss) is not CrossEntropy or logits.device.type == "mps" or logits.dim() != 2:
        return False
    if loss.label_smoothing or loss.class_weights is not None or loss.class_dim not in (None, 1, -1):
        return False
    shapes = (logits.shape[:1],) if logits.shape[1] == 1 else (logits.shape[:1], (len(logits), 1))
    return isinstance(targets, Tensor) and targets.shape in shapes and not targets.is_floating_point()


def _of_cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    if logits.device.type == "cpu" and not 0 <= ignore_index < logits.shape[1]:
        try:  # hardly ever is a sample ignored, and to look for it costs a fifth of the bound
            return gradient_bound(logits, targets)
        except RuntimeError:  # a class out of range: an ignored one, or else the same again
            pass
    # Filled in rather than looked for: a look would make a GPU wait.
    ignored = targets == ignore_index
    return gradient_bound(logits, targets.masked_fill(ignored, 0)).masked_fill_(ignored, 0.0)


def _compiled_bound(compiled: ModuleType, logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype != torch.float32:
        logits = logits.to(torch.float64)
    bounds = torch.empty(len(logits), dtype=torch.float64, device="cpu")
    compiled.bound_gradients(logits.contiguous().numpy(), targets.contiguous().numpy(), bounds.numpy())
    return bounds
