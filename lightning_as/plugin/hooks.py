"""Hooks on an unedited module: they see its logits and gradients, and may scale the gradient that comes back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn


class LogitsHook:
    """Sees the output of a submodule while a batch is trained on, and may scale its gradient row by row.

    Of several calls, as by an optimizer that evaluates a closure again, the last counts.

    Args:
        module: The LightningModule.
        name: The submodule's name, such as ``"net"`` or ``"model.head"``.
        keep_gradient: Whether to keep the gradient that comes back to the output.

    Raises:
        MisconfigurationException: If there is no such submodule.
    """

    def __init__(self, module: LightningModule, name: str, keep_gradient: bool) -> None:
        self.name = name
        self.keep_gradient = keep_gradient
        self.logits: Tensor | None = None
        """What the submodule gave, (B, …), detached."""
        self.gradient: Tensor | None = None
        """The gradient of the loss with respect to it, before any scaling, (B, …)."""
        self._size: int | None = None
        self._weights: Tensor | None = None
        try:
            submodule = module.get_submodule(name)
        except AttributeError:
            raise MisconfigurationException(
                f"`logits_from={name!r}` is no submodule of {type(module).__name__}. It has: {submodules(module)}."
            ) from None
        if is_compiled(module):  # then its code would go on without the hook, or with that of an earlier fit
            torch.compiler.reset()
        self._handle = submodule.register_forward_hook(self._see)

    def arm(self, size: int, weights: Tensor | None) -> None:
        """Watch from now on, for outputs of `size` rows; scale their gradients by `weights`, (size,), if given."""
        self.logits = self.gradient = None
        self._size, self._weights = size, weights

    @property
    def weighing(self) -> bool:
        """Whether gradients are to be scaled."""
        return self._weights is not None

    def disarm(self) -> None:
        """Watch no longer: what comes now is validation, or somebody else's forward pass."""
        self._size = self._weights = self.logits = self.gradient = None

    def remove(self) -> None:
        """Take the hook off the module."""
        self._handle.remove()

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._size is None or not torch.is_grad_enabled():
            return None
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() == 0 or len(logits) != self._size:
            return None
        if self._weights is not None:
            if logits is not output:
                raise MisconfigurationException(
                    f"`weights` scale the gradient of a tensor, but {self.name!r} gives a {type(output).__name__}: "
                    "name the submodule in it that gives the logits themselves as `logits_from`."
                )
            if not logits.requires_grad:
                raise MisconfigurationException(
                    f"`weights` scale the gradient of the output of {self.name!r}, but no gradient comes back there: "
                    "name the last submodule with parameters to train as `logits_from`."
                )
            output = logits = ScaleGradient.apply(logits, self._weights)
        self.logits = logits.detach()
        if self.keep_gradient and logits.requires_grad:
            logits.register_hook(self._keep)
        return output

    def _keep(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach()


def is_compiled(module: LightningModule) -> bool:
    """Whether a module, or a part of it, was given to `torch.compile`; nothing public tells."""
    if getattr(module, "_compiler_ctx", None) is not None:  # where Lightning puts a compiled LightningModule
        return True
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


def submodules(module: nn.Module) -> str:
    """The names that `logits_from` can take, for messages."""
    names = [name for name, _ in module.named_modules() if name]
    return ", ".join(names[:30]) + (f", … ({len(names)} in all)" if len(names) > 30 else "") if names else "none"


class LinearGradients:
    """Watches every `torch.nn.Linear` of a module while a batch is trained on.

    Parameters that are frozen do not count. Of several backward passes of a layer the last counts.

    Args:
        module: The LightningModule.

    Raises:
        MisconfigurationException: If it has no linear layer; while a batch is trained on, if a layer is given anything
            but a row per instance, or is called twice before its backward pass.
    """

    def __init__(self, module: LightningModule) -> None:
        layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        if not layers:
            raise MisconfigurationException(
                f"The gradients of linear layers were asked for, but {type(module).__name__} has no torch.nn.Linear: "
                "use a strategy that goes by losses, or by the gradients of the logits."
            )
        if is_compiled(module):
            torch.compiler.reset()
        self._size: int | None = None
        self._weights: Tensor | None = None
        self._norms: dict[str, Tensor] = {}
        self._open: set[str] = set()  # layers that were called, and whose backward pass is to come
        # First of all hooks, to see what comes back after the weights have scaled it, as the layers before do.
        self._handles = [
            layer.register_forward_hook(partial(torch.compiler.disable(self._see), name), prepend=True)
            for name, layer in layers.items()
        ]

    def arm(self, size: int, weights: Tensor | None) -> None:
        """Watch from now on, for a batch of `size` whose losses are weighted by `weights`, (size,), if given."""
        self._size, self._weights = size, weights
        self._norms.clear()
        self._open.clear()

    def disarm(self) -> None:
        """Watch no longer."""
        self._size = self._weights = None
        self._norms.clear()
        self._open.clear()

    def remove(self) -> None:
        """Take the hooks off the module."""
        for handle in self._handles:
            handle.remove()

    def squared_norms(self) -> Tensor | None:
        """The squared norm of the gradient of each row, (B,) float64, as it is scaled, but without the weights.

        None if no gradient came back.
        """
        if not self._norms:
            return None
        total = torch.stack(list(self._norms.values())).sum(0)
        return total if self._weights is None else total / self._weights.to(torch.float64).square()

    def _see(self, name: str, layer: nn.Linear, inputs: Any, output: Tensor) -> None:
        trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
        if self._size is None or not trained or not output.requires_grad:  # which it does not without a graph
            return
        given: Tensor = inputs[0]
        if given.dim() != 2 or len(given) != self._size:
            raise MisconfigurationException(
                f"The gradients of linear layers were asked for, but the layer {name!r} was given "
                f"{tuple(given.shape)} and not one row for each of the {self._size} instances: freeze it, call it "
                "under `torch.no_grad()`, or use a strategy that goes by losses or by the gradients of the logits."
            )
        if name in self._open:
            raise MisconfigurationException(
                f"The layer {name!r} was called twice before its backward pass, and the norm of its gradient is not "
                "the sum of both: call it under `torch.no_grad()` if one is not for training, or use a strategy that "
                "goes by losses or by the gradients of the logits."
            )
        self._open.add(name)
        factor = given.new_zeros(self._size, dtype=torch.float64)
        if layer.weight.requires_grad:
            factor += given.detach().to(torch.float64).square().sum(1)
        if layer.bias is not None and layer.bias.requires_grad:
            factor += 1
        output.register_hook(partial(self._keep, name, factor))

    def _keep(self, name: str, factor: Tensor, gradient: Tensor) -> None:
        self._open.discard(name)
        self._norms[name] = factor * gradient.detach().to(torch.float64).square().sum(1)


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is scaled row by row: ``ScaleGradient.apply(logits, weights)``.

    Logits are (B, …), weights (B,).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return logits.clone()  # not a view, which may not be changed in place afterwards

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (weights,) = ctx.saved_tensors
        rows = weights.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))
        return gradient * rows, None
