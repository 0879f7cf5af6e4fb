"""The plugin: a Lightning callback that feeds what training finds out back into the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_as.batch_sampler import AdaptiveBatchSampler
from lightning_as.draw import Draw, effective_sample_size
from lightning_as.gradient_bound import gradient_bound
from lightning_as.strategies import AdaptiveSampling, Strategy


class AdaptiveSamplingCallback(Callback):
    """Samples the training batches by a strategy, and updates it after every batch.

    The data comes from a DataModule with an :class:`AdaptiveBatchSampler` as its attribute ``sampler``, such as
    :class:`MNISTDataModule`. `training_step` returns, beside ``loss``, the per-sample ``losses`` (B,) and
    the ``logits`` (B, C); the batch is a pair (inputs, targets) with integer targets (B,). The losses count as they
    are: of the training-mode forward pass, before the update.

    Logged every ``log_every_n_steps``: ``adaptive/ess``, the number of instances that the law is effectively spread
    over, as estimated from the batch (also in the progress bar); and the strategy's own figures, for
    :class:`AdaptiveSampling` ``adaptive/entropy_p`` (nats), ``adaptive/p_min``, ``adaptive/p_max``,
    ``adaptive/seen`` (share of instances) and ``adaptive/age_p`` (batches).

    Args:
        strategy: The method. Default: :class:`AdaptiveSampling` as in the thesis.

    Raises:
        TypeError: If `strategy` is not a strategy object.
        MisconfigurationException: Before the first batch or at it, if something that is needed is missing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=5, callbacks=[AdaptiveSamplingCallback()])  # doctest: +SKIP
    """

    def __init__(self, strategy: Strategy | None = None) -> None:
        if strategy is not None and not isinstance(strategy, Strategy):
            raise TypeError(f"`strategy` must be an object such as AdaptiveSampling(), got {strategy!r}.")
        self.strategy = AdaptiveSampling() if strategy is None else strategy
        self._sampler: AdaptiveBatchSampler | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the strategy: after the DataModule's own setup, before its state is restored."""
        if stage != "fit":
            return
        overfit_batches: float = trainer.overfit_batches  # pyright: ignore[reportAttributeAccessIssue]
        if overfit_batches > 0:
            raise MisconfigurationException(
                f"`overfit_batches={overfit_batches}` replaces the sampler by a sequential one: "
                "leave it out, or leave out AdaptiveSamplingCallback."
            )
        if trainer.world_size > 1:
            raise MisconfigurationException(
                f"AdaptiveSamplingCallback works in one process so far, but the Trainer has {trainer.world_size}: "
                "use `devices=1`."
            )
        self._sampler = _find_sampler(trainer)
        self._sampler.attach(self.strategy)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that the batches will come from our sampler."""
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"AdaptiveSamplingCallback needs one train DataLoader, but `train_dataloader` gave a "
                f"{type(loader).__name__}: return a single torch DataLoader."
            )
        if isinstance(loader.dataset, IterableDataset):
            raise MisconfigurationException(
                "An IterableDataset has no indices to sample from: use a map-style dataset, with `__getitem__`."
            )
        if loader.sampler is not self._sampler:
            raise MisconfigurationException(
                f"The train DataLoader draws from a {type(loader.sampler).__name__}, not the DataModule's sampler: "
                "return `DataLoader(dataset, sampler=self.sampler, batch_size=None)` from `train_dataloader`."
            )
        if not getattr(loader, "in_order", True):
            raise MisconfigurationException("`in_order=False` mixes up which loss is whose: leave it out.")

    @torch.inference_mode()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Match the batch with its draw, and update the strategy."""
        assert self._sampler is not None, "setup('fit') comes first"
        losses, logits, targets = _read(outputs, batch)
        draw = self._sampler.commit()
        _match(draw, self._sampler, targets)
        # The sampler lives on the CPU, and not every device knows float64.
        self.strategy.update(draw, losses.cpu().to(torch.float64), gradient_bound(logits.cpu(), targets.cpu()))
        if trainer.is_last_batch:  # of the epoch: a checkpoint that is saved now is one of its end
            self._sampler.end_epoch()
        # Lightning would keep what is logged in between to itself, and a log call costs as much as a draw. The first
        # batch is for the progress bar.
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if batch_idx == 0 or (every and trainer.global_step % every == 0):
            self._log(pl_module, draw)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the sampler, which cannot know how many batches `limit_train_batches` leaves."""
        assert self._sampler is not None
        self._sampler.end_epoch()

    def _log(self, module: LightningModule, draw: Draw) -> None:
        module.log("adaptive/ess", float(effective_sample_size(draw.probabilities)), prog_bar=True)
        module.log_dict({f"adaptive/{name}": value for name, value in self.strategy.metrics().items()})


def _find_sampler(trainer: Trainer) -> AdaptiveBatchSampler:
    datamodule = getattr(trainer, "datamodule", None)
    sampler = getattr(datamodule, "sampler", None)
    if isinstance(sampler, AdaptiveBatchSampler):
        return sampler
    found = "there is no DataModule" if datamodule is None else f"{type(datamodule).__name__} has none"
    raise MisconfigurationException(
        f"AdaptiveSamplingCallback needs a DataModule with an AdaptiveBatchSampler as its `sampler`, but {found}: "
        "use MNISTDataModule, or set `self.sampler = AdaptiveBatchSampler(Bins.from_labels(labels), batch_size)` "
        "in your DataModule's `setup`, and return `DataLoader(dataset, sampler=self.sampler, batch_size=None)`."
    )


def _read(outputs: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (B,), logits (B, C) and targets (B,) of the batch just trained on."""
    mend = "Return {'loss': loss, 'losses': losses, 'logits': logits} from `training_step`."
    if not isinstance(outputs, Mapping) or not {"losses", "logits"} <= outputs.keys():
        keys = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise MisconfigurationException(f"`training_step` gave {keys}, without `losses` and `logits`. {mend}")
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise MisconfigurationException(
            f"A batch must be a pair (inputs, targets), got a {type(batch).__name__}: change the dataset's items."
        )
    losses, logits, targets = outputs["losses"], outputs["logits"], batch[1]
    if targets.dim() != 1 or targets.is_floating_point():
        raise MisconfigurationException(
            f"The targets must be class indices of the shape (B,), got {tuple(targets.shape)} of {targets.dtype}."
        )
    size = len(targets)
    if losses.shape != (size,) or logits.dim() != 2 or len(logits) != size:
        raise MisconfigurationException(
            f"For {size} targets `losses` must be of the shape ({size},) and `logits` ({size}, C), "
            f"got {tuple(losses.shape)} and {tuple(logits.shape)}. {mend} Use `reduction='none'` for the losses."
        )
    return losses, logits, targets


def _match(draw: Draw, sampler: AdaptiveBatchSampler, targets: Tensor) -> None:
    """Raise if the batch cannot be the one that was drawn."""
    if len(draw.indices) != len(targets):
        raise MisconfigurationException(
            f"A batch of {len(draw.indices)} was drawn, but one of {len(targets)} was trained on: "
            "each index must give one sample."
        )
    if sampler.bins.are_labels and not torch.equal(draw.bins, targets.to("cpu", torch.int64)):
        raise MisconfigurationException(
            "The targets of the batch are not the bins of the instances drawn, although the bins were made from "
            "labels: the losses would be filed under the wrong instances. Make the bins from the labels of this very "
            "dataset, in its order; for bins that are not the targets use `Bins(tags)`."
        )
