"""Whether the loss that the plugin computes of each sample is the loss that the module trains on."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_as.losses import Criterion, CrossEntropy
from lightning_as.losses.entries import is_labelled
from lightning_as.plugin.criterion import SampleLosses

BATCHES = 3
"""Number of batches that are compared. A first one alone may agree by chance, as where all logits are 0."""


class Comparison:
    """Compares the mean loss of the first batches of a fit with what `training_step` returned.

    Args:
        module: The module that is trained.
        losses: What computes the loss of each sample.
        enabled: Whether to compare.
    """

    def __init__(self, module: LightningModule, losses: SampleLosses, enabled: bool) -> None:
        self._module = module
        self._losses = losses
        self._left = BATCHES if enabled else 0
        self._probabilities = self._enabled = enabled

    def wants(self, logits: Tensor, weighted: bool) -> bool:
        """Whether a batch is to be compared: one of the first, or one in which weights may be off.

        Args:
            logits: Those of the batch, (B, ...).
            weighted: Whether weights scale their gradient: a sample of fewer pixels may come in any batch.
        """
        return self._enabled and (self._left > 0 or (weighted and logits.dim() > 2))

    def look_ahead(self, logits: Tensor, targets: Any) -> None:
        """Look at logits and targets before their loss is computed, which on a GPU would end in words of its own.

        Raises:
            MisconfigurationException: If they are none of a cross-entropy.
        """
        loss = self._losses.loss
        if not isinstance(loss, CrossEntropy) or not isinstance(targets, Tensor) or not logits.numel():
            return
        try:
            logits, targets = loss.arrange(logits, targets)
        except (TypeError, ValueError):
            return  # to be said by the loss itself
        refuse_one_logit(logits)
        if targets.shape != logits.shape:
            self._check_range(targets.long()[is_labelled(targets, loss.ignore_index)], logits.shape[1])
        if self._probabilities and bool((logits >= 0).all()) and _near(logits.sum(1), torch.ones_like(logits[:, 0])):
            rank_zero_warn(
                "The logits are not negative and sum to one: they seem to be probabilities, of which cross-entropy "
                "makes something else than of the logits before the softmax. Name the submodule before it, "
                "`logits_from=`; or give a `per_sample_loss=` of probabilities."
            )
        self._probabilities = False

    def compare(
        self, loss: Any, losses: Tensor, logits: Tensor, targets: Any, weights: Tensor | None, scaled: bool
    ) -> None:
        """Compare one batch.

        Args:
            loss: What `training_step` returned, as Lightning passes it on.
            losses: The loss of each sample, (B,), as the plugin has computed it.
            logits: What it was computed of, with `targets`.
            targets: See above.
            weights: The weights of the samples, (B,); None for none.
            scaled: Whether the weights scale the gradient of the logits; else the module multiplies its losses.

        Raises:
            MisconfigurationException: If the two differ in kind; or if the weights cannot be right, since the loss is
                no mean over samples.
        """
        self._left -= 1
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not len(losses) or loss.is_complex():
            return
        trainer, dtypes = self._module.trainer, (loss.dtype, logits.dtype, losses.dtype)
        divided = trainer.accumulate_grad_batches if self._module.automatic_optimization else 1
        returned, mean = float(loss) * divided, float(losses.mean())
        if not math.isfinite(returned) or not math.isfinite(mean):
            return
        # Half the digits: what is computed in another order, or a narrower type, agrees in more than that.
        epsilon = max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)
        samples = [mean, float(losses.sum())]
        if weights is not None and not scaled:
            weighted = losses * weights.to(losses)
            samples += [float(weighted.mean()), float(weighted.sum() / weights.sum())]
        if any(_close(returned, one, epsilon) for one in samples) or self._moved():
            return
        own = self._own_mean(logits, targets)
        if own is not None and _close(returned, own, epsilon):
            if weights is not None and scaled:
                raise self._no_mean_over_samples(returned, mean)
            return
        self._enabled = False
        self._refuse_other_kinds(logits, targets, returned, mean)
        self._warn(returned, mean)

    def _moved(self) -> bool:
        """Whether the step has trained the loss itself, so that it now gives something else."""
        criterion = getattr(self._losses.loss, "criterion", None)
        parameters = criterion.parameters() if isinstance(criterion, nn.Module) else ()
        return any(parameter.requires_grad for parameter in parameters)

    def _check_range(self, targets: Tensor, classes: int) -> None:
        outside = targets[(targets < 0) | (targets >= classes)]
        if outside.numel():
            number = int(outside[0])
            raise MisconfigurationException(
                f"The target {number} is not the index of one of the {classes} classes that the logits have. If it "
                f"marks what has no label, say `per_sample_loss=CrossEntropy(ignore_index={number})`; else name what "
                "holds the targets, `target_key=`, or what gives the logits, `logits_from=`; or give the loss that the "
                "module trains on, `per_sample_loss=`."
            )

    def _own_mean(self, logits: Tensor, targets: Any) -> float | None:
        """What the loss itself gives for the batch: by the weights of classes, and over all pixels."""
        loss = self._losses.loss
        if isinstance(loss, CrossEntropy) or (isinstance(loss, Criterion) and loss.reduces):
            own = loss.mean(logits, targets)
            return float(own) if own.numel() == 1 else None
        return None  # what gives a mean alone may be no mean of its samples' losses, but couple them

    def _no_mean_over_samples(self, returned: float, mean: float) -> MisconfigurationException:
        return MisconfigurationException(
            f"`weights` scale the gradient of each sample's logits, which is right for a loss that is the mean over "
            f"samples ({mean:.6g} here), but the module's is the mean over all entries of the batch, such as pixels, "
            f"tokens or weighted classes ({returned:.6g}): then the weights are off. Take the mean over each sample's "
            "entries first, and then over the samples, in `training_step`; or leave the weights out, `weights='none'`."
        )

    def _refuse_other_kinds(self, logits: Tensor, targets: Any, returned: float, mean: float) -> None:
        if not isinstance(self._losses.loss, CrossEntropy) or not isinstance(targets, Tensor):
            return
        logits, targets = self._losses.loss.arrange(logits, targets)
        if targets.shape != logits.shape:
            return
        sums = targets.to(torch.float32).sum(1)
        if bool((targets < 0).any()) or not _near(sums, torch.ones_like(sums)):
            raise MisconfigurationException(
                f"Targets of the logits' shape, {tuple(targets.shape)}, are to cross-entropy class probabilities, but "
                f"these do not sum to one, and the loss ({mean:.6g}) is not what `training_step` returned "
                f"({returned:.6g}): give the loss that the module trains on, `per_sample_loss=`, such as "
                "BinaryCrossEntropy() of yes-or-no labels or MeanSquaredError() of real numbers."
            )

    def _warn(self, returned: float, mean: float) -> None:
        rank_zero_warn(
            f"`training_step` returned a loss of {returned:.6g}, but the mean of the samples' losses is {mean:.6g}, by "
            f"{self._losses.loss!r}: samples are chosen by another loss than the module trains on. Usual causes: label "
            "smoothing, class weights, a penalty, a mean over tokens, labels that the module shifts (`CrossEntropy("
            "shift=True)`), an output that is not the logits, another loss. "
            "Give the module's loss, `per_sample_loss=`, such as its name in the module, `'criterion'`; or return the "
            "samples' own as `losses`. If it is meant to be so, `compare_loss=False`."
        )


def refuse_one_logit(logits: Tensor) -> None:
    """Raise a `MisconfigurationException` if the logits that go into a cross-entropy, (B, C, ...), are of one class."""
    if logits.shape[1] == 1:
        raise MisconfigurationException(
            f"The logits have one number for each sample, {tuple(logits.shape)}, of which cross-entropy is always 0: "
            "give the loss that the module trains on, `per_sample_loss=`, such as BinaryCrossEntropy() of yes-or-no "
            "labels or MeanSquaredError() of real numbers."
        )


def _close(one: float, other: float, epsilon: float) -> bool:
    return abs(one - other) <= math.sqrt(epsilon) * max(abs(one), abs(other)) + 10 * epsilon


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.to(torch.float32), other.to(torch.float32), atol=0.01)
