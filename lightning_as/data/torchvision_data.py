"""Fashion-MNIST, CIFAR-10 and CIFAR-100, as torchvision downloads and reads them, as DataModules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_as.core.bins import Bins
from lightning_as.data.augmentation import flip_and_crop
from lightning_as.data.image_data import ImageDataModule, ImageDataset, Part, normalise


class TorchvisionDataModule(ImageDataModule):
    """A data set of torchvision's with the training images in bins and an :class:`AdaptiveBatchSampler` over them.

    All images of a part are read once into one float32 tensor (of CIFAR: 0.6 GB to train, 0.1 GB to test), normalised
    by the mean and the standard deviation of each channel's training pixels.

    Without an :class:`AdaptiveSamplingCallback` the training batches are ordinary shuffled epochs. Validation, test
    and prediction go through the official 10,000 test images in their order, whatever the sampler does. There is no
    separate validation set: nothing may be chosen by ``val/…`` figures.

    Args:
        data_dir: Folder in torchvision's layout, to which the data set is downloaded if it is not there. Default:
            ``"data"``, in the working directory.
        batch_size: Training images per batch and process. Default: 256.
        num_workers: Loader processes. With any, a batch is drawn ``2 · num_workers`` batches before it is trained
            on, from the distribution at that time; the data is in memory, so none is fastest. Default: 0.
        bins: ``"label"``: a bin per class; ``"single"``: one bin; or your own partition of the training images.
        batches_per_epoch: Length of an epoch. Default: the training images over the (global) batch size, floored.
        seed: Seed of the sampler. Default: what `seed_everything` or `torch.manual_seed` was last given.
        pin_memory: Whether loaders pin their batches, for faster copies to a GPU. Default: False.
        device: ``"auto"``: the images lie on the Trainer's GPU; see :class:`ImageDataModule`. Default: ``"cpu"``.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if `bins` are of another number of instances.
        FileNotFoundError: If the data set is neither in `data_dir` nor to be downloaded.
    """

    _name: str  # in torchvision.datasets
    _files: str  # that make a download needless, …
    _folder: str  # … in this folder of `data_dir`
    _mean: tuple[float, ...]  # of each channel's training pixels in [0, 1]
    _std: tuple[float, ...]

    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 256,
        num_workers: int = 0,
        bins: Literal["label", "single"] | Bins = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        pin_memory: bool = False,
        device: Literal["cpu", "auto"] = "cpu",
    ) -> None:
        data_dir = str(data_dir)  # a Path would keep checkpoints from loading
        super().__init__(batch_size, num_workers, bins, batches_per_epoch, seed, pin_memory, device)
        self.data_dir = data_dir

    def prepare_data(self) -> None:
        """Download the data set if it is not in `data_dir`."""
        self._read("test", download=True)  # which downloads both parts

    def load(self, part: Part) -> ImageDataset:
        """Read a part from `data_dir`, normalised."""
        read = self._read(part, download=False)
        return self.normalised(read.data, read.targets)

    def normalised(self, pixels: Any, labels: Any) -> ImageDataset:
        """What :meth:`load` gives, of what a subclass has read from elsewhere.

        Args:
            pixels: (N, H, W) of grey images, (N, H, W, C) of others, bytes, as an array or tensor.
            labels: (N,) class indices, as a list, an array or a tensor.

        Raises:
            ValueError: If the pixels are no bytes, or not of images like those of the data set.
        """
        pixels = torch.as_tensor(pixels, device="cpu")
        channels, height, width = self.dims
        expected = (height, width) if channels == 1 else (height, width, channels)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != expected:
            raise ValueError(
                f"`pixels` must be uint8 of the shape (N, {', '.join(map(str, expected))}), got {pixels.dtype} of "
                f"{tuple(pixels.shape)}: give what was read as it is, before it is scaled."
            )
        pixels = pixels.unsqueeze(1) if channels == 1 else pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(labels, dtype=torch.int64, device="cpu")
        return ImageDataset(normalise(pixels, self._mean, self._std), labels)

    def _read(self, part: Part, download: bool) -> Any:
        from torchvision import datasets  # late: a torchvision that does not fit torch must not break the package

        try:
            return getattr(datasets, self._name)(self.data_dir, train=part == "train", download=download)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{self._name} could not be {'downloaded' if download else 'read'} ({error}). Put {self._files} into "
                f"{Path(self.data_dir) / self._folder}: `prepare_data` takes it from there."
            ) from error


class FashionMNISTDataModule(TorchvisionDataModule):
    """Fashion-MNIST: 60,000 training images (28 × 28, grey) of 10 kinds of clothes.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017). Pixels in [0, 1], less 0.2860, over 0.3530. Arguments,
    defaults and errors are those of :class:`TorchvisionDataModule`.
    """

    num_classes = 10
    dims = (1, 28, 28)
    _name = "FashionMNIST"
    _files = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
    _folder = "FashionMNIST/raw"
    _mean = (0.2860,)
    _std = (0.3530,)


class CIFARDataModule(TorchvisionDataModule):
    """CIFAR-10 or CIFAR-100, augmented as in He et al. (2016).

    Each training image is turned left to right or not, and shifted by up to 4 pixels into a frame of the mean colour,
    anew in every batch; see :func:`lightning_as.data.augmentation.flip_and_crop`. Left as they are: the images of
    validation, test, prediction and :meth:`train_evaluation_dataloader`, and those that a strategy has scored by a
    forward pass of its own, in evaluation mode. It is done in the hook `on_after_batch_transfer`; a module's own is
    called after it, although Lightning warns that it will not be.

    What is drawn depends on the seed, on how many batches were trained on and on the process, and on nothing else:
    a resumed fit that is given the same seed goes on exactly.

    Args:
        data_dir: See :class:`TorchvisionDataModule`, as for all but the last. Default: ``"data"``.
        batch_size: Default: 256.
        num_workers: Default: 0.
        bins: Default: ``"label"``.
        batches_per_epoch: Default: the training images over the (global) batch size, floored.
        seed: Of the sampler and the augmentation. Default: what `seed_everything` or `torch.manual_seed` was last
            given.
        pin_memory: Default: False.
        device: Default: ``"cpu"``.
        augment: Whether training images are augmented. Default: True.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if `bins` are of another number of instances.
        FileNotFoundError: If the data set is neither in `data_dir` nor to be downloaded.

    Example:
        Images from elsewhere, or other labels:

        >>> class MyCIFAR10(CIFAR10DataModule):
        ...     def prepare_data(self):
        ...         pass
        ...
        ...     def load(self, part):
        ...         arrays = numpy.load("cifar10.npz")
        ...         return self.normalised(arrays[f"x_{part}"], arrays[f"y_{part}"])
    """

    dims = (3, 32, 32)
    _folder = ""

    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 256,
        num_workers: int = 0,
        bins: Literal["label", "single"] | Bins = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        pin_memory: bool = False,
        device: Literal["cpu", "auto"] = "cpu",
        augment: bool = True,
    ) -> None:
        data_dir = str(data_dir)  # a Path would keep checkpoints from loading
        super().__init__(data_dir, batch_size, num_workers, bins, batches_per_epoch, seed, pin_memory, device)
        self.augment = augment
        self._augmentation_seed = 0

    def setup(self, stage: str) -> None:
        """For ``"fit"``, make the sampler, once, and note the seed."""
        super().setup(stage)
        if stage == "fit":
            self._augmentation_seed = torch.initial_seed() if self.seed is None else self.seed

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a batch that is trained on, and then have the module's own hook, beside which this one goes first."""
        trainer = self.trainer
        if trainer is None:
            return batch
        module = trainer.lightning_module
        # Where the plugin scores instances in the middle of the training, the module alone tells.
        if self.augment and trainer.training and module.training:
            images, labels = batch
            trained = trainer.fit_loop.epoch_loop.batch_progress.total.completed
            entropy = (self._augmentation_seed % 2**64, trained, trainer.global_rank)
            seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
            batch = (flip_and_crop(images, torch.Generator().manual_seed(seed)), labels)
        return module.on_after_batch_transfer(batch, dataloader_idx)


class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10: 50,000 training images (32 × 32, RGB) of 10 kinds of things.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). Pixels in [0, 1], less
    (0.4914, 0.4822, 0.4465), over (0.2470, 0.2435, 0.2616). Arguments, defaults and errors are those of
    :class:`CIFARDataModule`.
    """

    num_classes = 10
    _name = "CIFAR10"
    _files = "cifar-10-python.tar.gz, or the folder that is in it,"
    _mean = (0.4914, 0.4822, 0.4465)
    _std = (0.2470, 0.2435, 0.2616)


class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100: 50,000 training images (32 × 32, RGB) of 100 kinds of things, the fine labels.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). Pixels in [0, 1], less
    (0.5071, 0.4865, 0.4409), over (0.2673, 0.2564, 0.2762). Arguments, defaults and errors are those of
    :class:`CIFARDataModule`.
    """

    num_classes = 100
    _name = "CIFAR100"
    _files = "cifar-100-python.tar.gz, or the folder that is in it,"
    _mean = (0.5071, 0.4865, 0.4409)
    _std = (0.2673, 0.2564, 0.2762)
