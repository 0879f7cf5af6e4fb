"""MNIST, whole or imbalanced, with clean or noisy labels, as a DataModule."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_as.core.arguments import check_share
from lightning_as.core.bins import Bins
from lightning_as.data.image_data import ImageDataModule, ImageDataset, Part, normalise

MEAN, STD = 0.1307, 0.3081  # of the training pixels in [0, 1]; thesis, section 4.3

_BUNDLED = Path(__file__).parent / "mnist_files"
_PARTS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_CLASSES = 10
_BYTES = 0x08  # the type in an IDX file
_MOST = 1_000_000  # images that a header is believed
# Of no sampler: with its seed, or one of the same low 32 bits, which are all that torch takes, the sampler's first
# epoch would be the very permutation that chooses the wrong labels, and begin with all of them.
_NOISE_SEED = 1_852_795_251


class MNISTDataModule(ImageDataModule):
    """MNIST with the 60,000 training images in bins and an :class:`AdaptiveBatchSampler` over them.

    Without an :class:`AdaptiveSamplingCallback` the training batches are ordinary shuffled epochs. Validation,
    test and prediction go through the official 10,000 test images in their order, whatever the sampler does.
    There is no separate validation set, as in the thesis: nothing may be chosen by ``val/…`` figures.

    Args:
        batch_size: Training images per batch and process. Default: 256.
        data_dir: Folder in torchvision's layout (``MNIST/raw/*-ubyte`` or ``.gz``), to which MNIST is downloaded if
            it is not there. Default: the copy in this package.
        num_workers: Loader processes. With any, a batch is drawn ``2 · num_workers`` batches before it is trained
            on, from the distribution at that time; the data is in memory, so none is fastest. Default: 0.
        bins: ``"label"``: a bin per digit; ``"single"``: one bin; or your own partition of the training images.
        batches_per_epoch: Length of an epoch. Default: the training images over the (global) batch size, floored.
        seed: Seed of the sampler. Default: what `seed_everything` or `torch.manual_seed` was last given.
        pin_memory: Whether loaders pin their batches, for faster copies to a GPU. Default: False.
        imbalance: Share of each digit's training images that is kept, in (0, 1]: ten shares, or digit -> share with 1
            for the others, as in ``{0: 0.01, 1: 0.01}``. At least one image is kept of each. The choice depends on
            nothing else, not on `seed` either, and a larger share has the images of a smaller one. The test set stays
            whole. Default: all are kept.
        label_noise: Share of the training images, of those that are kept, that get a wrong label, in [0, 1): any other
            digit, each as likely. Which ones and what they get depends on nothing else, not on `seed` either, and a
            larger share has the wrong labels of a smaller one. Bins by label are of the noisy labels. The test set
            stays clean. Default: 0.
        device: ``"auto"``: the images lie on the Trainer's GPU; see :class:`ImageDataModule`. Default: ``"cpu"``.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if `bins` are of another number of instances.
        FileNotFoundError: If MNIST is neither in `data_dir` nor to be downloaded.

    Example:
        The imbalanced MNIST of Schaul et al., "Prioritized Experience Replay" (2015):

        >>> data = MNISTDataModule(imbalance=[0.01] * 5 + [1.0] * 5)
    """

    num_classes = _CLASSES
    dims = (1, 28, 28)

    def __init__(
        self,
        batch_size: int = 256,
        data_dir: str | Path | None = None,
        num_workers: int = 0,
        bins: Literal["label", "single"] | Bins = "label",
        batches_per_epoch: int | None = None,
        seed: int | None = None,
        pin_memory: bool = False,
        imbalance: list[float] | dict[int, float] | None = None,
        label_noise: float = 0.0,
        device: Literal["cpu", "auto"] = "cpu",
    ) -> None:
        data_dir = None if data_dir is None else str(data_dir)  # a Path would keep checkpoints from loading
        imbalance = None if imbalance is None else _shares(imbalance)
        check_share("label_noise", label_noise)
        super().__init__(batch_size, num_workers, bins, batches_per_epoch, seed, pin_memory, device)
        self.data_dir = data_dir
        self.imbalance = imbalance
        self.label_noise = label_noise

    def prepare_data(self) -> None:
        """Download MNIST if a `data_dir` was given that does not have it."""
        if self.data_dir is not None and not all(_find(self.data_dir, part) for part in _PARTS):
            _download(self.data_dir)

    def load(self, part: Part) -> ImageDataset:
        """Read a part; of the training part keep the shares and spoil the labels that are asked for."""
        dataset = load_mnist(part, self.data_dir)
        if part == "test":
            return dataset
        if self.imbalance is not None:
            dataset = _thin(dataset, self.imbalance)
        return dataset if self.label_noise == 0 else _mislabel(dataset, self.label_noise)


def load_mnist(part: Part, data_dir: str | None = None) -> ImageDataset:
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
    images, labels = (_read_idx(file, shape) for file, shape in zip(found, ([None, 28, 28], [None]), strict=True))
    if len(labels) != len(images):
        raise ValueError(f"{found[1]} has {len(labels)} labels for {len(images)} images of {found[0]}: replace them.")
    if int(labels.max()) >= _CLASSES:
        raise ValueError(f"{found[1]} has the label {int(labels.max())}, but digits end with 9: replace it.")
    return ImageDataset(normalise(images.unsqueeze(1), [MEAN], [STD]), labels.long())


def _shares(imbalance: Sequence[float] | Mapping[int, float]) -> list[float]:
    """A share for each digit.

    Raises:
        ValueError: If one is missing, or not in (0, 1], or of no digit.
    """
    if isinstance(imbalance, Mapping):
        strange = [digit for digit in imbalance if digit not in range(_CLASSES)]
        if strange:
            raise ValueError(f"`imbalance` has a share for {strange[0]!r}: use digits, 0 … {_CLASSES - 1}, as keys.")
        imbalance = [imbalance.get(digit, 1.0) for digit in range(_CLASSES)]
    if not isinstance(imbalance, Sequence) or len(imbalance) != _CLASSES:
        raise ValueError(
            f"`imbalance` must have {_CLASSES} shares, one for each digit, got {imbalance!r}: give 1.0 for those that "
            "stay whole, or a dict of the others."
        )
    for digit, share in enumerate(imbalance):
        if not 0 < share <= 1:
            raise ValueError(
                f"`imbalance` is {share} for the digit {digit}, but a share must be in (0, 1]: use 1.0 to keep all its "
                "images, 0.01 for one in a hundred."
            )
    return [float(share) for share in imbalance]


def _thin(dataset: ImageDataset, shares: Sequence[float]) -> ImageDataset:
    """The data set with a share of each class's images, in their order."""
    assert dataset.labels is not None
    generator = torch.Generator().manual_seed(0)  # the data must be the same for all seeds of a comparison
    kept = []
    for label, share in enumerate(shares):
        members = (dataset.labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator, device="cpu")]
        kept.append(shuffled[: max(1, round(share * len(members)))])
    indices = torch.cat(kept).sort().values
    return ImageDataset(dataset.images[indices], dataset.labels[indices])


def _mislabel(dataset: ImageDataset, share: float) -> ImageDataset:
    """The data set with a share of its labels replaced by other ones."""
    assert dataset.labels is not None
    generator = torch.Generator().manual_seed(_NOISE_SEED)  # the data must be the same for all seeds of a comparison
    size = len(dataset)
    chosen = torch.randperm(size, generator=generator, device="cpu")[: round(share * size)]
    # Of all, so that a larger share has the same ones.
    shifts = torch.randint(1, _CLASSES, (size,), generator=generator, device="cpu")
    labels = dataset.labels.clone()
    labels[chosen] = (labels[chosen] + shifts[chosen]) % _CLASSES
    return ImageDataset(dataset.images, labels)


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


def _read_idx(file: Path, expected: Sequence[int | None]) -> Tensor:
    """An IDX file of bytes as a uint8 tensor: two zeros, the type, the number of dimensions, the dimensions.

    Args:
        file: The file, packed or not; no more of it is read than its header says, and a byte.
        expected: The shape, with None for any number.

    Raises:
        ValueError: If it is anything else.
    """
    header = 4 + 4 * len(expected)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            start = content.read(header)
            if len(start) < header or start[:4] != bytes([0, 0, _BYTES, len(expected)]):
                raise ValueError(
                    f"{file} is damaged: it begins with {start[:4].hex(' ')}, and not as an IDX file of bytes in "
                    f"{len(expected)} dimension(s). Replace it."
                )
            shape = [int.from_bytes(start[at : at + 4], "big") for at in range(4, header, 4)]
            fits = all(size == wanted for size, wanted in zip(shape, expected, strict=True) if wanted)
            if not fits or not 0 < shape[0] <= _MOST:
                raise ValueError(f"{file} is damaged: it says {shape}, and not {list(expected)}. Replace it.")
            values = bytearray(content.read(math.prod(shape) + 1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}): replace it.") from error
    if len(values) != math.prod(shape):
        has = f"{len(values)} bytes" if len(values) < math.prod(shape) else "more bytes"
        raise ValueError(f"{file} is damaged: it says {shape}, but has {has}. Replace it.")
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)


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
