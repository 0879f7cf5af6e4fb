"""Hooks on an unedited module: they see its logits and gradients, and may scale the gradient that comes back.

Importance weights reach the loss of a module that knows nothing of them by scaling the rows of its logits' gradient:
for a mean of per-sample losses that is the gradient of the weighted mean. Batch norm in training mode couples the
samples before the logits: its statistics are of the sampled batch all the same.

The gradient of one sample's loss with respect to the weight of a linear layer y = W x + b is the outer product of
∂L/∂y and x, and with respect to b it is ∂L/∂y. So its squared norm is (‖x‖² + 1) ‖∂L/∂y‖², and neither factor costs
another pass. After Goodfellow, "Efficient Per-Example Gradient Computations" (2015); Alain et al., "Variance Reduction
in SGD by Distributed Importance Sampling" (2015).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_as.plugin.linear_gradients import squared_gradients


class TrainingHook(ABC):
    """Forward hooks on parts of a module. Armed, they see what a batch that is trained on makes of it.

    Args:
        module: The LightningModule.
    """

    nowhere: str
    """Where no gradient came back, and what to do about it, for a message."""

    def __init__(self, module: LightningModule) -> None:
        if is_compiled(module):  # then its code would go on without the hooks, or with those of an earlier fit
            torch.compiler.reset()
        self._size: int | None = None
        self._weights: Tensor | None = None
        self._scale = True
        self._handles: list[RemovableHandle] = []

    def arm(self, size: int, weights: Tensor | None, scale: bool = True) -> None:
        """Watch from now on.

        Args:
            size: Number of instances in the batch.
            weights: The factors on its losses, (size,); None for none.
            scale: Whether it is up to a hook to bring them to the loss, and not to the module. Default: True.
        """
        self._forget()
        self._size, self._weights, self._scale = size, weights, scale

    def disarm(self) -> None:
        """Watch no longer: what comes now is validation, or somebody else's forward pass."""
        self._forget()
        self._size = self._weights = None

    def remove(self) -> None:
        """Take the hooks off the module."""
        for handle in self._handles:
            handle.remove()

    @abstractmethod
    def squared_norms(self) -> Tensor | None:
        """The squared norm of the gradient of each row, (B,) float64, as the loss is scaled, but without the weights.

        None if no gradient came back.
        """

    def _unweighted(self, squares: Tensor) -> Tensor:
        return squares if self._weights is None else squares / self._weights.to(torch.float64).square()

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was seen of the batch before."""


class LogitsHook(TrainingHook):
    """Sees the output of a submodule, and scales its gradient row by row, if it is armed with weights.

    Of several calls, as by an optimizer that evaluates a closure again, the last counts.

    Args:
        module: The LightningModule.
        name: The submodule's name, such as ``"net"`` or ``"model.head"``.
        keep_gradient: Whether to keep the gradient that comes back to the output.

    Raises:
        MisconfigurationException: If there is no such submodule; while a batch is trained on, if weights cannot scale
            the gradient of its output.
    """

    def __init__(self, module: LightningModule, name: str, keep_gradient: bool) -> None:
        super().__init__(module)
        self.name = name
        self.keep_gradient = keep_gradient
        self.logits: Tensor | None = None
        """What the submodule gave, (B, …), detached."""
        self.gradient: Tensor | None = None
        """The gradient of the loss with respect to it, before the hook scales it, (B, …)."""
        self.nowhere = (
            f"the output of {name!r}, which `gradient_bound='autograd'` needs: "
            "name a submodule whose output the loss depends on"
        )
        self._handles.append(find_submodule(module, name).register_forward_hook(self._see))

    @property
    def weighing(self) -> bool:
        """Whether gradients are to be scaled."""
        return self._weights is not None and self._scale

    def squared_norms(self) -> Tensor | None:
        if self.gradient is None:
            return None
        squares = self.gradient.to(torch.float64).square().unsqueeze(1).flatten(1).sum(1)  # of logits (B,), too
        return squares if self._scale else self._unweighted(squares)

    def _forget(self) -> None:
        self.logits = self.gradient = None

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._size is None or not torch.is_grad_enabled():
            return None
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() == 0 or len(logits) != self._size:
            return None
        if self._weights is not None and self._scale:
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


class LinearGradients(TrainingHook):
    """Sees what goes into every `torch.nn.Linear` of a module, and the gradient that comes back to what it gives.

    A layer may see a row or several for each instance, with the batch as the first dimension. Parameters that are
    frozen do not count. Of several backward passes of a layer the last counts.

    Args:
        module: The LightningModule.

    Raises:
        MisconfigurationException: If it has no linear layer; while a batch is trained on, if what a layer
            is given does not begin with the batch, or it is called twice before its backward pass.
    """

    nowhere = "any linear layer, which the strategy needs: use another"

    def __init__(self, module: LightningModule) -> None:
        super().__init__(module)
        layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        if not layers:
            raise MisconfigurationException(
                f"The gradients of linear layers were asked for, but {type(module).__name__} has no torch.nn.Linear: "
                "use a strategy that goes by losses, or by the gradients of the logits."
            )
        self._norms: dict[str, Tensor] = {}
        self._open: set[str] = set()  # layers that were called, and whose backward pass is to come
        # First of all hooks, to see what comes back after the weights have scaled it, as the layers before do.
        self._handles += [
            layer.register_forward_hook(partial(torch.compiler.disable(self._see), name), prepend=True)
            for name, layer in layers.items()
        ]

    def squared_norms(self) -> Tensor | None:
        if not self._norms:
            return None
        return self._unweighted(torch.stack(list(self._norms.values())).sum(0))

    def _forget(self) -> None:
        self._norms.clear()
        self._open.clear()

    def _see(self, name: str, layer: nn.Linear, inputs: Any, output: Tensor) -> None:
        trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
        if self._size is None or not trained or not output.requires_grad:  # which it does not without a graph
            return
        given: Tensor = inputs[0]
        if given.dim() < 2 or len(given) != self._size:
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
        weight, bias = layer.weight.requires_grad, layer.bias is not None and layer.bias.requires_grad
        if given.dim() > 2:  # a row for each of several positions
            output.register_hook(partial(self._keep, name, partial(squared_gradients, given.detach(), weight, bias)))
            return
        factor = given.new_zeros(self._size, dtype=torch.float64)
        if weight:
            factor += given.detach().to(torch.float64).square().sum(1)
        if bias:
            factor += 1
        output.register_hook(partial(self._keep, name, lambda g: factor * g.to(torch.float64).square().sum(1)))

    def _keep(self, name: str, norms: Callable[[Tensor], Tensor], gradient: Tensor) -> None:
        self._open.discard(name)
        self._norms[name] = norms(gradient.detach())


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


def is_compiled(module: LightningModule) -> bool:
    """Whether a module, or a part of it, was given to `torch.compile`; nothing public tells."""
    if getattr(module, "_compiler_ctx", None) is not None:  # where Lightning puts a compiled LightningModule
        return True
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


def find_submodule(module: nn.Module, name: str) -> nn.Module:
    """The submodule that `logits_from` names.

    Raises:
        MisconfigurationException: If there is none of that name.
    """
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise MisconfigurationException(
            f"`logits_from={name!r}` is no submodule of {type(module).__name__}. It has: {submodules(module)}."
        ) from None


def submodules(module: nn.Module) -> str:
    """The names that `logits_from` can take, for messages."""
    names = [name for name, _ in module.named_modules() if name]
    return ", ".join(names[:30]) + (f", … ({len(names)} in all)" if len(names) > 30 else "") if names else "none"
