"""The loss of each sample, as the callback was given it: a criterion, a function of the batch, or a module's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import is_oom_error
from torch import Tensor, nn

from lightning_as.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    MeanSquaredError,
    per_sample,
    squared_gradient_norms,
    takes_batch,
)
from lightning_as.losses.criterion import is_unchanged, settings_of
from lightning_as.plugin.returned import check_losses

PerSample = Callable[..., Any]
"""A criterion of the logits (B, …) and the targets, or a function of them to one number per sample, a tensor (B,); or
a function of the batch alone to such numbers. It gives a tensor, but jsonargparse would look for a class of tensors."""


class SampleLosses:
    """The loss of each sample of a batch, and the squared norm of its gradient with respect to the logits.

    Args:
        module: The module that is trained.
        per_sample_loss: As in the callback.

    Raises:
        MisconfigurationException: If it is a name, and the module has nothing of that name that can be called.
    """

    def __init__(self, module: LightningModule, per_sample_loss: PerSample | str | None) -> None:
        self._module = module
        self._given = CrossEntropy() if per_sample_loss is None else per_sample_loss
        given = self._find()
        self.takes_batch = takes_batch(given)
        """Whether it is a function of the batch alone, which needs no logits."""
        self._make(given)

    @property
    def loss(self) -> Callable[..., Any]:
        """The function itself, as it is now: a module may change its criterion, or that its class weights."""
        given = self._find()
        ours = isinstance(self._loss, CrossEntropy) and self._loss is not given  # a copy of its settings
        if given != self._made_of or (ours and not is_unchanged(given, self._settings)):
            self._make(given)
        return self._loss

    @property
    def is_ready(self) -> bool:
        """Whether it is one of this package's own, which takes tensors of any device."""
        return type(self.loss) in (CrossEntropy, BinaryCrossEntropy, MeanSquaredError)

    def of_batch(self, batch: Any) -> Tensor:
        """The losses of a batch by a function of the batch alone, (B,), without a gradient.

        If it is the module that it calls, then in evaluation mode, and training goes on as if it had not been.

        Raises:
            MisconfigurationException: If it does not give one loss per sample.
        """
        with _undisturbed(self._module):
            losses = self.loss(batch)
        return _checked(losses, None)

    def of_logits(self, logits: Tensor, targets: Any) -> Tensor:
        """The losses of a batch with these logits, (B,), without a gradient.

        Raises:
            MisconfigurationException: If the function cannot take them, or does not give one loss per sample.
        """
        try:
            losses = self.loss(logits, targets)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self._explained(error, logits, targets) from error
        return _checked(losses, len(logits))

    def bounds(self, logits: Tensor, targets: Any) -> Tensor:
        """The squared norms of the gradients of a batch with these logits, (B,) float64.

        Raises:
            MisconfigurationException: If the function cannot take the logits, or gives a loss without a gradient.
        """
        self.check_bounds()
        try:
            return squared_gradient_norms(self.loss, logits, targets)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self._explained(error, logits, targets) from error

    def check_bounds(self) -> None:
        """Raise a `MisconfigurationException` if it is a function of the batch alone, whatever logits there are."""
        if self.takes_batch:
            raise MisconfigurationException(
                f"`per_sample_loss={_name(self.loss)}` is a function of the batch, which has no gradient with respect "
                "to logits, but the strategy reads it: give a function of logits and targets, or `gradient_bound=…`; "
                "or use a strategy that goes by losses alone, such as ClosenessSampling()."
            )

    def _find(self) -> PerSample:
        return _find(self._module, self._given) if isinstance(self._given, str) else self._given

    def _make(self, given: PerSample) -> None:
        self._made_of, self._settings = given, settings_of(given)
        self._loss: Callable[..., Any] = given if self.takes_batch else per_sample(given)

    def _explained(self, error: Exception, logits: Tensor, targets: Any) -> Exception:
        if isinstance(error, RuntimeError) and is_oom_error(error):  # for the finder of a batch size
            return error
        return MisconfigurationException(
            f"The loss of each sample, {_name(self.loss)}, cannot take logits {tuple(logits.shape)} and targets "
            f"{_describe(targets)}. {error} Give the loss that the module trains on, `per_sample_loss=`: of torch, of "
            "`lightning_as`, such as CrossEntropy(ignore_index=255, class_dim=-1), the name of the module's own, such "
            "as 'criterion', or a function of logits and targets, whatever these are (of MixUp, say); or name what "
            "holds the targets, `target_key=`."
        )


def _find(module: LightningModule, name: str) -> PerSample:
    try:
        found = attrgetter(name)(module)
    except AttributeError:
        found = None
    if not callable(found):
        own = {key for key, value in vars(module).items() if callable(value)} | set(dict(module.named_children()))
        own |= {key for key, value in vars(type(module)).items() if callable(value) and not key.startswith("__")}
        raise MisconfigurationException(
            f"`per_sample_loss={name!r}` is nothing that can be called in {type(module).__name__}. It has: "
            f"{', '.join(sorted(key for key in own if not key.startswith('_'))) or 'nothing of the kind'}."
        )
    return found


def _checked(losses: Any, size: int | None) -> Tensor:
    if not isinstance(losses, Tensor):
        raise MisconfigurationException(
            f"`per_sample_loss` must give a tensor with the loss of each sample, but gave a {type(losses).__name__}."
        )
    losses = losses.detach()
    if losses.dim() == 2 and losses.shape[1] == 1:
        losses = losses.flatten()
    return check_losses(losses, losses.numel() if size is None else size)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """What is called in here finds the module in evaluation mode, and moves neither it nor the random state."""
    training = [part for part in module.modules() if part.training]
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    module.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def _name(loss: Any) -> str:
    return getattr(loss, "__qualname__", None) or repr(loss)


def _describe(targets: Any) -> str:
    if isinstance(targets, Tensor):
        return f"{tuple(targets.shape)} of {targets.dtype}"
    if isinstance(targets, (list, tuple)):
        return f"that are a {type(targets).__name__} of {len(targets)}"
    return f"that are a {type(targets).__name__}"
