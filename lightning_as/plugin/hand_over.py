"""What a `training_step` gives the callback that it cannot return."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_as.plugin.callback import AdaptiveSamplingCallback


def hand_over(module: LightningModule, losses: Any = None, logits: Any = None) -> None:
    """Give the callback the losses or logits of the drawn batch, from within `training_step`.

    They count as if `training_step` had returned them, which in manual optimization it need not do; given here, they
    come before those that it returns, and of several calls in a step the last counts. Without the callback, in
    validation, or without a Trainer nothing happens.

    Args:
        module: The LightningModule, ``self``.
        losses: The loss of each sample of the batch, (B,). Default: none.
        logits: The logits of each, (B, …). Default: none.

    Raises:
        ValueError: If neither is given.

    Example:
        >>> def training_step(self, batch, batch_idx):
        ...     losses = F.softplus(-self.discriminator(batch)).squeeze(1)
        ...     hand_over(self, losses=losses)
    """
    if losses is None and logits is None:
        raise ValueError("`hand_over` needs the `losses` or the `logits` of the drawn batch.")
    try:
        trainer = module.trainer
    except RuntimeError:  # there is none
        return
    for callback in trainer.callbacks if isinstance(trainer, Trainer) else ():  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, AdaptiveSamplingCallback):
            callback.receive(losses, logits)
