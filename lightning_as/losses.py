"""The loss of each sample of a batch, and the squared norm of its gradient with respect to the logits.

A loss is a callable ``(logits, targets) -> losses`` from a batch of B samples to (B,). No sample's loss depends on
another sample, and a sample of many entries, such as an image of labelled pixels, has one loss: their mean. The losses
of this module compute in float32 at least, and in float64 if the logits are float64.

Source: the gradient with respect to the logits bounds that with respect to all parameters, up to a constant that all
samples share: Katharopoulos and Fleuret, "Not All Samples Are Created Equal" (ICML 2018); Avalos, master's thesis
(2021), eqs. (80) to (87), the closed form for cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from lightning_as.core.arguments import check_share
from lightning_as.core.execution import loops

IGNORED = -100
"""The class index of a pixel, or a sample, without a label: it adds no loss."""


class CrossEntropy:
    """Softmax cross-entropy with class indices or class probabilities, of samples or of their pixels.

    Called with logits (B, C) or (B, C, ...), and with targets that are class indices, (B,) or (B, ...) integers, or
    class probabilities of the logits' shape. A sample's loss is the mean over its pixels, except those whose index
    is :data:`IGNORED`, and 0 if all of them are.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1). Default: 0.
        class_weights: Factor of each class in the loss, (C,). The mean over pixels is not divided by their sum.
            Default: None, which is 1 for all.

    Returns:
        When called, the losses in nats, (B,), float64 of float64 logits and else float32.

    Raises:
        ValueError: If an argument is out of range, or, when called, if a shape does not fit.
        TypeError: When called, if class indices are not integers.

    Example:
        >>> CrossEntropy()(torch.zeros(2, 4), torch.tensor([3, 0]))
        tensor([1.3863, 1.3863])
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: list[float] | None = None) -> None:
        check_share("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else _check_weights("class_weights", class_weights)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.dim() < 2:
            raise ValueError(f"`logits` must have the shape (B, C) or (B, C, ...), got {tuple(logits.shape)}.")
        indices = logits.shape[:1] + logits.shape[2:]
        if targets.shape not in (indices, logits.shape):
            raise ValueError(
                f"`targets` must be class indices of the shape {tuple(indices)} or class probabilities of the shape "
                f"{tuple(logits.shape)}, got the shape {tuple(targets.shape)}."
            )
        if targets.shape == indices and targets.is_floating_point():
            raise TypeError(f"`targets` of the shape {tuple(indices)} must be integers, got {targets.dtype}.")
        logits = _widen(logits)
        weights = None if self.class_weights is None else _per_class("class_weights", self.class_weights, logits)
        targets = targets.long() if targets.shape == indices else targets.to(logits.dtype)
        losses = _rows(
            cross_entropy(
                logits, targets, weights, ignore_index=IGNORED, reduction="none", label_smoothing=self.label_smoothing
            )
        )
        if targets.shape == logits.shape:
            return losses.mean(1)
        return losses.sum(1) / _rows(targets != IGNORED).sum(1).clamp(min=1)

    def __repr__(self) -> str:
        return f"CrossEntropy(label_smoothing={self.label_smoothing}, class_weights={self.class_weights})"


class BinaryCrossEntropy:
    """Sigmoid cross-entropy of one or more yes-or-no labels. A sample's loss is the mean over its entries.

    Called with logits (B,), (B, L) or (B, L, ...), and with targets of that shape: integers, bools or probabilities.
    If L is 1, its dimension may be missing: (B, 1) goes with (B,), and (B, 1, H, W) with (B, H, W).

    Args:
        pos_weight: Factor of the positive part of the loss: a number for all labels, or one for each, (L,).
            Default: None, which is 1.

    Returns:
        When called, the losses in nats, (B,), float64 of float64 logits and else float32.

    Raises:
        ValueError: If a weight is negative or not finite, or, when called, if a shape does not fit.
    """

    def __init__(self, pos_weight: float | list[float] | None = None) -> None:
        if isinstance(pos_weight, list):
            self.pos_weight: float | list[float] | None = _check_weights("pos_weight", pos_weight)
        else:
            self.pos_weight = None if pos_weight is None else _check_weights("pos_weight", [pos_weight])[0]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.dim() < 1:
            raise ValueError("`logits` must have the shape (B,) or (B, L, ...), got ().")
        shapes = (logits.shape, _drop_label(logits.shape))
        if targets.shape not in shapes and _drop_label(targets.shape) != logits.shape:
            raise ValueError(
                f"`targets` must have the shape of the `logits`, {tuple(logits.shape)}, got {tuple(targets.shape)}."
            )
        logits = _widen(logits)
        weight = None
        if isinstance(self.pos_weight, list):
            weight = _per_class("pos_weight", self.pos_weight, logits).view(-1, *[1] * (logits.dim() - 2))
        elif self.pos_weight is not None:
            weight = logits.new_full((), self.pos_weight)
        targets = targets.to(logits.dtype).view_as(logits)
        return _rows(binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")).mean(1)

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(pos_weight={self.pos_weight})"


class MeanSquaredError:
    """Squared error. A sample's loss is the mean over its entries.

    Called with predictions (B,) or (B, ...), and with targets of that shape. Nothing is broadcast: of unequal shapes
    only (B, 1) and (B,) go together.

    Returns:
        When called, the losses, (B,), float64 of float64 predictions and else float32.

    Raises:
        ValueError: When called, if the shapes do not fit.
    """

    def __call__(self, predictions: Tensor, targets: Tensor) -> Tensor:
        if predictions.dim() < 1:
            raise ValueError("`predictions` must have the shape (B,) or (B, ...), got ().")
        size = len(predictions)
        if predictions.shape != targets.shape and {predictions.shape, targets.shape} != {(size,), (size, 1)}:
            raise ValueError(
                f"`targets` must have the shape of the `predictions`, {tuple(predictions.shape)}, "
                f"got {tuple(targets.shape)}."
            )
        predictions = _widen(predictions)
        targets = targets.to(predictions.dtype).view_as(predictions)
        return _rows(mse_loss(predictions, targets, reduction="none")).mean(1)

    def __repr__(self) -> str:
        return "MeanSquaredError()"


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
    if _has_closed_form(loss, logits, targets):
        return _of_cross_entropy(logits, targets.long())
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
        return _rows(gradient).to(wide).square().sum(1)


def _has_closed_form(loss: object, logits: Tensor, targets: Tensor) -> bool:
    # A subclass may compute something else. MPS has no float64.
    if type(loss) is not CrossEntropy or logits.device.type == "mps":
        return False
    if loss.label_smoothing or loss.class_weights is not None:
        return False
    return logits.dim() == 2 and targets.shape == logits.shape[:1] and not targets.is_floating_point()


def _of_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.device.type == "cpu":
        try:  # hardly ever is a sample ignored, and to look for it costs a fifth of the bound
            return gradient_bound(logits, targets)
        except RuntimeError:  # a class out of range: an ignored one, or else the same again
            pass
    # Filled in rather than looked for: a look would make a GPU wait.
    ignored = targets == IGNORED
    return gradient_bound(logits, targets.masked_fill(ignored, 0)).masked_fill_(ignored, 0.0)


def _compiled_bound(compiled: ModuleType, logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype != torch.float32:
        logits = logits.to(torch.float64)
    bounds = torch.empty(len(logits), dtype=torch.float64, device="cpu")
    compiled.bound_gradients(logits.contiguous().numpy(), targets.contiguous().numpy(), bounds.numpy())
    return bounds


def _check_weights(name: str, weights: list[float]) -> list[float]:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"`{name}` must be finite and not negative, got {weights}.")
    return list(weights)


def _per_class(name: str, weights: list[float], logits: Tensor) -> Tensor:
    """The weights as a tensor, one for each of the logits' classes or labels."""
    count = logits.shape[1] if logits.dim() > 1 else 1
    if len(weights) != count:
        raise ValueError(f"`{name}` has {len(weights)} entries, but `logits` of {tuple(logits.shape)} need {count}.")
    return logits.new_tensor(weights)


def _drop_label(shape: torch.Size) -> torch.Size:
    """The shape without its dimension of labels, if there is just one label."""
    return shape[:1] + shape[2:] if shape[1:2] == (1,) else shape


def _widen(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _rows(entries: Tensor) -> Tensor:
    """(B, ...) as (B, entries of a sample), with one entry for (B,)."""
    return entries.unsqueeze(-1).flatten(1)
