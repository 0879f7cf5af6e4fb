"""The data sets as whole tensors, read from a folder in the layout of ``shared/data`` and cached when parsed."""

from __future__ import annotations

import csv
import gzip
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_as.data.image_data import normalise
from lightning_as.data.mnist import load_mnist

FORMAT = 2
"""Goes up when what is parsed changes, so that older caches are not read."""
BUCKETS = 2**15
"""Words and pairs of words that the text tasks tell apart; 0 is no word."""
_TEST_SHARE = 0.95  # of covertype, which has no test set of its own; with more to train on it is too easy
_FASHION = [0.2860], [0.3530]  # mean and standard deviation of the training pixels in [0, 1]
_NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
_CATEGORIES = (
    "workclass",
    "education",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "native_country",
)


class Data(NamedTuple):
    """A training and a test set."""

    inputs: Tensor
    """Of the training instances, (N, …): float32, uint8 for colour images, int32 for hashed text."""
    labels: Tensor
    """Of the training instances, (N,) int64."""
    test_inputs: Tensor
    """(M, …), of the same type."""
    test_labels: Tensor
    """(M,) int64."""


def load(name: str, folder: Path, cache: Path) -> Data:
    """A data set.

    Args:
        name: A key of :data:`SETS`.
        folder: Where the data sets are, each in a folder of its name.
        cache: Where parsed ones are kept; made if it is not there.

    Raises:
        FileNotFoundError: If `folder` does not have it.
    """
    if name == "mnist":  # in the package, and quick to read
        return SETS[name](folder)
    file = cache / f"{name}-{FORMAT}.pt"
    if file.exists():
        return Data(**torch.load(file, weights_only=True))
    if not (folder / name).is_dir():
        raise FileNotFoundError(f"there is no {folder / name}: give the folder of the data sets as `--data`.")
    data = SETS[name](folder / name)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, prefix=name, delete=False) as stream:
        torch.save(data._asdict(), stream)
    os.replace(stream.name, file)  # other processes find the whole of it or nothing
    return data


def human_labels(name: str, folder: Path) -> Tensor:
    """Labels that people gave to the training images of CIFAR-10, (50000,) int64.

    Args:
        name: ``"aggre"``, ``"random1"`` or ``"worse"``.
        folder: Where the data sets are.
    """
    with np.load(folder / "cifar10n" / "cifar10n.npz") as arrays:
        return torch.from_numpy(arrays[f"{name}_label" if name != "random1" else "random_label1"]).long()


def hashed(texts: Sequence[str], length: int | None = None) -> Tensor:
    """Words and pairs of neighbours as numbers from 1 to :data:`BUCKETS` - 1, the same in every process.

    Args:
        texts: N texts, in which blanks separate words.
        length: Numbers that are kept of a text. Default: all of the longest.

    Returns:
        (N, length) int32, filled up with 0.
    """
    rows = []
    for text in texts:
        words = text.lower().split()
        tokens = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
        rows.append([zlib.crc32(token.encode()) % (BUCKETS - 1) + 1 for token in tokens])
    length = max(map(len, rows)) if length is None else length
    numbers = torch.zeros(len(rows), length, dtype=torch.int32)
    for at, row in enumerate(rows):
        numbers[at, : len(row)] = torch.tensor(row[:length], dtype=torch.int32)
    return numbers


def standardised(training: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Columns with the mean 0 and the standard deviation 1 of the training instances; constant ones become 0."""
    mean, deviation = training.mean(0), training.std(0)
    deviation[deviation == 0] = 1.0
    return (training - mean) / deviation, (test - mean) / deviation


def _mnist(folder: Path) -> Data:
    parts = [load_mnist(part) for part in ("train", "test")]
    return Data(*(tensor for part in parts for tensor in (part.images, part.labels)))  # pyright: ignore[reportArgumentType]


def _fashion_mnist(folder: Path) -> Data:
    tensors = []
    for part in ("train", "t10k"):
        pixels = torch.from_numpy(_idx(folder / f"{part}-images-idx3-ubyte.gz", 16)).view(-1, 1, 28, 28)
        labels = torch.from_numpy(_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)).long()
        tensors += [normalise(pixels, *_FASHION), labels]
    return Data(*tensors)


def _idx(file: Path, header: int) -> np.ndarray:
    with gzip.open(file) as content:
        return np.frombuffer(content.read(), np.uint8, offset=header).copy()


def _cifar10(folder: Path) -> Data:
    from PIL import Image  # late: no other data set needs it

    tensors = []
    with np.load(folder / "cifar10_jpeg.npz") as arrays:
        header = arrays["jpeg_header"].tobytes()  # which all images share
        for part in ("train", "test"):
            blob, offsets = arrays[f"{part}_blob"].tobytes(), arrays[f"{part}_offset"].tolist()
            images = [np.asarray(Image.open(io.BytesIO(header + blob[a:b]))) for a, b in pairwise(offsets)]
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            tensors += [pixels, torch.from_numpy(arrays[f"y_{part}"]).long()]
    return Data(*tensors)


def _text(folder: Path) -> Data:
    rows = {}
    for part in ("train", "test"):
        with (folder / f"{part}.tsv").open(newline="", encoding="utf-8") as stream:
            rows[part] = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    classes = sorted({row["label"] for row in rows["train"]})
    inputs = hashed([row["text"] for part in rows.values() for row in part]).split(
        [len(part) for part in rows.values()]
    )
    labels = [torch.tensor([classes.index(row["label"]) for row in part]) for part in rows.values()]
    return Data(inputs[0], labels[0], inputs[1], labels[1])


def _adult(folder: Path) -> Data:
    with gzip.open(folder / "adult.csv.gz", "rt", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    size = sum(row["split"] == "train" for row in rows)  # they come first
    numbers = torch.tensor([[float(row[name]) for name in _NUMBERS] for row in rows])
    one_hot = []  # a missing value is a category of its own
    for name in _CATEGORIES:
        found = sorted({row[name] for row in rows[:size]})
        one_hot.append(torch.tensor([[row[name] == each for each in found] for row in rows], dtype=torch.float32))
    labels = torch.tensor([int(row["income_gt_50k"]) for row in rows])
    training, test = standardised(numbers[:size], numbers[size:])
    inputs = torch.cat([torch.cat([training, test]), *one_hot], 1)
    return Data(inputs[:size], labels[:size], inputs[size:], labels[size:])


def _covertype(folder: Path) -> Data:
    with np.load(folder / "10_cover.npz") as arrays:
        numbers, labels = torch.from_numpy(arrays["X"]).float(), torch.from_numpy(arrays["y"]).long()
    generator = torch.Generator().manual_seed(0)  # the split is the same for all seeds
    parts: list[list[Tensor]] = [[], []]
    for label in (0, 1):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        test = round(_TEST_SHARE * len(members))
        parts[0].append(members[test:])
        parts[1].append(members[:test])
    training, test = (torch.cat(part).sort().values for part in parts)
    inputs, test_inputs = standardised(numbers[training], numbers[test])
    return Data(inputs, labels[training], test_inputs, labels[test])


SETS: dict[str, Callable[[Path], Data]] = {
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "trec6": _text,
    "sst2": _text,
    "adult": _adult,
    "covertype": _covertype,
}
