"""What the training step of a batch found out: its losses, gradient bounds and labels, wherever the module has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.losses import squared_gradient_norms
from lightning_as.plugin.candidates import Candidates, find_submodule, submodules
from lightning_as.plugin.forward import TARGET_NAMES, describe
from lightning_as.plugin.hooks import LinearGradients, TrainingHook
from lightning_as.plugin.logits_hook import LogitsHook
from lightning_as.strategies.base import Reading

PerSample = Callable[[Tensor, Any], Any]  # to a tensor, but jsonargparse would then look for a class of tensors
"""A function of the logits (B, …) and the targets to one number per sample, a tensor (B,)."""


class Observation(NamedTuple):
    """What is known of a batch that was trained on; no tensor has a gradient."""

    losses: Tensor
    """The loss of each instance, (B,); zeros if nobody reads them and there are no logits."""
    bounds: Tensor
    """The squared norm of the gradient of each loss, (B,); zeros if nobody reads them."""
    labels: Tensor | None
    """The targets, (B,) integers; None if they were not asked for, or are no class indices."""


class Observer:
    """Finds out about the batches of one fit; all arguments but these are those of the callback.

    What is wanted, and which hooks on the module see it, is settled here. Losses and logits are taken from where a
    batch has them: from what the step returned, the hook `logits_from`, or a forward pass of its own.

    Args:
        recompute: What gives the logits of a batch where they are nowhere else to be seen; None for nothing.
        reads: What the strategy reads of trained batches, such as `Strategy.reads`.

    Raises:
        MisconfigurationException: If `logits_from` is no submodule of `module`; or if the strategy reads the gradients
            of the linear layers, and there are none, or a `gradient_bound` is given as well.
    """

    def __init__(
        self,
        module: LightningModule,
        logits_from: str | None,
        recompute: Callable[[Any], Tensor] | None,
        target_key: str | int | None,
        per_sample_loss: PerSample,
        gradient_bound: PerSample | Literal["autograd"] | None,
        reads: frozenset[Reading] = frozenset({"losses", "bounds"}),
    ) -> None:
        self._module = module
        self.recompute = recompute
        self._target_key = target_key
        self._per_sample_loss = per_sample_loss
        self._gradient_bound = gradient_bound
        self._read_losses = "losses" in reads
        self._read_bounds = bool({"bounds", "linear_bounds"} & reads)
        self._loss_scale: float | None = None
        self.candidates: Candidates | None = None
        """What was seen of the submodules, for a message, if nothing is said of where the logits are."""
        autograd = gradient_bound == "autograd" and self._read_bounds
        linear = "linear_bounds" in reads
        if linear and gradient_bound is not None:
            raise MisconfigurationException(
                "`gradient_bound` is of the logits, but the strategy goes by the gradients of all linear layers: leave "
                "it out."
            )
        if logits_from is not None:
            find_submodule(module, logits_from)  # or else no hook at all
        linear_gradients = LinearGradients(module) if linear else None
        self.hook = None if logits_from is None else LogitsHook(module, logits_from, keep_gradient=autograd)
        self._hooks: list[TrainingHook] = [hook for hook in (self.hook, linear_gradients) if hook is not None]
        # What sees the gradients of the module's own backward pass, if the bounds are those.
        self._gradients: TrainingHook | None = self.hook if autograd else linear_gradients

    @property
    def seeks_logits(self) -> bool:
        """Whether logits are needed, and no hook sees them."""
        return self.hook is None and (self._read_losses or self._read_bounds)

    def arm(self, size: int, weights: Tensor | None, scale: bool, batch: Any = None) -> None:
        """Watch from now on, for a batch of `size`, see :meth:`TrainingHook.arm`."""
        for hook in self._hooks:
            hook.arm(size, weights, scale, batch)

    def disarm(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.disarm()

    def remove(self) -> None:
        """Take all hooks off the module."""
        for hook in self._hooks:
            hook.remove()

    def begin_backward(self, trainer: Trainer) -> None:
        """Be told that a backward pass begins; note by what the gradients that the hooks see are scaled."""
        for hook in self._hooks:
            hook.begin_backward()
        if self._gradients is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            divisor = trainer.accumulate_grad_batches if self._module.automatic_optimization else 1
            self._loss_scale = (1.0 if scaler is None else scaler.get_scale()) / divisor

    def end_backward(self) -> None:
        """Be told that a backward pass is done."""
        for hook in self._hooks:
            hook.end_backward()

    def observe(self, outputs: Any, batch: Any, size: int, labelled: bool = False) -> Observation | None:
        """What is known of a batch that was trained on.

        None if the bounds should come from a backward pass, but there was none, as where weight averaging makes a last
        round for the sake of batch norm.

        Args:
            outputs: What `training_step` returned, as Lightning passes it on.
            batch: The batch.
            size: Number of instances that were drawn for it.
            labelled: Whether its labels are wanted. Default: False.

        Raises:
            MisconfigurationException: If something is not to be found, or not one per instance.
        """
        if self.hook is None and not self._read_losses and not self._read_bounds:
            losses, bounds = (torch.zeros(size, device=self._module.device) for _ in range(2))
            return Observation(losses, bounds, self.labels(batch, size) if labelled else None)
        logits, losses = self._logits_and_losses(outputs, batch)
        if logits.dim() == 0 or len(logits) != size:
            raise MisconfigurationException(
                f"The logits must have one row for each of the {size} instances drawn, got {tuple(logits.shape)}."
            )
        by_logits = self._read_bounds and self._gradients is None
        targets = self.targets_of(batch) if losses is None or by_logits or labelled else None
        losses = self.losses_of(logits, targets) if losses is None else _check_losses(losses, size)
        if by_logits:
            bounds = self.bounds_of(logits, targets)
        elif self._gradients is None:
            bounds = torch.zeros_like(losses)
        elif (bounds := self._observed_bounds(self._gradients, size)) is None:
            return None
        return Observation(losses, bounds, self._labels(batch, targets, size) if labelled else None)

    def targets_of(self, batch: Any) -> Any:
        """The targets of a batch, see :func:`targets_of`."""
        return targets_of(batch, self._target_key)

    def losses_of(self, logits: Tensor, targets: Any) -> Tensor:
        """The loss of each sample, see :func:`losses_of`."""
        return losses_of(self._per_sample_loss, logits, targets)

    def bounds_of(self, logits: Tensor, targets: Any) -> Tensor:
        """The squared gradient bound of each sample of a batch with these logits, (B,), without a gradient.

        Raises:
            MisconfigurationException: If a function of the user's gives another shape.
        """
        if not callable(self._gradient_bound):
            return squared_gradient_norms(self._per_sample_loss, logits, targets)
        bounds = self._gradient_bound(logits, targets).detach()
        if bounds.shape != (len(logits),):
            raise MisconfigurationException(
                f"`gradient_bound` must give one number for each of the {len(logits)} instances drawn, got the "
                f"shape {tuple(bounds.shape)}."
            )
        return bounds

    def labels(self, batch: Any, size: int) -> Tensor | None:
        """The targets of a batch of `size` if they are class indices, (B,) integers, or None.

        Raises:
            MisconfigurationException: If the batch has targets of another number.
        """
        return self._labels(batch, self.targets_of(batch), size)

    def _labels(self, batch: Any, targets: Any, size: int) -> Tensor | None:
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
        if self.hook is not None and ("logits" not in found or self.hook.weighing) and self.hook.logits is None:
            raise MisconfigurationException(
                f"`logits_from={self.hook.name!r}` gave no output with a row per instance in the training step: "
                f"name a submodule that is called on the whole batch, one of {submodules(self._module)}."
            )
        if "logits" in found:
            return found["logits"].detach(), losses
        if self.hook is not None and self.hook.logits is not None:
            return self.hook.logits, losses
        if self.recompute is not None:
            return self.recompute(batch), losses
        raise MisconfigurationException(
            f"`training_step` of {type(self._module).__name__} gave {sorted(found)}, and no logits. Either name the "
            "submodule that gives them, AdaptiveSamplingCallback(logits_from=…), one of "
            f"{self.candidates or submodules(self._module)}; or return "
            "{'loss': loss, 'losses': losses, 'logits': logits} from `training_step`, with one loss per sample; or let "
            "the callback compute them by a second forward pass, AdaptiveSamplingCallback(recompute=True)."
        )

    def _observed_bounds(self, gradients: TrainingHook, size: int) -> Tensor | None:
        """Bounds from the gradients that came back; None if there was no backward pass."""
        scale, self._loss_scale = self._loss_scale, None
        squares = gradients.squared_norms()
        if squares is None:
            if scale is None:
                return None
            raise MisconfigurationException(f"No gradient came back to {gradients.nowhere}.")
        # The loss is the mean over the batch: that, too, has scaled what came back.
        return squares * (size / (scale or 1.0)) ** 2


def losses_of(per_sample_loss: PerSample, logits: Tensor, targets: Any) -> Tensor:
    """The loss of each sample of a batch with these logits, (B,), without a gradient.

    Raises:
        MisconfigurationException: If the function gives another shape.
    """
    return _check_losses(per_sample_loss(logits, targets).detach(), len(logits))


def _check_losses(losses: Tensor, size: int) -> Tensor:
    if losses.shape != (size,):
        raise MisconfigurationException(
            f"The losses must be one for each of the {size} instances drawn, got the shape {tuple(losses.shape)}: "
            "use `reduction='none'`, and the mean over anything that is not the batch."
        )
    return losses


def targets_of(batch: Any, key: str | int | None) -> Any:
    """The targets of a batch: what `key` says, or the second of a pair, or what a mapping has under a usual name.

    Raises:
        MisconfigurationException: If that is not there, or not clear.
    """
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
    raise MisconfigurationException(
        f"Which part of the batch, {describe(batch)}, has the targets? Please name it with "
        "`AdaptiveSamplingCallback(target_key=…)`."
    )
