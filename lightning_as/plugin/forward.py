"""Forward passes beside the training, of batches that are treated as the training loop treats its own.

They are in evaluation mode and without gradients; training goes on as if they had not been: neither batch-norm
statistics nor any global random state move.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_as.plugin.hooks import find_submodule


class ForwardPass:
    """What Lightning's loop does with a batch before `training_step`, and the module's logits of such a batch.

    Args:
        trainer: The Trainer.
        module: The module, called on the inputs if it defines `forward`.
        logits_from: The submodule that is called on the inputs otherwise. Default: none.

    Raises:
        MisconfigurationException: If there is no such submodule.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, logits_from: str | None = None) -> None:
        if logits_from is not None:
            find_submodule(module, logits_from)
        self._trainer = trainer
        self._module = module
        self._logits_from = logits_from

    def ready(self, batch: Any) -> Any:
        """A batch of a loader as `training_step` gets it: converted, on the device, and through all batch hooks."""
        batch = self._trainer.precision_plugin.convert_input(batch)
        hook = "on_before_batch_transfer"
        owner = next((owner for owner in self._owners() if is_overridden(hook, owner)), self._module)
        # The strategy calls the hooks `transfer_batch_to_device` and `on_after_batch_transfer` by itself.
        return self._trainer.strategy.batch_to_device(owner.on_before_batch_transfer(batch, 0))

    def logits(self, batch: Any) -> Tensor:
        """The logits of a batch that is :meth:`ready`, in the Trainer's precision; see :func:`recompute_logits`."""
        with self._trainer.precision_plugin.val_step_context():
            return recompute_logits(self._module, batch, self._logits_from)

    def copy(self, batch: Any) -> Any:
        """The batch of a loader for the user's hooks and `forward` to change, where they could: it is used again."""
        root = self._trainer.strategy.root_device
        if root.type == "cpu" or _lies_on(batch, root):  # where the transfer copies nothing
            return copy.deepcopy(batch)
        hooks = ("on_before_batch_transfer", "on_after_batch_transfer")
        changed = any(is_overridden(hook, owner) for hook in hooks for owner in self._owners())
        return copy.deepcopy(batch) if changed else batch

    def _owners(self) -> list[Any]:
        """Who may have hooks. The first that has one is heard, as in Lightning."""
        return [getattr(self._trainer, "datamodule", None), self._module]


def recompute_logits(module: LightningModule, batch: Any, name: str | None = None) -> Tensor:
    """The logits of a batch (inputs, targets) by a forward pass of its own, in evaluation mode.

    Training goes on as if it had not been: no gradient, no batch-norm statistics, and the global random state and the
    training flags are what they were.

    Args:
        module: The LightningModule; called on the inputs if it defines `forward`.
        batch: A pair (inputs, targets).
        name: The submodule that is called on the inputs otherwise.

    Raises:
        MisconfigurationException: If the batch is not a pair, there is nothing to call, or it does not give a tensor.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise MisconfigurationException(
            f"A forward pass of its own calls the module on the inputs of a pair (inputs, targets), but the batch is "
            f"{describe(batch)}: use `logits_from` instead of `recompute`, and a strategy that scores no instances."
        )
    called, what = module, f"`forward` of {type(module).__name__}"
    if type(module).forward is LightningModule.forward:
        if name is None:
            raise MisconfigurationException(
                f"A forward pass of its own calls `forward` of the module, which {type(module).__name__} does not "
                "define: name the submodule that takes the inputs and gives the logits, `logits_from`."
            )
        called, what = module.get_submodule(name), f"`{name}`"
    training = [part for part in module.modules() if part.training]
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            logits = called(batch[0])
    finally:
        for part in training:
            part.training = True
    if not isinstance(logits, Tensor):
        raise MisconfigurationException(
            f"A forward pass of its own needs {what} to give the logits, but it gave a {type(logits).__name__}: "
            "use `logits_from` instead of `recompute`, and a strategy that scores no instances."
        )
    return logits


def describe(batch: Any) -> str:
    """A batch in a few words, for messages."""
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def _lies_on(batch: Any, device: torch.device) -> bool:
    """Whether a tensor of a batch, however nested, is on a device."""
    if isinstance(batch, Tensor):
        return batch.device == device
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return any(_lies_on(part, device) for part in parts)
