"""A wrapper that lets any DataModule, or any data set, be sampled adaptively."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from lightning_as.data.dataloader import AdaptiveDataLoader, BinsLike

_HOOKS = (
    "prepare_data",
    "setup",
    "teardown",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "state_dict",
    "load_state_dict",
    "on_exception",
    "prepare_data_per_node",
    "allow_zero_length_dataloader_with_multiple_devices",
)
"""What is your DataModule's, as it is."""


class AdaptiveDataModule(LightningDataModule):
    """Your DataModule, or your training data set, with a train loader that :class:`AdaptiveSamplingCallback` can guide.

    Everything but the order of the train loader stays what it is: its data set, transforms, `collate_fn`, workers, and
    the loaders for validation, test and prediction. Attributes that it lacks are looked up in yours.

    Args:
        data: A DataModule whose `train_dataloader` gives one ordinary DataLoader; or a map-style training data set, if
            that is all that you have.
        batch_size: Instances per batch and process. Default: that of your DataModule's train loader.
        bins: The partition that is drawn from, see :func:`make_bins`. Default: one bin per class, of the labels that
            the training data set keeps.
        batches_per_epoch: Length of an epoch. Default: the data set's size over the (global) batch size, floored.
        seed: Seed of the draws. Default: what `seed_everything` or `torch.manual_seed` was last given.
        num_workers: Loader processes for training. Default: that of your DataModule's train loader, or 0.

    Raises:
        TypeError: If `data` is neither a DataModule nor a data set.
        ValueError: If `batch_size` is missing with a data set. What an :class:`AdaptiveDataLoader` refuses is said when
            the train loader is made.
        MisconfigurationException: When the train loader is made, if your DataModule gives anything but one ordinary
            DataLoader.
    """

    def __init__(
        self,
        data: LightningDataModule | Dataset[Any],
        batch_size: int | None = None,
        bins: BinsLike = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(data, LightningDataModule):
            if not hasattr(data, "__getitem__"):
                raise TypeError(f"`data` must be a DataModule or a data set with `__getitem__`, got {data!r}.")
            if batch_size is None:
                raise ValueError("`batch_size` is missing: give the number of instances per batch.")
        self.data = data
        if isinstance(data, LightningDataModule):
            # Bound, not called from methods of our own, so that Lightning sees which of them are defined.
            for hook in _HOOKS:
                if hasattr(data, hook):  # Lightning 2.4 has no `on_exception`
                    setattr(self, hook, getattr(data, hook))
        self._batch_size = batch_size
        self.bins: BinsLike = bins
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.num_workers = num_workers
        self._first_seed: int | None = None

    @property
    def trainer(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The Trainer, which Lightning sets; your DataModule has the same."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._trainer = trainer
        if isinstance(self.__dict__.get("data"), LightningDataModule):
            self.data.trainer = trainer  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def batch_size(self) -> int:
        """Instances per batch and process; settable, as batch-size finders do."""
        if self._batch_size is None:
            return self.data.batch_size  # pyright: ignore[reportAttributeAccessIssue]
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._batch_size = value

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not found. While unpickling there is no `data` yet.
        if name.startswith("__") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["data"], name)

    def train_dataloader(self) -> AdaptiveDataLoader:
        """Your train loader, with our sampler."""
        if not isinstance(self.data, LightningDataModule):
            return AdaptiveDataLoader(
                self.data,
                self._batch_size,
                self.bins,
                self.batches_per_epoch,
                self._seed(),
                num_workers=self.num_workers or 0,
            )
        loader = self.data.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"`train_dataloader` of {type(self.data).__name__} gave a {type(loader).__name__}: AdaptiveDataModule "
                "needs a single torch DataLoader."
            )
        if isinstance(loader, AdaptiveDataLoader):
            raise MisconfigurationException(
                f"{type(self.data).__name__} gives an AdaptiveDataLoader already: use it as it is, without "
                "AdaptiveDataModule."
            )
        return AdaptiveDataLoader.like(
            loader, self._batch_size, self.bins, self.batches_per_epoch, self._seed(), self.num_workers
        )

    def _seed(self) -> int:
        """Another one in each epoch, for loaders that are made anew; equal in all processes."""
        seed = self._first_seed
        if seed is None:
            seed = torch.initial_seed() if self.seed is None else self.seed
            # Asked for once: later calls may come from one process alone.
            seed = self._first_seed = seed if self.trainer is None else int(self.trainer.strategy.broadcast(seed))
        return seed + (0 if self.trainer is None else self.trainer.current_epoch)
