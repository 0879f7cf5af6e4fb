"""MNIST as a DataModule that owns the binned data and the stateful sampler."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_as.batch_sampler import AdaptiveBatchSampler
from lightning_as.bins import Bins

MEAN, STD = 0.1307, 0.3081  # of the training pixels in [0, 1]; thesis, section 4.3

_BUNDLED = Path(__file__).parent / "data" / "mnist"
_PARTS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_EVALUATION_BATCH = 1000


class ImageDataset(Dataset[Any]):
    """Images, and labels if there are any, as whole tensors: an index gives a sample, a list a batch in one gather.

    Args:
        images: (N, 1, 28, 28) float32, normalised.
        labels: (N,) int64, or None for images alone.
    """

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | list[int]) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(index, int):
            return self.images[index] if self.labels is None else (self.images[index], self.labels[index])
        indices = torch.tensor(index)
        images = self.images.index_select(0, indices)
        return images if self.labels is None else (images, self.labels.index_select(0, indices))

    def __getitems__(self, indices: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        """What a DataLoader with a batch size calls; the batch is whole already, so it is collated by nothing."""
        return self[indices]


class MNISTDataModule(LightningDataModule):
    """MNIST with the 60,000 training images in bins and an :class:`AdaptiveBatchSampler` over them.

    Without an :class:`AdaptiveSamplingCallback` the training batches are ordinary shuffled epochs. Validation,
    test and prediction go through the official 10,000 test images in their order, whatever the sampler does.
    There is no separate validation set, as in the thesis: nothing may be chosen by ``val/…`` figures.

    Args:
        batch_size: Training images per batch and process. Default: 256.
        data_dir: Folder in torchvision's layout (``MNIST/raw/*-ubyte`` or ``.gz``), to which MNIST is downloaded if
            it is not there. Default: the copy in this package.
        num_workers: Loader processes. With any, a batch is drawn ``2 · num_workers`` batches before it is trained
            on, from the law of then; the data is in memory, so none is fastest. Default: 0.
        bins: ``"label"``: a bin per digit; ``"single"``: one bin; or your own partition of the 60,000.
        batches_per_epoch: Length of an epoch. Default: 60,000 over the batch size, floored.
        seed: Seed of the sampler. Default: what `seed_everything` or `torch.manual_seed` was last given.
        pin_memory: Whether loaders pin their batches, for faster copies to a GPU. Default: False.

    Raises:
        ValueError: If an argument is out of range, or `bins` are of another number of instances.
        FileNotFoundError: If MNIST is neither in `data_dir` nor to be downloaded.
    """

    def __init__(
        self,
        batch_size: int = 256,
        data_dir: str | Path | None = None,
        num_workers: int = 0,
        bins: Literal["label", "single"] | Bins = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if num_workers < 0:
            raise ValueError(f"`num_workers` must not be negative, got {num_workers}.")
        if not isinstance(bins, Bins) and bins not in ("label", "single"):
            raise ValueError(f"`bins` must be 'label', 'single' or a `Bins`, got {bins!r}.")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"`batches_per_epoch` must be at least 1, got {batches_per_epoch}.")
        data_dir = None if data_dir is None else str(data_dir)  # a Path would keep checkpoints from loading
        self.save_hyperparameters(ignore=["bins"] if isinstance(bins, Bins) else None)
        self.batch_size = batch_size
        self.data_dir = data_dir
        self.num_workers = num_workers
        self.bins = bins
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.pin_memory = pin_memory
        self.sampler: AdaptiveBatchSampler | None = None
        """The sampler, from the first ``setup("fit")`` on."""
        self._datasets: dict[str, ImageDataset] = {}

    def prepare_data(self) -> None:
        """Download MNIST if a `data_dir` was given that does not have it."""
        if self.data_dir is not None and not all(_find(self.data_dir, part) for part in _PARTS):
            _download(self.data_dir)

    def setup(self, stage: str) -> None:
        """Load what the stage needs, once; for ``"fit"``, make the sampler, once."""
        if stage == "fit":
            overfit_batches = getattr(self.trainer, "overfit_batches", 0)
            if overfit_batches > 0:
                raise MisconfigurationException(
                    f"`overfit_batches={overfit_batches}` replaces the sampler, which yields whole batches: "
                    "leave it out, and use `batches_per_epoch` for short epochs."
                )
            self._setup_sampler()

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches that the sampler draws."""
        if self.sampler is None:
            raise RuntimeError("There is no sampler yet: call `setup('fit')` before `train_dataloader()`.")
        self.sampler.batch_size = self.batch_size  # a batch-size finder may have changed it
        return self._loader(self.dataset("train"), sampler=self.sampler, batch_size=None)

    def train_evaluation_dataloader(self) -> DataLoader[Any]:
        """The training images in their order, each once: for the training cost."""
        return self._loader(self.dataset("train"), batch_size=_EVALUATION_BATCH)

    def val_dataloader(self) -> DataLoader[Any]:
        """The official test images: see the class's note on what they must not be used for."""
        return self._loader(self.dataset("test"), batch_size=_EVALUATION_BATCH)

    def test_dataloader(self) -> DataLoader[Any]:
        """The official test images."""
        return self._loader(self.dataset("test"), batch_size=_EVALUATION_BATCH)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The official test images, without their labels."""
        return self._loader(ImageDataset(self.dataset("test").images, None), batch_size=_EVALUATION_BATCH)

    def dataset(self, part: Literal["train", "test"]) -> ImageDataset:
        """The training or the test set, loaded at the first call."""
        if part not in self._datasets:
            self._datasets[part] = load_mnist(part, self.data_dir)
        return self._datasets[part]

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, for the checkpoint."""
        return {} if self.sampler is None else {"sampler": self.sampler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a sampler's state when a fit is resumed; evaluation leaves the sampler alone."""
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.sampler is not None and "sampler" in state_dict:
            self.sampler.load_state_dict(state_dict["sampler"])

    def _setup_sampler(self) -> None:
        if self.sampler is not None:
            self.sampler.detach()  # a callback of this fit attaches its strategy in its own setup, after this
            return
        size = len(self.dataset("train"))
        labels = self.dataset("train").labels
        assert labels is not None
        if isinstance(self.bins, Bins):
            bins = self.bins
        else:
            bins = Bins.from_labels(labels) if self.bins == "label" else Bins.single(size)
        if len(bins) != size:
            raise ValueError(f"`bins` are of {len(bins)} instances, but the training set has {size}.")
        seed = torch.initial_seed() if self.seed is None else self.seed
        replicas, rank = 1, 0
        if self.trainer is not None:
            seed = self.trainer.strategy.broadcast(seed)
            replicas, rank = self.trainer.world_size, self.trainer.global_rank
        self.sampler = AdaptiveBatchSampler(bins, self.batch_size, self.batches_per_epoch, seed, replicas, rank)

    def _loader(
        self,
        dataset: ImageDataset,
        batch_size: int | None,
        sampler: AdaptiveBatchSampler | None = None,
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )


def load_mnist(part: Literal["train", "test"], data_dir: str | None = None) -> ImageDataset:
    """One part of MNIST, normalised as in the thesis (section 4.3), as one tensor.

    Args:
        part: ``"train"`` or ``"test"``.
        data_dir: Folder in torchvision's layout. Default: the copy in this package.

    Raises:
        FileNotFoundError: If `data_dir` does not have it.
    """
    found = _find(data_dir, part)
    if found is None:
        raise FileNotFoundError(_missing(data_dir))
    images, labels = (_read_idx(file) for file in found)
    return ImageDataset(images.to(torch.float32).div_(255).sub_(MEAN).div_(STD).unsqueeze(1), labels.long())


def _find(data_dir: str | None, part: str) -> list[Path] | None:
    """The files with a part's images and labels, packed or not, or None if one is missing."""
    folder = _BUNDLED if data_dir is None else Path(data_dir) / "MNIST" / "raw"
    found = []
    for kind in _KINDS:
        name = f"{_PARTS[part]}-{kind}"
        file = next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
        if file is None:
            return None
        found.append(file)
    return found


def _read_idx(file: Path) -> Tensor:
    """An IDX file of bytes as a uint8 tensor: two zeros, the type, the number of dimensions, the dimensions."""
    try:
        content = bytearray(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
        header = 4 + 4 * content[3]
    except (gzip.BadGzipFile, EOFError, IndexError) as error:
        raise ValueError(f"{file} is damaged ({error}): replace it.") from error
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{file} is damaged: it says {shape}, but has {len(content) - header} bytes. Replace it.")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).view(shape)


def _download(data_dir: str) -> None:
    from torchvision.datasets import MNIST  # late: the bundled copy needs no torchvision

    try:
        MNIST(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"MNIST could not be downloaded ({error}). {_missing(data_dir)}") from error


def _missing(data_dir: str | None) -> str:
    names = ", ".join(f"{name}-{kind}" for name in _PARTS.values() for kind in _KINDS)
    return (
        f"Put {names} (each as it is or with .gz) into {Path(data_dir or '.') / 'MNIST' / 'raw'}, "
        "or leave out `data_dir` to use the copy in the package."
    )


def _as_it_is(batch: Any) -> Any:
    return batch
