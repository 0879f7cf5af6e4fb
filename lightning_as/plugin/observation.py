"""What the training step of a batch found out: its losses, gradient bounds and labels, wherever the module has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.plugin.candidates import Candidates, find_submodule, submodules
from lightning_as.plugin.comparison import Comparison
from lightning_as.plugin.criterion import PerSample, SampleLosses
from lightning_as.plugin.forward import describe
from lightning_as.plugin.hooks import LinearGradients, TrainingHook, is_compiled
from lightning_as.plugin.logits_hook import LogitsHook
from lightning_as.plugin.looks import Looks, Observation
from lightning_as.plugin.reach import warn_of_unreached
from lightning_as.plugin.returned import as_logits, as_losses, check_logits, losses_at_hand
from lightning_as.plugin.rows import Rows, find_rows
from lightning_as.plugin.targets import class_indices, targets_of
from lightning_as.strategies.scores import Reading


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
        per_sample_loss: PerSample | str | None,
        gradient_bound: PerSample | Literal["autograd"] | None,
        reads: frozenset[Reading] = frozenset({"losses", "bounds"}),
        kept: str | int | None = None,
        compare_loss: bool = True,
    ) -> None:
        self._module = module
        self.recompute = recompute
        self._target_key = target_key
        self._kept = kept
        self._losses = SampleLosses(module, per_sample_loss)
        self._looks = Looks(self._losses)
        self._comparison = Comparison(module, self._losses, compare_loss)
        self._gradient_bound = gradient_bound
        self.reads = reads
        """What is wanted to be known; what is not among it is not asked for. It may change with the bins."""
        self.on_host = False
        """Whether what is found is wanted on the CPU, wherever the module is."""
        self._loss_scale: float | None = None
        self._weights: Tensor | None = None
        self._backward_passes = 0  # of the step, several if the optimizer evaluates it again
        self._scaled = True
        self._reached = False
        self.candidates: Candidates | None = None
        """What was seen of the submodules, for a message, if nothing is said of where the logits are."""
        autograd, linear = gradient_bound == "autograd", "linear_bounds" in reads
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
        return self.hook is None and (self._by_logits or ("losses" in self.reads and not self.takes_batch))

    @property
    def _by_logits(self) -> bool:
        """Whether bounds are computed from logits."""
        return "bounds" in self.reads and self._gradients is None

    def check_bounds(self) -> None:
        """Raise a `MisconfigurationException` if bounds are wanted that no logits can give."""
        if self._by_logits and not callable(self._gradient_bound):
            self._losses.check_bounds()

    def arm(self, size: int, weights: Tensor | None, scale: bool, batch: Any = None) -> None:
        """Watch from now on, for a batch of `size` rows, see :meth:`TrainingHook.arm`."""
        self._weights, self._scaled, self._backward_passes = weights, scale, 0
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

    def begin_backward(self, trainer: Trainer, loss: Tensor) -> None:
        """Be told that a backward pass begins; note by what the gradients that the hooks see are scaled."""
        if self.hook is not None and self.hook.weighing and not self._reached and not is_compiled(self._module):
            self._reached = True  # looked at once, as it costs some of the time of a backward pass
            warn_of_unreached(self._module, self.hook.name, loss)
        self._backward_passes += 1
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
        found = outputs if isinstance(outputs, Mapping) else {}
        if self.hook is not None and self.hook.weighing and self.hook.logits is None:
            raise self._unseen(self.hook)  # and so they have scaled nothing
        reads_bounds = bool({"bounds", "linear_bounds"} & self.reads)
        given = as_losses(found["losses"], size) if "losses" in self.reads and "losses" in found else None
        compute = "losses" in self.reads and given is None
        by_logits, ours = self._by_logits, self.on_host and not callable(self._gradient_bound)
        logits = targets = None
        if by_logits or (compute and not self.takes_batch):
            logits, targets = self._logits_of(found, batch, size), self.targets_of(batch)
            logits, targets = self._looks.brought(logits, targets, ours)
        elif labelled:
            targets = self._targets_for_labels(batch)
        losses = self._compute(logits, targets, batch, found) if compute else given
        bounds = None
        if by_logits and logits is not None:
            bounds = self.bounds_of(logits, targets)
        elif reads_bounds and (gradients := self._gradients) is not None:
            bounds = self._observed_bounds(gradients, size)
            if bounds is None:
                return None
        if logits is None:
            targets = self._targets_for_labels(batch) if targets is None else targets
            logits, targets = self._looks.brought(self._at_hand(found, size), targets, ours)
        losses = losses if losses is None or logits is None else losses.to(logits.device)
        shown = losses_at_hand(found, size) if losses is None else losses
        look = self._looks.of(shown, bounds, logits, targets, size)
        losses, bounds = self._or_zeros(losses, size), self._or_zeros(bounds, size)
        return Observation(losses, bounds, self._labels(batch, targets, size) if labelled else None, look)

    def rows(self, batch: Any, drawn: int) -> Rows:
        """Which of the `drawn` samples each row of a batch came from, see :func:`find_rows`."""
        return find_rows(batch, drawn, self._kept)

    def targets_of(self, batch: Any) -> Any:
        """The targets of a batch, see :func:`targets_of`."""
        return targets_of(batch, self._target_key)

    @property
    def takes_batch(self) -> bool:
        """Whether losses are computed from the batch alone, without logits and targets."""
        return self._losses.takes_batch

    def losses_of(self, logits: Tensor | None, targets: Any, batch: Any) -> Tensor:
        """The loss of each sample, (B,), without a gradient; see :class:`SampleLosses`."""
        return self._losses.of_batch(batch) if logits is None else self._losses.of_logits(logits, targets)

    def bounds_of(self, logits: Tensor, targets: Any) -> Tensor:
        """The squared gradient bound of each sample of a batch with these logits, (B,), without a gradient.

        Raises:
            MisconfigurationException: If a function of the user's gives another shape.
        """
        if not callable(self._gradient_bound):
            return self._losses.bounds(logits, targets)
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
        return self._labels(batch, self._targets_for_labels(batch), size)

    def _targets_for_labels(self, batch: Any) -> Any:
        """The targets, or None if it is not clear which they are: where losses are returned nobody needs them."""
        try:
            return self.targets_of(batch)
        except MisconfigurationException:
            if self._target_key is not None:
                raise
            return None

    def _labels(self, batch: Any, targets: Any, size: int) -> Tensor | None:
        if not isinstance(targets, Tensor) or targets.dim() == 0:
            return None
        if len(targets) != size:
            raise MisconfigurationException(
                f"A batch of {size} was drawn, but {describe(batch)} has {len(targets)} targets: each position in the "
                "data set must give one sample."
            )
        return class_indices(targets, size)

    def _or_zeros(self, numbers: Tensor | None, size: int) -> Tensor:
        device = "cpu" if self.on_host else self._module.device
        return torch.zeros(size, dtype=torch.float32, device=device) if numbers is None else numbers

    def _compute(self, logits: Tensor | None, targets: Any, batch: Any, found: Mapping[str, Any]) -> Tensor:
        """The losses, (B,), compared with the one that was returned if their logits are of the same pass."""
        other_pass = "logits" not in found and (self.hook is None or self._backward_passes > 1)
        weighted = self._weights is not None and self._scaled
        if logits is None or self.takes_batch or other_pass or not self._comparison.wants(logits, weighted):
            return self.losses_of(None if self.takes_batch else logits, targets, batch)
        self._comparison.look_ahead(logits, targets)
        losses = self.losses_of(logits, targets, batch)
        self._comparison.compare(found.get("loss"), losses, logits, targets, self._weights, self._scaled)
        return losses

    def _logits_of(self, found: Mapping[str, Any], batch: Any, size: int) -> Tensor:
        if "logits" in found:
            return as_logits(found["logits"], size)
        if self.hook is not None:
            if (logits := self.hook.logits) is None:
                raise self._unseen(self.hook)
            return logits
        if self.recompute is not None:
            return check_logits(self.recompute(batch), size)
        raise MisconfigurationException(
            f"`training_step` of {type(self._module).__name__} gave {sorted(found)}, and no logits. Either name the "
            "submodule that gives them, AdaptiveSamplingCallback(logits_from=…), one of "
            f"{self.candidates or submodules(self._module)}; or return "
            "{'loss': loss, 'losses': losses, 'logits': logits} from `training_step`, with one loss per sample, or "
            "give them by `hand_over(self, losses=…, logits=…)` in it; or let the callback compute them by a second "
            "forward pass, AdaptiveSamplingCallback(recompute=True)."
        )

    def _at_hand(self, found: Mapping[str, Any], size: int) -> Tensor | None:
        """The logits, (B, …), if they are there though nobody has asked for them."""
        logits = found.get("logits", None if self.hook is None else self.hook.logits)
        fits = isinstance(logits, Tensor) and logits.is_floating_point() and logits.dim() and len(logits) == size
        return logits.detach() if fits else None

    def _unseen(self, hook: LogitsHook) -> MisconfigurationException:
        return MisconfigurationException(
            f"`logits_from={hook.name!r}` gave no output with a row per instance in the training step: "
            f"name a submodule that is called on the whole batch, one of {submodules(self._module)}."
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
