"""The norm of each sample's own gradient with respect to the linear layers, seen in an ordinary backward pass.

The gradient of one sample's loss with respect to the weight of a layer y = W x + b is the outer product of ∂L/∂y and x,
and with respect to b it is ∂L/∂y. So its squared norm is (‖x‖² + 1) ‖∂L/∂y‖², and neither factor costs another pass.
After Goodfellow, "Efficient Per-Example Gradient Computations" (2015); Alain et al., "Variance Reduction in SGD by
Distributed Importance Sampling" (2015).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_as.logits_hook import is_compiled


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
