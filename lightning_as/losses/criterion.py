"""A criterion as people have it, such as ``torch.nn.HuberLoss()``, as a loss of each sample.

Criteria give the mean over a batch. Those that know a `reduction` are asked for none, on a shallow copy; others are
called on one sample at a time. What they give for a sample's entries is averaged, without those that they ignore.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_as.losses.cross_entropy import CrossEntropy
from lightning_as.losses.elementwise import BinaryCrossEntropy, MeanSquaredError, like_predictions
from lightning_as.losses.entries import is_labelled, mean_of_labelled, rows, widen

# Criteria whose targets are numbers of the predictions' shape: a training step may keep them as integers, or as (B,).
_ELEMENTWISE = (
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.HuberLoss,
    nn.L1Loss,
    nn.MSELoss,
    nn.MultiLabelSoftMarginLoss,
    nn.PoissonNLLLoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
)
_ELEMENTWISE_FUNCTIONS = (
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
    functional.huber_loss,
    functional.l1_loss,
    functional.mse_loss,
    functional.multilabel_soft_margin_loss,
    functional.poisson_nll_loss,
    functional.smooth_l1_loss,
    functional.soft_margin_loss,
)


class Criterion:
    """A criterion of a batch as a loss of each sample: called with logits (B, ...) and targets, it gives (B,).

    Args:
        criterion: Called with logits and targets. It stays as it is, with its buffers and counts and the random state,
            and is looked at again in each call, so that a weight that is learnt, or changed, counts.

    Raises:
        ValueError: When called, if the criterion does not give one loss per sample, nor a mean.
        TypeError: When called, if it gives no tensor.
    """

    def __init__(self, criterion: Callable[..., Any]) -> None:
        self.criterion = criterion
        self._options = _options(criterion)
        self.reduces = isinstance(self._options.get("reduction"), str)
        """Whether it can be asked for no reduction, and so gives all samples' losses in one call."""
        self._metric = all(callable(getattr(criterion, name, None)) for name in ("update", "compute", "reset"))
        self._one_by_one = self._metric
        self._mapped = True

    def __call__(self, logits: Tensor, targets: Any) -> Tensor:
        logits = widen(logits)
        targets = self._fit(targets, logits)
        with torch.random.fork_rng([logits.device] if logits.device.type == "cuda" else []):
            if not self._one_by_one:
                losses = self._call(logits, targets, unreduced=True)
                if losses.dim() or not logits.dim():
                    return self._average(losses, logits, targets)
                self._one_by_one = True  # a mean, from which no sample's loss can be told
            return self._of_each(logits, targets)

    def mean(self, logits: Tensor, targets: Any) -> Tensor:
        """What the criterion itself gives for a batch."""
        logits = widen(logits)
        return self._call(logits, self._fit(targets, logits), unreduced=False)

    def _fit(self, targets: Any, logits: Tensor) -> Any:
        function = _function(self.criterion)
        if isinstance(function, _ELEMENTWISE) or function in _ELEMENTWISE_FUNCTIONS:
            return like_predictions(targets, logits, "logits").to(logits.dtype)
        column = {(len(logits),), (len(logits), 1)}
        if self.reduces and isinstance(targets, Tensor) and {targets.shape, logits.shape} == column:
            return targets.view_as(logits)
        return targets

    def _call(self, logits: Tensor, targets: Any, unreduced: bool) -> Tensor:
        unreduced = unreduced and self.reduces
        function = _function(self.criterion)
        if isinstance(function, nn.Module):
            called = function if isinstance(function, torch.jit.ScriptModule) else copy.copy(function)
            if unreduced:
                called.reduction = "none"  # pyright: ignore[reportArgumentType]
            losses = _call_module(called, logits, targets)
        else:
            bound = {name: _on(value, logits) for name, value in getattr(self.criterion, "keywords", {}).items()}
            losses = self.criterion(logits, targets, **{**bound, **({"reduction": "none"} if unreduced else {})})
        if not isinstance(losses, Tensor):
            raise TypeError(f"{self!r} must give a tensor, but gave a {type(losses).__name__}.")
        return losses

    def _average(self, losses: Tensor, logits: Tensor, targets: Any) -> Tensor:
        size = len(logits)
        shapes = [logits.shape, targets.shape if isinstance(targets, Tensor) else None]
        known = self.reduces or losses.shape in (*shapes, logits.shape[:1], (size, 1))
        if not known or len(losses) != size:  # such as (B, B), of (B, 1) and (B,) that were broadcast
            raise ValueError(
                f"{self!r} must give one loss per sample, ({size},), but gave the shape {tuple(losses.shape)}: take "
                "the mean over a sample's entries, and none over the batch."
            )
        if self._options.get("reduction") in ("sum", "batchmean"):
            return rows(losses).sum(1)
        ignored = self._options.get("ignore_index")
        if ignored is not None and isinstance(targets, Tensor) and targets.shape == losses.shape:
            return mean_of_labelled(losses, is_labelled(targets, ignored))
        return rows(losses).mean(1)

    def _of_each(self, logits: Tensor, targets: Any) -> Tensor:
        if self._mapped and not self._metric and isinstance(targets, Tensor):
            try:
                return torch.vmap(lambda z, y: self._of_one(z[None], y[None]))(logits, targets)
            except Exception:  # of whatever in it has no batched form
                self._mapped = False
        each = [self._of_one(logits[at : at + 1], _row(targets, at, len(logits))) for at in range(len(logits))]
        return torch.stack(each) if each else logits.new_zeros(0)

    def _of_one(self, logits: Tensor, targets: Any) -> Tensor:
        if self._metric:  # whose state is the user's
            metric: Any = copy.deepcopy(self.criterion)
            metric.reset()
            return metric(logits, targets)
        loss = self._call(logits, targets, unreduced=False)
        if loss.numel() != 1:
            raise ValueError(f"{self!r} must give one loss per sample, but gave the shape {tuple(loss.shape)} for one.")
        return loss.reshape(())

    def __repr__(self) -> str:
        return _name(self.criterion)


def per_sample(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """A criterion as a loss of each sample.

    Args:
        criterion: A loss of this package or of torch, a function with `reduction`, or anything that is called with
            logits and targets and gives the loss of each sample, or their mean.

    Returns:
        A loss of this package if it is one, or if it is torch's cross-entropy; else a :class:`Criterion`. Both have
        the shape (B,) when called, and have a gradient in the logits.
    """
    if isinstance(criterion, (CrossEntropy, BinaryCrossEntropy, MeanSquaredError)):
        return criterion
    function, options = _function(criterion), _options(criterion)
    plain = type(function) is nn.CrossEntropyLoss or function is functional.cross_entropy
    if plain and not getattr(criterion, "args", ()) and options.get("reduction") != "sum":
        weight = options.get("weight")
        return CrossEntropy(
            options["label_smoothing"], None if weight is None else weight.tolist(), options["ignore_index"]
        )
    return Criterion(criterion)


def is_unchanged(criterion: Callable[..., Any], before: Mapping[str, Any]) -> bool:
    """Whether a criterion still has the :func:`settings_of` before, as to a loss that was made of them."""
    now = settings_of(criterion)
    return now.keys() == before.keys() and all(
        value is before[name] or (not isinstance(value, Tensor) and value == before[name])
        for name, value in now.items()
    )


def settings_of(criterion: Callable[..., Any]) -> dict[str, Any]:
    """The options that a criterion has now, by name, and how often its weight was changed in place."""
    options = _options(criterion)
    weight = options.get("weight")
    version = weight._version if isinstance(weight, Tensor) and not weight.is_inference() else None
    return {**options, "version": version}


def is_binary(loss: Callable[..., Any]) -> bool:
    """Whether a loss of each sample is the sigmoid cross-entropy, of this package or of torch."""
    kinds = (nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits)
    function = _function(loss.criterion) if isinstance(loss, Criterion) else None
    return isinstance(loss, BinaryCrossEntropy) or type(function) is kinds[0] or function is kinds[1]


def takes_batch(function: Callable[..., Any]) -> bool:
    """Whether a function is one of a batch alone: whether it has one parameter that must be given."""
    try:
        parameters = inspect.signature(_called(function)).parameters.values()
    except (TypeError, ValueError):  # of functions that are not of Python
        return False
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return False
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return sum(one.default is one.empty for one in positional) == 1


def _function(criterion: Callable[..., Any]) -> Any:
    """What is behind `functools.partial` and `torch.compile`, which would hand an option of a copy on to the original.

    Nothing public tells of the latter.
    """
    criterion = criterion.func if isinstance(criterion, partial) else criterion
    return getattr(criterion, "_orig_mod", getattr(criterion, "_torchdynamo_orig_callable", criterion))


def _called(criterion: Callable[..., Any]) -> Callable[..., Any]:
    return criterion.forward if isinstance(criterion, nn.Module) else criterion


def _options(criterion: Callable[..., Any]) -> dict[str, Any]:
    """The options of a criterion by name: attributes of a module, else what a function has unless told otherwise."""
    function = _function(criterion)
    if isinstance(function, nn.Module):
        names = ("reduction", "ignore_index", "label_smoothing", "weight")
        return {name: getattr(function, name) for name in names if hasattr(function, name)}
    try:
        parameters = inspect.signature(criterion).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _call_module(module: nn.Module, logits: Tensor, targets: Any) -> Any:
    """The forward pass of a criterion, with its weights on the device of the logits, that leaves its buffers alone."""
    own = type(module).__module__ == "torch.nn.modules.loss"  # of torch, which keep nothing of a call
    buffers = {name: buffer if own else buffer.clone() for name, buffer in module.named_buffers()}
    held = {**dict(module.named_parameters()), **buffers}
    if all(tensor.device == logits.device for tensor in held.values()) and (own or not buffers):
        return module.forward(logits, targets)  # not the call, which may be compiled with the reduction of the original
    moved = {name: tensor.to(logits.device) for name, tensor in held.items()}
    return torch.func.functional_call(module, moved, (logits, targets))


def _on(value: Any, logits: Tensor) -> Any:
    return value.to(logits.device) if isinstance(value, Tensor) else value


def _row(targets: Any, at: int, size: int) -> Any:
    """The targets of one sample, as of a batch of one: of tensors, however nested; what has no rows stays as it is."""
    if isinstance(targets, Tensor):
        return targets[at : at + 1] if targets.dim() and len(targets) == size else targets
    if isinstance(targets, Mapping):
        return {key: _row(value, at, size) for key, value in targets.items()}
    if isinstance(targets, (list, tuple)):
        return type(targets)(_row(value, at, size) for value in targets)
    return targets


def _name(criterion: Any) -> str:
    """A criterion in a few words, for messages."""
    function = _function(criterion)
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
