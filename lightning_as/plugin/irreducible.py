"""Irreducible losses for RHO-LOSS without a hold-out set: two models, each trained on what the other scores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.dataloader import Batches
from lightning_as.data.partition import size_of
from lightning_as.plugin.criterion import PerSample, SampleLosses
from lightning_as.plugin.forward import Forward, ForwardPass
from lightning_as.plugin.targets import targets_of


def irreducible_losses(
    make_module: Callable[[], LightningModule],
    loader: DataLoader[Any],
    make_trainer: Callable[[], Trainer] | None = None,
    seed: int = 0,
    logits_from: str | None = None,
    target_key: str | int | None = None,
    per_sample_loss: PerSample | str | None = None,
    forward: Forward | None = None,
) -> Tensor:
    """The loss of each training instance under a model that was trained on the half of the data without it.

    Losses are of the last epoch's model in evaluation mode. What the data set does to its samples, such as random
    augmentation, it does here, too, and so do batch hooks of the module that do not go by `module.training`: leave it
    out of both. The global random state stays as it was.

    Args:
        make_module: Makes a new module each time. It may be smaller than the one that is to be trained.
        loader: A train loader, of which the data set, the batch size, the workers and the way to collate are used.
        make_trainer: Makes a new Trainer each time. Default: one epoch, without loggers and checkpoints.
        seed: Seed of the halves, the modules and the order of their batches. Default: 0.
        logits_from: As in the callback; needed if the module has no `forward`.
        target_key: As in the callback.
        per_sample_loss: As in the callback. Default: cross-entropy.
        forward: As in the callback; a function of the module and the batch, since each half has a module of its own.

    Returns:
        The losses, in the data set's order, (N,) float64: what :class:`lightning_as.RHOLoss` takes.

    Raises:
        MisconfigurationException: If the module gives no logits, or the batches no targets, as in the callback.

    Example:
        >>> losses = irreducible_losses(Net, DataLoader(dataset, 128))  # doctest: +SKIP
        >>> torch.save(losses, "irreducible_losses.pt")  # doctest: +SKIP
    """
    order = torch.randperm(size_of(loader.dataset), generator=torch.Generator().manual_seed(seed), device="cpu")
    halves = order.tensor_split(2)
    result = torch.empty(len(order), dtype=torch.float64, device="cpu")
    for number, (trained, scored) in enumerate((halves, halves[::-1])):
        scoring = _Scoring(_part(loader, scored.sort().values), logits_from, target_key, per_sample_loss, forward)
        with isolate_rng():
            torch.manual_seed(seed + number)
            trainer = _trainer() if make_trainer is None else make_trainer()
            trainer.callbacks.append(scoring)  # pyright: ignore[reportAttributeAccessIssue]
            trainer.fit(make_module(), train_dataloaders=_part(loader, trained, shuffle=True))
        result[scored.sort().values] = scoring.losses
    return result


class _Scoring(Callback):
    """Finds the losses of a loader's instances at the end of a training, where the module still is on its device."""

    losses: Tensor
    _pass: ForwardPass
    _sample_losses: SampleLosses

    def __init__(
        self,
        loader: DataLoader[Any],
        logits_from: str | None,
        target_key: str | int | None,
        per_sample_loss: PerSample | str | None,
        forward: Forward | None,
    ) -> None:
        self._loader = loader
        self._logits_from = logits_from
        self._target_key = target_key
        self._per_sample_loss = per_sample_loss
        self._forward = forward
        self._tried = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pass = ForwardPass(trainer, pl_module, self._logits_from, self._forward, self._target_key)
        self._sample_losses = SampleLosses(pl_module, self._per_sample_loss)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._tried:  # rather now than after a training in vain
            with isolate_rng():
                self._losses(copy.deepcopy(batch))
        self._tried = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = [self._losses(self._pass.ready(batch)) for batch in self._loader]
        self.losses = torch.cat(losses)

    def _losses(self, batch: Any) -> Tensor:
        if self._sample_losses.takes_batch:
            losses = self._sample_losses.of_batch(batch)
        else:
            losses = self._sample_losses.of_logits(self._pass.logits(batch), targets_of(batch, self._target_key))
        return losses.cpu().to(torch.float64)


def _part(loader: DataLoader[Any], indices: Tensor, shuffle: bool = False) -> DataLoader[Any]:
    """A loader of some of the instances; a last batch that is not full is left out where the order is shuffled."""
    dataset, collate, sampler, batch_size = loader.dataset, loader.collate_fn, loader.sampler, loader.batch_size
    if isinstance(dataset, Batches):  # of an AdaptiveDataLoader
        dataset, collate = dataset.dataset, dataset.collate_fn
    if isinstance(sampler, AdaptiveBatchSampler):
        batch_size = sampler.batch_size
    batch_size = min(batch_size or len(indices), len(indices))
    return DataLoader(
        Subset(dataset, indices.tolist()),
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        collate_fn=collate,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,  # pyright: ignore[reportArgumentType]
        multiprocessing_context=loader.multiprocessing_context if loader.num_workers else None,
    )


def _trainer() -> Trainer:
    return Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
