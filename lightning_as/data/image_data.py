"""The base of the ready DataModules: labelled images as whole tensors in memory, and the stateful sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_as.core.arguments import check_integer
from lightning_as.core.bins import Bins
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.dataloader import AdaptiveDataLoader, as_it_is
from lightning_as.data.partition import make_bins

Part = Literal["train", "test"]

_BINS = ("label", "single")
_GPUS = ("cuda",)  # where `device="auto"` keeps the images
_EVALUATION_BATCH = 128  # on a CPU twice as fast as 1000, whose activations no cache holds


class ImageDataset(Dataset[Any]):
    """Images, and labels if there are any, as whole tensors: an index gives a sample, a list a batch in one gather.

    Instead of a list it takes a tensor as well, (B,) int64, from the device where the images are.

    Args:
        images: (N, C, H, W) float32, normalised.
        labels: (N,) int64, or None for images alone.
    """

    takes_tensors = True
    """For :class:`lightning_as.data.dataloader.Batches`."""

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | list[int] | Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(index, int):
            return self.images[index] if self.labels is None else (self.images[index], self.labels[index])
        indices = index if isinstance(index, Tensor) else _tensor(index).to(self.images.device)
        images = self.images.index_select(0, indices)
        return images if self.labels is None else (images, self.labels.index_select(0, indices))

    def __getitems__(self, indices: list[int] | Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What a DataLoader with a batch size calls; the batch is whole already, so it is collated by nothing."""
        return self[indices]

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same on another device."""
        return ImageDataset(self.images.to(device), None if self.labels is None else self.labels.to(device))


class ImageDataModule(LightningDataModule, ABC):
    """A training set in bins with an :class:`AdaptiveBatchSampler` over it, and a test set.

    Without an :class:`AdaptiveSamplingCallback` the training batches are ordinary shuffled epochs. Validation, test
    and prediction go through the test images in their order, whatever the sampler does. There is no separate
    validation set: nothing may be chosen by ``val/…`` figures.

    A subclass says how to :meth:`load` a part, how to download it in `prepare_data`, and what `num_classes` and `dims`
    are.

    Args:
        batch_size: Training images per batch and process. Default: 256.
        num_workers: Loader processes. With any, a batch is drawn ``2 · num_workers`` batches before it is trained
            on, from the distribution at that time; the data is in memory, so none is fastest. Default: 0.
        bins: ``"label"``: a bin per class; ``"single"``: one bin; or your own partition of the training images.
        batches_per_epoch: Length of an epoch. Default: the training images over the (global) batch size, floored.
        seed: Seed of the sampler. Default: what `seed_everything` or `torch.manual_seed` was last given.
        pin_memory: Whether loaders pin their batches, for faster copies to a GPU. Default: False.
        device: ``"auto"``: all images lie on the GPU that the Trainer uses, if it uses one; what is known of them stays
            on the CPU, where a draw takes least. Not with `num_workers` or `pin_memory`. ``"cpu"``: in the memory of
            the machine. Default: ``"cpu"``.

    Raises:
        TypeError: If a number of images, batches or processes is not an integer.
        ValueError: If an argument is out of range; in `setup`, if `bins` are of another number of instances.
        MisconfigurationException: In `setup`, if the Trainer has `overfit_batches`, which would replace the sampler.

    Example:
        >>> class Squares(ImageDataModule):
        ...     num_classes, dims = 2, (1, 8, 8)
        ...
        ...     def load(self, part):
        ...         return ImageDataset(torch.rand(100, 1, 8, 8), torch.arange(100) % 2)
        >>> data = Squares(batch_size=10, seed=0)
        >>> data.setup("fit")
        >>> len(data.train_dataloader())
        10
    """

    num_classes: int
    """Number of classes."""
    dims: tuple[int, int, int]
    """Channels, height and width of an image."""

    def __init__(
        self,
        batch_size: int = 256,
        num_workers: int = 0,
        bins: Literal["label", "single"] | Bins = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        pin_memory: bool = False,
        device: Literal["cpu", "auto"] = "cpu",
    ) -> None:
        super().__init__()
        check_integer("batch_size", batch_size)
        check_integer("num_workers", num_workers, least=0)
        if batches_per_epoch is not None:
            check_integer("batches_per_epoch", batches_per_epoch)
        if not isinstance(bins, Bins) and bins not in _BINS:
            raise ValueError(f"`bins` must be 'label', 'single' or a `Bins`, got {bins!r}.")
        if device not in ("cpu", "auto"):
            raise ValueError(f"`device` must be 'cpu' or 'auto', got {device!r}: 'auto' is the Trainer's.")
        if device == "auto" and (num_workers > 0 or pin_memory):
            raise ValueError(
                "`device='auto'` keeps the images on the GPU, where loader processes and pinned memory are of no use: "
                f"leave out `num_workers={num_workers}` and `pin_memory={pin_memory}`."
            )
        # With the arguments of the subclass, as they are in its frame.
        self.save_hyperparameters(ignore=["bins"] if isinstance(bins, Bins) else None)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.bins = bins
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.pin_memory = pin_memory
        self.device: Literal["cpu", "auto"] = device
        self.sampler: AdaptiveBatchSampler | None = None
        """The sampler, from the first ``setup("fit")`` on."""
        self._datasets: dict[Part, ImageDataset] = {}

    @abstractmethod
    def load(self, part: Part) -> ImageDataset:
        """Read a part from where `prepare_data` left it."""

    def dataset(self, part: Part) -> ImageDataset:
        """The training or the test set, loaded at the first call."""
        if part not in self._datasets:
            self._datasets[part] = self.load(part)
        device = self._device()
        if self._datasets[part].images.device != device:
            self._datasets[part] = self._datasets[part].to(device)
        return self._datasets[part]

    def setup(self, stage: str) -> None:
        """For ``"fit"``, make the sampler, once; the data is loaded when it is asked for."""
        if stage != "fit":
            return
        overfit_batches = getattr(self.trainer, "overfit_batches", 0)
        if overfit_batches > 0:
            raise MisconfigurationException(
                f"`overfit_batches={overfit_batches}` replaces the sampler, which yields whole batches: "
                "leave it out, and use `batches_per_epoch` for short epochs."
            )
        if self.sampler is None:
            self.sampler = self._make_sampler()
        else:
            self.sampler.detach()  # this fit may be without a callback; if not, it attaches its strategy after this

    def train_dataloader(self) -> AdaptiveDataLoader:
        """Batches that the sampler draws."""
        if self.sampler is None:
            raise RuntimeError("There is no sampler yet: call `setup('fit')` before `train_dataloader()`.")
        self.sampler.batch_size = self.batch_size  # a batch-size finder may have changed it
        return AdaptiveDataLoader(
            self.dataset("train"),
            sampler=self.sampler,
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )

    def train_evaluation_dataloader(self) -> DataLoader[Any]:
        """The training images in their order, each once: for the training cost."""
        return self._in_order(self.dataset("train"))

    def val_dataloader(self) -> DataLoader[Any]:
        """The test images: see the class's note on what they must not be used for."""
        return self._in_order(self.dataset("test"))

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images."""
        return self._in_order(self.dataset("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, without their labels."""
        return self._in_order(ImageDataset(self.dataset("test").images, None))

    def _in_order(self, dataset: ImageDataset) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=_EVALUATION_BATCH,
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )

    def _make_sampler(self) -> AdaptiveBatchSampler:
        bins = make_bins(self.dataset("train"), self.bins)
        seed = torch.initial_seed() if self.seed is None else self.seed
        if self.trainer is not None:
            seed = self.trainer.strategy.broadcast(seed)  # all processes must draw the same
        return AdaptiveBatchSampler(bins, self.batch_size, self.batches_per_epoch, seed)

    def _device(self) -> torch.device:
        """Where the images lie."""
        if self.device == "cpu" or self.trainer is None:
            return torch.device("cpu")
        root = self.trainer.strategy.root_device
        return root if root.type in _GPUS else torch.device("cpu")


def _tensor(indices: list[int]) -> Tensor:
    return torch.frombuffer(array("q", indices), dtype=torch.int64)  # several times faster than `torch.tensor`


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes as numbers of about zero mean and unit variance.

    Args:
        pixels: (N, C, H, W) uint8.
        mean: Mean of each channel's training pixels in [0, 1], C numbers.
        std: Their standard deviations, C numbers.

    Returns:
        (N, C, H, W) float32, contiguous.
    """
    scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    means, deviations = (torch.tensor(part, dtype=torch.float32, device="cpu").view(-1, 1, 1) for part in (mean, std))
    return scaled.sub_(means).div_(deviations)
