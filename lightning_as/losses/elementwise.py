"""Losses of predictions and targets of one shape: sigmoid cross-entropy and squared error."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from lightning_as.losses.entries import check_weights, drop_label, per_class, rows, widen


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
            self.pos_weight: float | list[float] | None = check_weights("pos_weight", pos_weight)
        else:
            self.pos_weight = None if pos_weight is None else check_weights("pos_weight", [pos_weight])[0]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.dim() < 1:
            raise ValueError("`logits` must have the shape (B,) or (B, L, ...), got ().")
        targets = like_predictions(targets, logits, "logits")
        logits = widen(logits)
        weight = None
        if isinstance(self.pos_weight, list):
            weight = per_class("pos_weight", self.pos_weight, logits).view(-1, *[1] * (logits.dim() - 2))
        elif self.pos_weight is not None:
            weight = logits.new_full((), self.pos_weight)
        targets = targets.to(logits.dtype)
        return rows(binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")).mean(1)

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(pos_weight={self.pos_weight})"


class MeanSquaredError:
    """Squared error. A sample's loss is the mean over its entries.

    Called with predictions (B,) or (B, ...), and with targets of that shape. Nothing is broadcast: of unequal shapes
    only those go together of which one has a dimension of size 1 after the batch, such as (B, 1) and (B,).

    Returns:
        When called, the losses, (B,), float64 of float64 predictions and else float32.

    Raises:
        ValueError: When called, if the shapes do not fit.
    """

    def __call__(self, predictions: Tensor, targets: Tensor) -> Tensor:
        if predictions.dim() < 1:
            raise ValueError("`predictions` must have the shape (B,) or (B, ...), got ().")
        targets = like_predictions(targets, predictions, "predictions")
        predictions = widen(predictions)
        return rows(mse_loss(predictions, targets.to(predictions.dtype), reduction="none")).mean(1)

    def __repr__(self) -> str:
        return "MeanSquaredError()"


def like_predictions(targets: Tensor, predictions: Tensor, name: str) -> Tensor:
    """Targets in the shape of the predictions, of which either may lack a dimension of size 1 after the batch.

    Raises:
        TypeError: If the targets are no tensor.
        ValueError: If the shapes do not fit.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"`targets` must be a tensor, got a {type(targets).__name__}.")
    if targets.shape == predictions.shape:
        return targets
    if targets.shape != drop_label(predictions.shape) and drop_label(targets.shape) != predictions.shape:
        raise ValueError(
            f"`targets` must have the shape of the `{name}`, {tuple(predictions.shape)}, got {tuple(targets.shape)}."
        )
    return targets.reshape(predictions.shape)
