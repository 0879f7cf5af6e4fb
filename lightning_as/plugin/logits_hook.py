"""A hook on the submodule that gives the logits: it sees them, their gradient, and may scale what goes back.

Importance weights reach the loss of a module that knows nothing of them by scaling the rows of its logits' gradient:
for a mean of per-sample losses that is the gradient of the weighted mean. Batch norm in training mode couples the
samples before the logits: its statistics are of the sampled batch all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_as.plugin.candidates import find_submodule
from lightning_as.plugin.hooks import TrainingHook, UncopiedHook


@dataclass(eq=False)
class Call:
    """A call of a submodule that gave as many rows as the batch has."""

    shape: tuple[int, ...]
    """Of the first tensor that it was given."""
    storages: set[int]
    """Where the tensors that it was given lie."""
    logits: Tensor
    """What it gave, (B, …), detached."""
    trained: bool
    """Whether a gradient can come back to that."""
    reached: bool = False
    """Whether one came back, so that it is in the graph of the loss."""
    scaled: bool = False
    """Whether that was scaled."""
    gradient: Tensor | None = None
    """The gradient of the loss with respect to what it gave, before it is scaled, (B, …)."""


class LogitsHook(TrainingHook):
    """Sees the output of a submodule, and scales its gradient row by row, if it is armed with weights.

    Calls of other sizes, or from which no gradient can come, do not count. Of several in a step the one in the graph of
    the loss does, and of several there the one on a tensor of the batch. A step that an optimizer evaluates again has
    its calls anew, of which those of the first evaluation count; in manual optimization the calls between two backward
    passes belong together, and the last of several on the batch counts.

    Args:
        module: The LightningModule.
        name: The submodule's name, such as ``"net"`` or ``"model.head"``.
        keep_gradient: Whether to keep the gradient that comes back to the output.

    Raises:
        MisconfigurationException: If there is no such submodule; while a batch is trained on, if weights cannot scale
            the gradient of its output, or if it is not clear which of several calls counts.
    """

    def __init__(self, module: LightningModule, name: str, keep_gradient: bool) -> None:
        super().__init__(module)
        self.name = name
        self.keep_gradient = keep_gradient
        self.nowhere = (
            f"the output of {name!r}, which `gradient_bound='autograd'` needs: "
            "name a submodule whose output the loss depends on"
        )
        self._part = find_submodule(module, name)
        self._hook = UncopiedHook(self._see)
        self._evaluations: list[list[Call]] = [[]]
        self._closed = False  # whether the last of them has been followed by a backward pass
        if self._compiled:
            self.attach()

    @property
    def weighing(self) -> bool:
        """Whether gradients are to be scaled."""
        return self._weights is not None and self._scale

    @property
    def logits(self) -> Tensor | None:
        """What the submodule gave, (B, …), detached; None if it gave nothing of that size.

        Raises:
            MisconfigurationException: If it is not clear which call counts.
        """
        call = self._counted()
        return None if call is None else call.logits

    def squared_norms(self) -> Tensor | None:
        call = self._counted()
        if call is None or call.gradient is None:
            return None
        squares = call.gradient.to(torch.float64).square().unsqueeze(1).flatten(1).sum(1)  # of logits (B,), too
        return squares if self._scale else self._unweighted(squares)

    def begin_backward(self) -> None:
        super().begin_backward()
        self._closed = True
        calls = self._evaluations[-1]
        if self.weighing and calls and not any(call.trained for call in calls):
            self._counted()  # to say so before anything is learnt

    def _register(self) -> list[RemovableHandle]:
        return [self._part.register_forward_hook(self._hook, with_kwargs=True)]

    def _forget(self) -> None:
        self._evaluations, self._closed = [[]], False

    def _see(self, module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
        if self._size is None or not torch.is_grad_enabled():
            return None
        logits = logits_in(output)
        if logits is None or logits.dim() == 0 or len(logits) != self._size:
            return None
        call = self._note(inputs, named, logits)
        if self.weighing and logits.requires_grad:
            if logits is not output:
                raise MisconfigurationException(
                    f"`weights` scale the gradient of a tensor, but {self.name!r} gives a {type(output).__name__}: "
                    "name the submodule in it that gives the logits themselves as `logits_from`."
                )
            eager = not torch.compiler.is_compiling()
            output = logits = ScaleGradient.apply(logits, self._weights, partial(self._scales, call) if eager else None)
            call.scaled = not eager
        if logits.requires_grad and (self.keep_gradient or not torch.compiler.is_compiling()):
            logits.register_hook(partial(self._keep, call))
        return output

    def _note(self, inputs: Any, named: Any, logits: Tensor) -> Call:
        given = [] if torch.compiler.is_compiling() else list(tensors_in([inputs, named] if named else inputs))
        shape = tuple(given[0].shape) if given else ()
        call = Call(shape, storages(given), logits.detach(), logits.requires_grad)
        if self._in_backward and self._evaluations[-1]:
            return call  # of activation checkpointing, which makes anew what it did not keep: not another one
        if self._closed and not self._in_backward:
            self._evaluations.append([])
            self._closed = False
        self._evaluations[-1].append(call)
        return call

    def _keep(self, call: Call, gradient: Tensor) -> None:
        call.reached = True
        if self.keep_gradient:
            call.gradient = gradient.detach()

    def _scales(self, call: Call) -> bool:
        """Whether the gradient of what a call gave is to be scaled, asked for when it comes back."""
        if self._module.automatic_optimization:
            call.scaled = call is self._of(self._evaluations[-1], amid_backward=True)
        else:
            call.scaled = call is self._counted(amid_backward=True)
        return call.scaled

    def _counted(self, amid_backward: bool = False) -> Call | None:
        """The call that counts."""
        found: Call | None = None
        for calls in self._evaluations:
            if not calls:
                continue
            call = self._of(calls, amid_backward and calls is self._evaluations[-1])
            if found is None or self._on_batch(call):
                if found is not None and found.scaled and not self._on_batch(found):
                    raise self._unclear()
                found = call
            elif not self._on_batch(found):
                raise self._unclear()
            if self._module.automatic_optimization:
                break
        if found is not None and self.weighing and not amid_backward:
            if not found.trained:
                raise MisconfigurationException(
                    f"`weights` scale the gradient of the output of {self.name!r}, but no gradient comes back there: "
                    "name the last submodule with parameters to train as `logits_from`."
                )
            if found.reached and not found.scaled:
                raise self._unclear()
        return found

    def _of(self, calls: list[Call], amid_backward: bool = False) -> Call:
        """That of the calls of one evaluation: in the graph of the loss, and on the batch.

        Amid a backward pass, which may not have reached all that it will, the batch decides first.
        """
        by: list[Callable[[Call], bool]] = [lambda call: call.trained, lambda call: call.reached, self._on_batch]
        for belongs in (by[0], by[2], by[1]) if amid_backward else by:
            if len(calls) > 1:
                calls = [call for call in calls if belongs(call)] or calls
        if len(calls) > 1:
            raise self._unclear()
        return calls[0]

    def _on_batch(self, call: Call) -> bool:
        return not call.storages.isdisjoint(storages(tensors_in(self._batch)))

    def _unclear(self) -> MisconfigurationException:
        calls = [call for calls in self._evaluations for call in calls]
        listed = ", ".join(
            f"{number}. {call.shape} → {tuple(call.logits.shape)}{', on the batch' if self._on_batch(call) else ''}"
            for number, call in enumerate(calls, 1)
        )
        instead = (
            "leave `logits_from` out, and have the module take the weights as an attribute and multiply its losses"
            if self.weighing
            else "give the logits of the drawn batch themselves: return them as `logits` from `training_step`, or "
            "call `hand_over(self, logits=…)` in it"
        )
        return MisconfigurationException(
            f"`logits_from={self.name!r}` is called several times in a training step, and it is not clear which call "
            f"is on the batch that was drawn: {listed}. Name a submodule that is called once on a tensor of the batch "
            f"itself; or {instead}."
        )


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is scaled row by row: ``ScaleGradient.apply(logits, weights, counts)``.

    Logits are (B, …), weights (B,); `counts` is asked in the backward pass whether to scale, None for yes.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor, counts: Callable[[], bool] | None) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.counts = counts
        return logits.clone()  # not a view, which may not be changed in place afterwards

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (weights,) = ctx.saved_tensors
        if ctx.counts is not None and not ctx.counts():
            return gradient, None, None
        rows = weights.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))
        return gradient * rows, None, None


def logits_in(output: Any) -> Tensor | None:
    """The logits in what a module gives: a tensor, or what it has as ``logits``; None if there are none."""
    if not isinstance(output, Tensor):
        output = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if isinstance(output, Tensor) else None


def tensors_in(part: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors of a batch, or of arguments, however nested."""
    if isinstance(part, Tensor):
        yield part
    elif depth:
        if isinstance(part, Mapping):
            parts = part.values()
        else:
            parts = part if isinstance(part, (list, tuple)) else getattr(part, "__dict__", {}).values()
        for one in parts:
            yield from tensors_in(one, depth - 1)


def storages(tensors: Any) -> set[int]:
    """Where tensors lie, of which two share their numbers if that is the same."""
    found = set()
    for tensor in tensors:
        try:
            found.add(tensor.untyped_storage().data_ptr())
        except RuntimeError:  # a sparse one, or one without numbers
            continue
    return found - {0}
