"""A wrapper that lets any DataModule, or any data set, be sampled adaptively."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from lightning_as.data.chunks import OPEN_CHUNKS
from lightning_as.data.dataloader import AdaptiveDataLoader
from lightning_as.data.iterable import AdaptiveIterableLoader
from lightning_as.data.partition import BinsLike

_ARGUMENTS = ("batch_size", "bins", "batches_per_epoch", "seed", "num_workers", "open_chunks", "sharded")
"""The wrapper's own, which a DataModule may well have, too."""


class AdaptiveDataModule(LightningDataModule):
    """Your DataModule, or your training data set, with a train loader that :class:`AdaptiveSamplingCallback` can guide.

    Everything but the order of the train loader stays what it is: its data set, transforms, `collate_fn`, workers, and
    the loaders for validation, test and prediction.

    All else is your DataModule's own: attributes that are read or set, methods, hooks, hyperparameters, what is logged
    and saved of them. A checkpoint is the one without the wrapper: ``YourDataModule.load_from_checkpoint(path)`` reads
    it, to be wrapped again. ``isinstance(wrapper, YourDataModule)`` holds, but ``type(wrapper)`` is AdaptiveDataModule,
    and special methods such as ``len(wrapper)`` are not handed on: for these use ``wrapper.data``, which is yours,
    unless yours has such an attribute itself. The arguments below are the wrapper's, and yours where they are left out;
    set later on the wrapper, they are set in yours as well if it has them.

    Args:
        data: A DataModule whose `train_dataloader` gives one ordinary DataLoader; or a map-style training data set, if
            that is all that you have.
        batch_size: Instances per batch and process. Default: that of your DataModule's train loader.
        bins: The partition that is drawn from, see :func:`make_bins`. Default: one bin per class, of the labels that
            the training data set keeps; one bin, and a warning, if it keeps none.
        batches_per_epoch: Length of an epoch. Default: the data set's size over the (global) batch size, floored.
        seed: Seed of the draws. Default: what `seed_everything` or `torch.manual_seed` was last given.
        num_workers: Loader processes for training. Default: that of your DataModule's train loader, or 0.
        open_chunks: As of :class:`AdaptiveDataLoader`. Default: 8.
        sharded: As there. Default: False.

    Raises:
        TypeError: If `data` is neither a DataModule nor a data set.
        ValueError: If `batch_size` is missing with a data set. What an :class:`AdaptiveDataLoader` refuses is said when
            the train loader is made.
        MisconfigurationException: When the train loader is made, if your DataModule gives anything but one ordinary
            DataLoader.
    """

    # What this class names is the wrapper's, and all else is handed on.
    _wrapped: Any = None
    _given: Mapping[str, Any] = MappingProxyType({})
    _first_seed: int | None = None

    def __init__(
        self,
        data: LightningDataModule | Dataset[Any],
        batch_size: int | None = None,
        bins: BinsLike = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        num_workers: int | None = None,
        open_chunks: int | None = OPEN_CHUNKS,
        sharded: bool = False,
    ) -> None:
        LightningDataModule.__init__(self)  # as `super()` is not to be had beside `__class__`
        if not isinstance(data, LightningDataModule):
            if not hasattr(data, "__getitem__"):
                raise TypeError(f"`data` must be a DataModule or a data set with `__getitem__`, got {data!r}.")
            if batch_size is None:
                raise ValueError("`batch_size` is missing: give the number of instances per batch.")
        values = (batch_size, bins, batches_per_epoch, seed, num_workers, open_chunks, sharded)
        self._given = dict(zip(_ARGUMENTS, values, strict=True))
        self._wrapped = data

    # Lightning asks its DataModule for hooks, hyperparameters and settings, and sets some. All of these are handed on,
    # so that it sees which of them yours defines, whatever a future version asks for.

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """That of your DataModule, for `isinstance`, and because Lightning saves its state under this name."""
        return type(self._wrapped) if self._wraps_datamodule() else type(self)

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name.startswith("__") or _names(type(self), name):
            return own(self, name)
        wrapped, theirs = own(self, "_wrapped"), own(self, "_wraps_datamodule")()
        if name == "data":
            return getattr(wrapped, "data", wrapped) if theirs else wrapped
        if name in _ARGUMENTS:
            value = own(self, "_given")[name]
            left_to_yours = value is None and (name == "batch_size" or hasattr(wrapped, name))
            return getattr(wrapped, name) if left_to_yours else value
        return getattr(wrapped, name) if theirs else own(self, name)

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not found. While it is unpickled nothing is wrapped yet.
        if name.startswith("__") or self._wrapped is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        wrapped = self._wrapped
        if _names(type(self), name):
            object.__setattr__(self, name, value)
        elif name in _ARGUMENTS:
            self._given = {**self._given, name: value}
            if hasattr(wrapped, name):
                setattr(wrapped, name, value)
        elif self._wraps_datamodule() or (hasattr(wrapped, name) and not hasattr(LightningDataModule, name)):
            setattr(wrapped, name, value)
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            object.__delattr__(self, name)
        else:
            delattr(self._wrapped, name)

    def __reduce__(self) -> Any:
        return _unmade, (type(self),), self.__dict__  # the usual way would ask for `__class__`

    def _wraps_datamodule(self) -> bool:
        return isinstance(self._wrapped, LightningDataModule)

    def train_dataloader(self) -> AdaptiveDataLoader:
        """Your train loader, with our sampler."""
        batch_size, bins, length, _, num_workers, chunks, sharded = self._given.values()
        if not self._wraps_datamodule():
            seed, workers = self._next_seed(), num_workers or 0
            return AdaptiveDataLoader(
                self._wrapped,
                batch_size,
                bins,
                length,
                seed,
                open_chunks=chunks,
                sharded=sharded,
                num_workers=workers,
            )
        loader = self._wrapped.train_dataloader()
        if isinstance(loader, (AdaptiveDataLoader, AdaptiveIterableLoader)):
            raise MisconfigurationException(
                f"{type(self._wrapped).__name__} gives an {type(loader).__name__} already: use it as it is, without "
                "AdaptiveDataModule."
            )
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"`train_dataloader` of {type(self._wrapped).__name__} gave a {type(loader).__name__}: "
                "AdaptiveDataModule needs a single torch DataLoader."
            )
        seed = self._next_seed()
        return AdaptiveDataLoader.like(loader, batch_size, bins, length, seed, num_workers, chunks, sharded)

    def _next_seed(self) -> int:
        """Another one in each epoch, for loaders that are made anew; equal in all processes."""
        seed = self._first_seed
        if seed is None:
            seed = self._given["seed"]
            seed = torch.initial_seed() if seed is None else seed
            # Asked for once: later calls may come from one process alone.
            seed = self._first_seed = seed if self.trainer is None else int(self.trainer.strategy.broadcast(seed))
        return seed + (0 if self.trainer is None else self.trainer.current_epoch)


def _names(kind: type, name: str) -> bool:
    """Whether the wrapper's class, or one derived from it, has an attribute of that name itself."""
    classes = kind.__mro__
    return any(name in vars(each) for each in classes[: classes.index(LightningDataModule)])


def _unmade(kind: type[AdaptiveDataModule]) -> AdaptiveDataModule:
    return kind.__new__(kind)
