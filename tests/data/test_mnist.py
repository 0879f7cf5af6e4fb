import gzip
import hashlib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from jsonargparse import ArgumentParser
from scipy.stats import chisquare
from torch import Tensor

import lightning_as.data.mnist
from lightning_as import MNISTDataModule
from lightning_as.data.mnist import load_mnist
from tests.helpers.idx import write_mnist

BUNDLED = Path(lightning_as.data.mnist.__file__).parent / "mnist_files"
PUT = "Put train-images-idx3-ubyte, .* into .*MNIST.raw"
HALF = [0.1] * 5 + [1.0] * 5


def test_the_bundled_files_are_mnist_whole_and_normalised():
    files = sorted(BUNDLED.glob("*.gz"))
    assert len(files) == 4
    for file in files:
        digest = hashlib.md5(gzip.decompress(file.read_bytes())).hexdigest()
        assert f"| {file.stem} | {digest} |" in (BUNDLED / "README.md").read_text()
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 12e6
    train, test = load_mnist("train"), load_mnist("test")
    assert (train.images.shape, test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    found = [float(number) for number in (train.images.mean(), train.images.std(), train.images.min())]
    assert found == pytest.approx([0, 1, -0.1307 / 0.3081], abs=1e-3)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """MNIST in torchvision's layout, of 30 and 20 images: pixel 0 of image i is 784 i mod 251, its label i mod 10."""
    folder = tmp_path / "MNIST" / "raw"
    for name, size in (("train", 30), ("t10k", 20)):
        write_mnist(folder, name, torch.arange(size * 784).view(size, 28, 28) % 251, torch.arange(size) % 10)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_in_torchvisions_layout(raw: Path, tmp_path: Path, packed: bool):
    for file in list(raw.iterdir()) if packed else []:
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    data = MNISTDataModule(batch_size=10, data_dir=tmp_path, seed=0)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert (len(data.train_dataloader()), images.shape) == (3, (10, 1, 28, 28))
    first = ((images[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().int().tolist()
    index = (torch.arange(30) * 784 % 251).tolist()
    assert [index.index(value) % 10 for value in first] == labels.tolist()
    assert data.hparams["data_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("", lambda content: content[:-5], r"is damaged: it says \[30, 28, 28\], but has 23515 bytes. Replace it"),
        ("", lambda content: b"\0", r"is damaged: it begins with 00, and not as an IDX file of bytes in 3 dimension"),
        ("", lambda content: content.replace(b"\x08", b"\x0d", 1), r"is damaged: it begins with 00 00 0d 03, and not"),
        (
            "",
            lambda content: content.replace(b"\x1c", b"\x1d", 1),
            r".*it says \[30, 29, 28\], and not \[None, 28, 28",
        ),
        ("", lambda content: content[:4] + b"\x7f" + content[5:], r".*it says \[213.*, 28, 28\], and not"),
        (".gz", lambda content: gzip.compress(content + bytes(10**7)), r".*says \[30, 28, 28\], but has more bytes"),
        (".gz", lambda content: gzip.compress(content)[:-20], r"is damaged \(.*\): replace it"),
        (".gz", lambda content: gzip.compress(content)[:10] + b"\xff" * 99, r"is damaged \(.*block type.*\): repl"),
    ],
)
def test_damaged_and_missing_files(raw: Path, tmp_path: Path, suffix: str, damage: Any, message: str, monkeypatch: Any):
    file = raw / "train-images-idx3-ubyte"
    file.with_name(f"{file.name}{suffix}").write_bytes(damage(file.read_bytes()))
    if suffix:
        file.unlink()
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte{suffix} {message}"):
        load_mnist("train", str(tmp_path))
    (raw / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=PUT):
        MNISTDataModule(data_dir=tmp_path).setup("fit")
    monkeypatch.setattr("torchvision.datasets.MNIST", Mock(side_effect=OSError("no network")))
    with pytest.raises(FileNotFoundError, match=f"no network.*{PUT}"):
        MNISTDataModule(data_dir=tmp_path).prepare_data()


def test_labels_that_are_too_few_or_no_digits(raw: Path, tmp_path: Path):
    for labels, message in (
        (torch.zeros(27), r"has 27 labels for 30 images of .*: replace them"),
        (torch.full((30,), 10), "has the label 10, but digits end with 9"),
    ):
        write_mnist(raw, "train", torch.zeros(30, 28, 28), labels)
        with pytest.raises(ValueError, match=f"train-labels-idx1-ubyte {message}"):
            load_mnist("train", str(tmp_path))


def images_of(data: MNISTDataModule, digit: int) -> list[bytes]:
    train = data.dataset("train")
    return [image.numpy().tobytes() for image in train.images[train.labels == digit]]


def test_an_imbalanced_training_set_keeps_nested_shares_in_order_whatever_the_seed(make_data: Any, mnist: dict):
    whole, shares = mnist["train"].labels.bincount().tolist(), [1e-9] * 5 + [0.5] * 4 + [1.0]
    data, more, every = make_data(imbalance=shares), make_data(imbalance={3: 0.2, 7: 0.5}, seed=1), make_data()
    data.setup("fit")
    kept = [max(1, round(share * count)) for share, count in zip(shares, whole, strict=True)]
    assert data.sampler.bins.sizes == kept == data.dataset("train").labels.bincount().tolist()
    for digit in range(10):
        images = images_of(every, digit)
        places = [images.index(image) for image in images_of(data, digit)]
        assert places == sorted(set(places))
    assert set(images_of(data, 3)) < set(images_of(more, 3))  # a larger share has the images of a smaller one
    assert images_of(data, 7) == images_of(more, 7)  # which do not depend on the seed or the other digits' shares
    assert images_of(more, 0) == images_of(every, 0)
    assert data.dataset("test") is mnist["test"]
    assert data.hparams["imbalance"] == shares


def test_noisy_labels_are_any_others_of_a_nested_share_whatever_the_seed(make_data: Any, mnist: dict):
    clean: Tensor = mnist["train"].labels
    few, many = (make_data(label_noise=share, seed=seed).dataset("train") for seed, share in enumerate((0.1, 0.99)))
    wrong = few.labels != clean
    assert int(wrong.sum()) == 200
    assert torch.equal(few.labels[wrong], many.labels[wrong])
    counts = ((many.labels - clean) % 10).bincount(minlength=10)
    assert counts[0] == 20
    assert chisquare(counts[1:]).pvalue > 1e-3
    assert torch.equal(many.images, mnist["train"].images)
    assert make_data().dataset("train") is mnist["train"]
    data = make_data(imbalance=HALF, label_noise=0.1)  # of the images that are kept, and so are the bins
    thin, noisy = make_data(imbalance=HALF).dataset("train"), data.dataset("train")
    assert torch.equal(noisy.images, thin.images)
    assert int((noisy.labels != thin.labels).sum()) == round(0.1 * len(thin))
    assert data.dataset("test") is mnist["test"]
    data.setup("fit")
    assert data.sampler.bins.sizes == noisy.labels.bincount().tolist()


@pytest.mark.parametrize("seed", range(10))
def test_an_epoch_has_noisy_labels_from_its_beginning_to_its_end(make_data: Any, mnist: dict, seed: int):
    """As it would not if the sampler's seed were that of the noise: the first batches would have all of them."""
    data = make_data(label_noise=0.4, seed=seed)
    data.setup("fit")
    wrong = data.dataset("train").labels != mnist["train"].labels
    for tenth in torch.tensor(list(data.sampler)).flatten().chunk(10):
        assert abs(int(wrong[tenth].sum()) - 80) < 33  # of 200: five standard deviations


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("imbalance", [0.1] * 9, r"`imbalance` must have 10 shares, one for each digit, got \[.*\]: give 1.0 for"),
        ("imbalance", [0.0] + [1.0] * 9, r"is 0.0 for the digit 0, but a share must be in \(0, 1\]: use 1.0"),
        ("imbalance", {4: float("nan")}, "`imbalance` is nan for the digit 4"),
        ("imbalance", {4: 1.5}, "`imbalance` is 1.5 for the digit 4"),
        ("imbalance", {10: 0.5}, "`imbalance` has a share for 10: use digits, 0 … 9, as keys"),
        ("imbalance", {"1": 0.5}, "`imbalance` has a share for '1': use digits"),
        *[("label_noise", x, rf"`label_noise` must be in \[0, 1\), got {x}") for x in (-0.1, 1.0, float("nan"))],
    ],
)
def test_bad_arguments(name: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(**{name: value})


@pytest.mark.parametrize("shares", [HALF, dict.fromkeys(range(5), 0.1)], ids=["list", "dict"])
def test_imbalance_from_yaml_and_the_command_line(shares: Any):
    parser = ArgumentParser()
    parser.add_class_arguments(MNISTDataModule, "data")
    assert parser.parse_args([f"--data.imbalance={shares}"]).data.imbalance == shares
    assert parser.parse_string(f"data: {{imbalance: {shares}}}").data.imbalance == shares
