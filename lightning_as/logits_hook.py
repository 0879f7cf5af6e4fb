"""A forward hook that sees the logits of an unedited module, and may scale the gradient that comes back to them."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_as.importance_weights import ScaleGradient


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
