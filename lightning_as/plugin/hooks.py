"""Hooks on an unedited module: they see its logits and gradients, and may scale the gradient that comes back.

The gradient of one sample's loss with respect to the weight of a linear layer y = W x + b is the outer product of
∂L/∂y and x, and with respect to b it is ∂L/∂y. So its squared norm is (‖x‖² + 1) ‖∂L/∂y‖², and neither factor costs
another pass. After Goodfellow, "Efficient Per-Example Gradient Computations" (2015); Alain et al., "Variance Reduction
in SGD by Distributed Importance Sampling" (2015).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_as.plugin.linear_gradients import squared_gradients


class UncopiedHook:
    """A hook that a copy or a pickle of its module has as one that does nothing, and needs nothing of this package.

    Args:
        see: What is called.
    """

    def __init__(self, see: Callable[..., Any]) -> None:
        self._see = see

    def __call__(self, *arguments: Any) -> Any:
        return self._see(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # which takes any arguments, and gives None


class TrainingHook(ABC):
    """Forward hooks on parts of a module. Armed, they see what a batch that is trained on makes of it.

    They are on the module while they are armed alone: between batches it can be exported. Those of a compiled module
    stay on it, since its code is made once, with them.

    Args:
        module: The LightningModule.
    """

    nowhere: str
    """Where no gradient came back, and what to do about it, for a message."""

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._compiled = is_compiled(module)
        if self._compiled:  # then its code would go on without the hooks, or with those of an earlier fit
            torch.compiler.reset()
        self._size: int | None = None
        self._batch: Any = None
        self._weights: Tensor | None = None
        self._scale = True
        self._in_backward = False
        self._handles: list[RemovableHandle] = []

    def arm(self, size: int, weights: Tensor | None, scale: bool = True, batch: Any = None) -> None:
        """Watch from now on.

        Args:
            size: Number of rows of the batch.
            weights: The factors on its losses, (size,); None for none.
            scale: Whether it is up to a hook to bring them to the loss, and not to the module. Default: True.
            batch: The batch, which tells a call on it from others. Default: none.
        """
        self._forget()
        self._size, self._weights, self._scale, self._batch = size, weights, scale, batch
        self.attach()

    def disarm(self) -> None:
        """Watch no longer: what comes now is validation, or somebody else's forward pass."""
        self._forget()
        self._size = self._weights = self._batch = None
        self._in_backward = False
        if not self._compiled:
            self.remove()

    def begin_backward(self) -> None:
        """Be told that a backward pass of what was seen so far begins."""
        self._in_backward = True

    def end_backward(self) -> None:
        """Be told that it is done; what is not needed any more is taken off the module."""
        self._in_backward = False
        if self._module.automatic_optimization and self._weights is None and not self._compiled:
            self.remove()

    def attach(self) -> None:
        """Put the hooks on the module, unless they are there."""
        if not self._handles:
            self._handles = self._register()

    def remove(self) -> None:
        """Take the hooks off the module."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @abstractmethod
    def squared_norms(self) -> Tensor | None:
        """The squared norm of the gradient of each row, (B,) float64, as the loss is scaled, but without the weights.

        None if no gradient came back.
        """

    def _unweighted(self, squares: Tensor) -> Tensor:
        return squares if self._weights is None else squares / self._weights.to(torch.float64).square()

    @abstractmethod
    def _register(self) -> list[RemovableHandle]:
        """Put the hooks on the module."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was seen of the batch before."""


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
        see = torch.compiler.disable(self._see)
        self._hooks = [(layer, UncopiedHook(partial(see, name))) for name, layer in layers.items()]
        if self._compiled:
            self.attach()

    def squared_norms(self) -> Tensor | None:
        if not self._norms:
            return None
        return self._unweighted(torch.stack(list(self._norms.values())).sum(0))

    def _register(self) -> list[RemovableHandle]:
        # First of all hooks, to see what comes back after the weights have scaled it, as the layers before do.
        return [layer.register_forward_hook(hook, prepend=True) for layer, hook in self._hooks]

    def _forget(self) -> None:
        self._norms.clear()
        self._open.clear()

    def _see(self, name: str, layer: nn.Linear, inputs: Any, output: Tensor) -> None:
        trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
        if self._size is None or not trained or not output.requires_grad:  # which it does not without a graph
            return
        if self._in_backward and name in self._open:  # activation checkpointing, which makes anew what it did not keep
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


def is_compiled(module: LightningModule) -> bool:
    """Whether a module, or a part of it, was given to `torch.compile`; nothing public tells."""
    if getattr(module, "_compiler_ctx", None) is not None:  # where Lightning puts a compiled LightningModule
        return True
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())
