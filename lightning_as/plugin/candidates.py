"""The submodules that `logits_from` may name, the likely ones first, for messages."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_as.plugin.hooks import UncopiedHook

SHOWN = 10
"""How many names a message lists."""


class Seen(NamedTuple):
    """What a submodule gave when it was called last."""

    shape: tuple[int, ...]
    itself: bool
    """Whether it gave a tensor, and not one among other things."""
    order: int


class Candidates:
    """Watches all submodules in a training step, to find those whose output has a row for each instance.

    Args:
        module: The LightningModule.
        size: Number of rows of the batch.
        labels: The classes of the data set's instances, (N,); None if there are none.
    """

    def __init__(self, module: nn.Module, size: int, labels: Tensor | None = None) -> None:
        self._module = module
        self._size = size
        self._labels = labels
        self._seen: dict[str, Seen] = {}
        self._calls = 0
        self._handles = [
            part.register_forward_hook(UncopiedHook(partial(self._see, name)))
            for name, part in module.named_modules()
            if name and not isinstance(part, torch.jit.ScriptModule)
        ]

    def remove(self) -> None:
        """Take the hooks off the module."""
        for handle in self._handles:
            handle.remove()

    def __str__(self) -> str:
        """Their names: those with a logit for each class first, of these the last that was called."""
        classes = None if self._labels is None else int(self._labels.max()) + 1

        def likely(name: str) -> tuple[bool, bool, bool, int]:
            shape, itself, order = self._seen[name]
            return itself and len(shape) == 2 and shape[1] == classes, itself, len(shape) == 2, order

        names = sorted(self._seen, key=likely, reverse=True)
        return in_words(names) if names else submodules(self._module)

    def _see(self, name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        self._calls += 1
        if isinstance(logits, Tensor) and logits.dim() and len(logits) == self._size and logits.requires_grad:
            self._seen[name] = Seen(tuple(logits.shape), logits is output, self._calls)


def find_submodule(module: nn.Module, name: str) -> nn.Module:
    """The submodule that `logits_from` names.

    Raises:
        MisconfigurationException: If there is none of that name.
    """
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name]
        near = get_close_matches(name, names, 3)
        hint = f"Did you mean {', '.join(map(repr, near))}? " if near else ""
        raise MisconfigurationException(
            f"`logits_from={name!r}` is no submodule of {type(module).__name__}. {hint}It has: {submodules(module)}."
        ) from None


def submodules(module: nn.Module) -> str:
    """The names that `logits_from` can take, of a module that was not seen at work.

    The last layers with parameters come first, since that is where logits come from.
    """
    named = [(name, part) for name, part in module.named_modules() if name][::-1]
    layers = [name for name, part in named if any(True for _ in part.parameters(recurse=False))]
    return in_words(layers + [name for name, _ in named if name not in layers])


def in_words(names: list[str]) -> str:
    """The first of some names, and how many there are."""
    if not names:
        return "none"
    return ", ".join(names[:SHOWN]) + (f", … ({len(names)} in all)" if len(names) > SHOWN else "")
