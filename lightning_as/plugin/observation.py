"""What the training step of a batch found out: its losses and gradient bounds, wherever the module has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.losses import squared_gradient_norms
from lightning_as.plugin.hooks import LinearGradients, LogitsHook, submodules

PerSample = Callable[[Tensor, Any], Any]  # to a tensor, but jsonargparse would then look for a class of tensors
"""A function of the logits (B, …) and the targets to one number per sample, a tensor (B,)."""


class Observer:
    """Finds losses and gradient bounds of the batches of one fit; the arguments are those of the callback.

    Args:
        losses: Whether anybody wants the losses of trained batches.
        bounds: Whether anybody wants the bounds; zeros stand for them otherwise, and for all if nothing is wanted.
        gradients: What they are the gradients of: the logits, or the parameters of all linear layers, as observed in
            the module's own backward pass.

    Raises:
        MisconfigurationException: If `logits_from` is no submodule of `module`; or if the linear layers are asked for,
            and there are none, or a `gradient_bound` is given as well.
    """

    def __init__(
        self,
        module: LightningModule,
        logits_from: str | None,
        recompute: bool,
        target_key: str | int | None,
        per_sample_loss: PerSample,
        gradient_bound: PerSample | Literal["autograd"] | None,
        losses: bool = True,
        bounds: bool = True,
        gradients: Literal["logits", "linear"] = "logits",
    ) -> None:
        self._module = module
        self._recompute = recompute
        self._target_key = target_key
        self._per_sample_loss = per_sample_loss
        self._gradient_bound = gradient_bound
        self._read_losses, self._read_bounds = losses, bounds
        self._loss_scale: float | None = None
        autograd = gradient_bound == "autograd"
        linear = bounds and gradients == "linear"
        if linear and gradient_bound is not None:
            raise MisconfigurationException(
                "`gradient_bound` is of the logits, but the strategy goes by the gradients of all linear layers: leave "
                "it out."
            )
        self._linear = LinearGradients(module) if linear else None
        self.hook = None if logits_from is None else LogitsHook(module, logits_from, keep_gradient=autograd)
        self._observing = bounds and (autograd or linear)

    def arm(self, size: int, weights: Tensor | None, scale: bool) -> None:
        """Watch from now on, for a batch of `size`.

        Args:
            size: Number of instances that were drawn for it.
            weights: The factors on its losses, (size,), None for none.
            scale: Whether it is up to the hook to bring them to the loss.
        """
        if self.hook is not None:
            self.hook.arm(size, weights if scale else None)
        if self._linear is not None:
            self._linear.arm(size, weights)

    def disarm(self) -> None:
        """Watch no longer."""
        for watching in (self.hook, self._linear):
            if watching is not None:
                watching.disarm()

    def remove(self) -> None:
        """Take all hooks off the module."""
        for watching in (self.hook, self._linear):
            if watching is not None:
                watching.remove()

    def note_scale(self, trainer: Trainer) -> None:
        """Note by what the gradients that the hook sees are scaled, before a backward pass."""
        if self._observing:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            divisor = trainer.accumulate_grad_batches if self._module.automatic_optimization else 1
            self._loss_scale = (1.0 if scaler is None else scaler.get_scale()) / divisor

    def observe(self, outputs: Any, batch: Any, size: int) -> list[Tensor] | None:
        """Losses and squared gradient bounds of a batch of `size`, (B,) each, without a gradient.

        None if they should come from a backward pass, but there was none, as where weight averaging makes a last round
        for the sake of batch norm.

        Args:
            outputs: What `training_step` returned, as Lightning passes it on.
            batch: The batch.
            size: Number of instances that were drawn for it.

        Raises:
            MisconfigurationException: If they are not to be found, or not one per instance.
        """
        if self.hook is None and not self._read_losses and not self._read_bounds:
            return [torch.zeros(size, device=self._module.device) for _ in range(2)]
        logits, losses = self._logits_and_losses(outputs, batch)
        if logits.dim() == 0 or len(logits) != size:
            raise MisconfigurationException(
                f"The logits must have one row for each of the {size} instances drawn, got {tuple(logits.shape)}."
            )
        if losses is None:
            losses = self.losses_of(logits, batch)
        if losses.shape != (size,):
            raise MisconfigurationException(
                f"The losses must be one for each of the {size} instances drawn, got the shape {tuple(losses.shape)}: "
                "use `reduction='none'`, and the mean over anything that is not the batch."
            )
        if not self._read_bounds:
            return [losses, torch.zeros_like(losses)]
        bounds = self._observed_bounds(len(logits)) if self._observing else self.bounds_of(logits, batch)
        return None if bounds is None else [losses, bounds]

    def losses_of(self, logits: Tensor, batch: Any) -> Tensor:
        """The loss of each sample of a batch with these logits, (B,), without a gradient."""
        return self._per_sample_loss(logits, targets_of(batch, self._target_key)).detach()

    def bounds_of(self, logits: Tensor, batch: Any) -> Tensor:
        """The squared gradient bound of each sample of a batch with these logits, (B,), without a gradient.

        Raises:
            MisconfigurationException: If a function of the user's gives another shape.
        """
        targets = targets_of(batch, self._target_key)
        if not callable(self._gradient_bound):
            return squared_gradient_norms(self._per_sample_loss, logits, targets)
        bounds = self._gradient_bound(logits, targets).detach()
        if bounds.shape != (len(logits),):
            raise MisconfigurationException(
                f"`gradient_bound` must give one number for each of the {len(logits)} instances drawn, got the "
                f"shape {tuple(bounds.shape)}."
            )
        return bounds

    def recompute(self, batch: Any) -> Tensor:
        """The logits of a batch by a forward pass of its own, see :func:`recompute_logits`."""
        return recompute_logits(self._module, batch, None if self.hook is None else self.hook.name)

    def labels(self, batch: Any, size: int) -> Tensor | None:
        """The targets of a batch of `size` if they are class indices, (B,) int64, or None.

        Raises:
            MisconfigurationException: If the batch has targets of another number.
        """
        targets = targets_of(batch, self._target_key)
        if not isinstance(targets, Tensor) or targets.dim() == 0:
            return None
        if len(targets) != size:
            raise MisconfigurationException(
                f"A batch of {size} was drawn, but {describe(batch)} has {len(targets)} targets: each position in the "
                "data set must give one sample."
            )
        return targets.flatten() if targets.numel() == size and not targets.is_floating_point() else None

    def _logits_and_losses(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
        found = outputs if isinstance(outputs, Mapping) else {}
        losses = found["losses"].detach() if "losses" in found else None
        # Whoever returns the logits needs no hook, except for weights.
        if self.hook is not None and self.hook.logits is None and ("logits" not in found or self.hook.weighing):
            raise MisconfigurationException(
                f"`logits_from={self.hook.name!r}` gave no output with a row per instance in the training step: "
                f"name a submodule that is called on the whole batch, one of {submodules(self._module)}."
            )
        if "logits" in found:
            return found["logits"].detach(), losses
        if self.hook is not None and self.hook.logits is not None:
            return self.hook.logits, losses
        if self._recompute:
            return self.recompute(batch), losses
        raise MisconfigurationException(
            f"`training_step` of {type(self._module).__name__} gave {sorted(found)}, and no logits. Either name the "
            "submodule that gives them, AdaptiveSamplingCallback(logits_from=…), one of "
            f"{submodules(self._module)}; or return {{'loss': loss, 'losses': losses, 'logits': logits}} from "
            "`training_step`, with one loss per sample; or let the callback compute them by a second forward pass, "
            "AdaptiveSamplingCallback(recompute=True)."
        )

    def _observed_bounds(self, size: int) -> Tensor | None:
        """Bounds from the gradients that came back; None if there was no backward pass."""
        scale, self._loss_scale = self._loss_scale, None
        if self._linear is not None:
            squares, where, mend = self._linear.squared_norms(), "any linear layer, which the strategy", "use another"
        else:
            assert self.hook is not None
            gradient, mend = self.hook.gradient, "name a submodule whose output the loss depends on"
            where = f"the output of {self.hook.name!r}, which `gradient_bound='autograd'`"
            squares = None if gradient is None else gradient.flatten(1).to(torch.float64).square().sum(1)
        if squares is None and scale is not None:
            raise MisconfigurationException(f"No gradient came back to {where} needs: {mend}.")
        # The loss is the mean over the batch: that, too, has scaled what came back.
        return None if squares is None else squares * (size / (scale or 1.0)) ** 2


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


TARGET_NAMES = ("targets", "target", "labels", "label", "y")
"""Keys under which a batch that is a mapping may have its targets."""


def targets_of(batch: Any, key: str | int | None) -> Any:
    """The targets of a batch: what `key` says, or the second of a pair, or what a mapping has under a usual name.

    Raises:
        MisconfigurationException: If that is not there, or not clear.
    """
    mend = "name it with `AdaptiveSamplingCallback(target_key=…)`."
    if key is not None:
        try:
            return batch[key]
        except (KeyError, IndexError, TypeError) as error:
            raise MisconfigurationException(
                f"`target_key={key!r}` is not in the batch, {describe(batch)}: name what holds the targets."
            ) from error
    if isinstance(batch, Mapping):
        found = [name for name in TARGET_NAMES if name in batch]
        if len(found) == 1:
            return batch[found[0]]
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[1]
    raise MisconfigurationException(f"Which part of the batch, {describe(batch)}, has the targets? Please {mend}")


def describe(batch: Any) -> str:
    """A batch in a few words, for messages."""
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
