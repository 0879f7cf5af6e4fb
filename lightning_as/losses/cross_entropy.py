"""Softmax cross-entropy of each sample, right to the last digit however sure a prediction is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as.core.arguments import check_share
from lightning_as.losses.entries import check_weights, is_labelled, mean_of_labelled, per_class, rows, widen

IGNORED = -100
"""The class index of a pixel, or a sample, without a label, unless a loss is given another: it adds no loss."""


class CrossEntropy:
    """Softmax cross-entropy with class indices or class probabilities, of samples or of their pixels or tokens.

    Called with logits (B, C), (B, C, ...) or (B, ..., C), and with targets that are class indices, (B,) or (B, ...)
    integers, or class probabilities of the logits' shape. A sample's loss is the mean over its pixels, except those
    whose index is `ignore_index`, and 0 if all of them are.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1). Default: 0.
        class_weights: Factor of each class in the loss, (C,). The mean over pixels is not divided by their sum.
            Default: None, which is 1 for all.
        ignore_index: The class index that adds no loss. Default: :data:`IGNORED`, -100.
        class_dim: The dimension of the logits that has the classes: 1 as in torch, or -1 as in language models.
            Default: None, which is found from the shape of class indices, and 1 for class probabilities.
        shift: Whether the target at a position is that of the logits before it, for causal language models whose labels
            are the tokens themselves, as in transformers. Logits are (B, T, C) and targets (B, T) then. Default: False.

    Returns:
        When called, the losses in nats, (B,), float64 of float64 logits and else float32.

    Raises:
        ValueError: If an argument is out of range; or, when called, if a shape does not fit, `class_dim` is needed, or
            a target is not the index of a class (on a GPU torch's own words say so).
        TypeError: If `ignore_index` or `class_dim` is no integer; or, when called, if class indices are not integers.

    Example:
        >>> CrossEntropy()(torch.zeros(2, 4), torch.tensor([3, 0]))
        tensor([1.3863, 1.3863])
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        ignore_index: int = IGNORED,
        class_dim: int | None = None,
        shift: bool = False,
    ) -> None:
        check_share("label_smoothing", label_smoothing)
        for name, value in (("ignore_index", ignore_index), ("class_dim", 1 if class_dim is None else class_dim)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be an integer, got {value!r}.")
        if shift and class_dim not in (None, -1, 2):
            raise ValueError(f"`shift` is of logits (B, T, C), whose classes are the last: leave out {class_dim=}.")
        if class_dim == 0:
            raise ValueError("`class_dim` must not be 0, which is the batch: 1 is the first after it, -1 the last.")
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else check_weights("class_weights", class_weights)
        self.ignore_index = ignore_index
        self.class_dim = -1 if shift else class_dim
        self.shift = shift

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = self.arrange(logits, targets)
        logits = widen(logits)
        weights = None if self.class_weights is None else per_class("class_weights", self.class_weights, logits)
        if targets.shape == logits.shape:
            return self._of_shares(logits, targets.to(logits.dtype), weights)
        return self._of_indices(logits, targets, weights)

    def mean(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch as :class:`torch.nn.CrossEntropyLoss` has it, a number.

        That is the mean over all entries of the batch that are not ignored, by the weights of their classes, and so not
        that of the samples' losses where these differ in their number of entries.
        """
        logits, targets = self.arrange(logits, targets)
        logits = widen(logits)
        weights = None if self.class_weights is None else per_class("class_weights", self.class_weights, logits)
        targets = targets.to(logits.dtype) if targets.shape == logits.shape else targets.long()
        return cross_entropy(
            logits, targets, weights, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing
        )

    def arrange(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as (B, C, ...), and targets that fit: indices (B, ...), or shares of the logits' shape.

        Raises:
            ValueError: If the shapes do not fit, or do not tell where the classes are.
            TypeError: If the targets are no tensor, or indices are not integers.
        """
        if logits.dim() < 2:
            raise ValueError(f"`logits` must have the shape (B, C) or (B, C, ...), got {tuple(logits.shape)}.")
        if not isinstance(targets, Tensor):
            raise TypeError(f"`targets` must be a tensor of class indices, got a {type(targets).__name__}.")
        if self.shift:
            logits, targets = _shifted(logits, targets)
        if targets.shape[1:2] == (1,) and targets.dim() == logits.dim() and logits.shape[1] > 1:
            targets = targets.squeeze(1)  # as masks (B, 1, H, W) and columns (B, 1) are
        dim = self._find_classes(logits.shape, targets.shape)
        if dim != 1:
            targets = targets.movedim(dim, 1) if targets.shape == logits.shape else targets
            logits = logits.movedim(dim, 1)
        indices = logits.shape[:1] + logits.shape[2:]
        if targets.shape not in (indices, logits.shape):
            raise ValueError(
                f"`targets` must be class indices of the shape {tuple(indices)} or class probabilities of the shape "
                f"{tuple(logits.shape)}, got the shape {tuple(targets.shape)}."
            )
        if targets.shape == indices and (targets.is_floating_point() or targets.is_complex()):
            raise TypeError(
                f"`targets` of the shape {tuple(indices)} must be integers, got {targets.dtype}: of real numbers use "
                "MeanSquaredError(), of yes-or-no labels BinaryCrossEntropy()."
            )
        return logits, targets

    def _find_classes(self, shape: torch.Size, target_shape: torch.Size) -> int:
        if self.class_dim is not None:
            if not -len(shape) < self.class_dim < len(shape):
                raise ValueError(f"`class_dim={self.class_dim}` is no dimension of `logits` {tuple(shape)}.")
            return self.class_dim
        if len(shape) == 2 or target_shape == shape:
            return 1
        fits = [dim for dim, rest in ((1, shape[:1] + shape[2:]), (-1, shape[:-1])) if target_shape == rest]
        if len(fits) == 2:
            raise ValueError(
                f"Which dimension of the `logits` {tuple(shape)} has the classes? With `targets` {tuple(target_shape)} "
                "it may be both: say CrossEntropy(class_dim=1), as in torch, or class_dim=-1, as in language models."
            )
        return fits[0] if fits else 1

    def _of_indices(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        ignored = ~is_labelled(targets, self.ignore_index)
        index = targets.long().masked_fill(ignored, 0)
        gaps, largest = _gaps(logits)
        try:
            losses = gaps.gather(1, index.unsqueeze(1)).squeeze(1)
        except RuntimeError:
            raise ValueError(self._out_of_range(targets[~ignored], logits.shape[1])) from None
        if not self.label_smoothing:
            losses = losses + _log_total(gaps, largest)
            losses = losses if weights is None else losses * weights[index]
        else:
            each = torch.ones_like(logits[:1]) if weights is None else _by_class(weights, logits)
            spread, total = (gaps * each).sum(1), _log_total(gaps, largest)
            own = (losses + total) * (1 if weights is None else weights[index])
            spread = spread + total * each.sum(1)
            losses = (1 - self.label_smoothing) * own + self.label_smoothing / logits.shape[1] * spread
        losses = losses.masked_fill(ignored, 0.0)
        return losses if losses.dim() == 1 else mean_of_labelled(losses, ~ignored)

    def _of_shares(self, logits: Tensor, shares: Tensor, weights: Tensor | None) -> Tensor:
        shares = (1 - self.label_smoothing) * shares + self.label_smoothing / logits.shape[1]
        shares = shares if weights is None else shares * _by_class(weights, logits)
        gaps, largest = _gaps(logits)
        own = (gaps * shares).sum(1)
        return rows(own + _log_total(gaps, largest) * shares.sum(1)).mean(1)

    def _out_of_range(self, targets: Tensor, classes: int) -> str:
        bad = targets[(targets < 0) | (targets >= classes)]
        return (
            f"The target {int(bad[0])} is not the index of one of the {classes} classes that the `logits` have. If it "
            f"marks what has no label, say CrossEntropy(ignore_index={int(bad[0])})."
        )

    def __repr__(self) -> str:
        options = [f"label_smoothing={self.label_smoothing}", f"class_weights={self.class_weights}"]
        options += [] if self.ignore_index == IGNORED else [f"ignore_index={self.ignore_index}"]
        options += [] if self.class_dim is None else [f"class_dim={self.class_dim}"]
        options += ["shift=True"] if self.shift else []
        return f"CrossEntropy({', '.join(options)})"


def _shifted(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of each position but the last, and the targets of the next."""
    if logits.dim() != 3 or targets.shape != logits.shape[:2]:
        raise ValueError(
            f"With `shift` the `logits` must be (B, T, C), got {tuple(logits.shape)}, and the `targets` (B, T), got "
            f"{tuple(targets.shape)}."
        )
    return logits[:, :-1], targets[:, 1:]


def _gaps(logits: Tensor) -> tuple[Tensor, Tensor]:
    """How far each logit is below the largest, (B, C, ...), and where that is, (B, 1, ...).

    −log softmax_c is gap_c + log Σ_j exp(−gap_j), both parts at least 0, so that no digits cancel.
    """
    top, largest = logits.max(1, keepdim=True)
    return top - logits, largest


def _log_total(gaps: Tensor, largest: Tensor) -> Tensor:
    """The log Σ_j exp(−gap_j), (B, ...), by log1p, since the largest logit adds exactly 1. May overwrite the gaps."""
    # Without a backward pass, which would need the gaps, a large vocabulary is held but once.
    scatter = gaps.scatter if torch.is_grad_enabled() else gaps.scatter_
    return scatter(1, largest, torch.inf).neg_().exp_().sum(1).log1p()


def _by_class(weights: Tensor, logits: Tensor) -> Tensor:
    return weights.view(1, -1, *[1] * (logits.dim() - 2))
