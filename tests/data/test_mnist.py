import gzip
import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_as import ConvNetClassifier, MNISTDataModule
from lightning_as.data.mnist import load_mnist

MakeData = Callable[..., MNISTDataModule]
BUNDLED = Path(__file__).parent.parent / "lightning_as" / "data" / "mnist"


def test_the_bundled_files_are_mnist():
    table = (BUNDLED / "README.md").read_text()
    files = sorted(BUNDLED.glob("*.gz"))
    assert len(files) == 4
    for file in files:
        assert f"| {file.stem} | {hashlib.md5(gzip.decompress(file.read_bytes())).hexdigest()} |" in table
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 12e6


def test_it_is_whole_and_normalised():
    train, test = load_mnist("train"), load_mnist("test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.labels is not None
    # The class counts of the training set, as published.
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(float(train.images.mean())) < 1e-3
    assert abs(float(train.images.std()) - 1) < 1e-3
    assert float(train.images.min()) == pytest.approx(-0.1307 / 0.3081)


def write_idx(file: Path, values: Tensor) -> None:
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    file.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """MNIST in torchvision's layout, of 30 and 20 images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, size in (("train", 30), ("t10k", 20)):
        write_idx(raw / f"{name}-images-idx3-ubyte", torch.arange(size * 784).reshape(size, 28, 28) % 251)
        write_idx(raw / f"{name}-labels-idx1-ubyte", torch.arange(size) % 10)
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_in_torchvisions_layout(small_folder: Path, packed: bool):
    if packed:
        for file in list((small_folder / "MNIST" / "raw").iterdir()):
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    data = MNISTDataModule(batch_size=10, data_dir=small_folder, seed=0)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert data.sampler is not None
    assert len(data.sampler) == 3
    pixels = images * 0.3081 + 0.1307
    assert images.shape == (10, 1, 28, 28)
    # Pixel 0 of image i is 784 i mod 251, and its label i mod 10.
    index = (torch.arange(30) * 784 % 251).tolist()
    assert [index.index(round(float(value) * 255)) % 10 for value in pixels[:, 0, 0, 0]] == labels.tolist()
    assert isinstance(data.hparams["data_dir"], str)


def test_a_damaged_file(small_folder: Path):
    file = small_folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte is damaged: .* \[30, 28, 28\], but has 23519 bytes"):
        load_mnist("train", str(small_folder))


def test_a_damaged_archive(small_folder: Path):
    """Whose header is whole, so that it is not gzip that finds it, but zlib."""
    file = small_folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    packed = gzip.compress(file.read_bytes())
    file.with_name(f"{file.name}.gz").write_bytes(packed[:10] + b"\xff" * (len(packed) - 10))
    file.unlink()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged \(.*block type.*\): replace it"):
        load_mnist("train", str(small_folder))


def test_offline_without_the_files_it_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    data = MNISTDataModule(data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no network.*Put train-images-idx3-ubyte, .* into .*MNIST.raw"):
        data.prepare_data()


def test_a_missing_file_at_setup(small_folder: Path):
    (small_folder / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="Put train-images-idx3-ubyte"):
        MNISTDataModule(data_dir=small_folder).setup("fit")


def test_an_imbalanced_training_set_keeps_shares_in_order_whatever_the_seed(make_data: MakeData, mnist: dict):
    whole = mnist["train"].labels.bincount()
    data = make_data(imbalance=[0.01] * 5 + [0.5] * 4 + [1.0], seed=0)
    data.setup("fit")
    images, labels = data.dataset("train")[list(range(len(data.dataset("train"))))]
    kept = labels.bincount()
    assert kept.tolist() == [round(0.01 * int(n)) for n in whole[:5]] + [round(n / 2) for n in whole[5:9].tolist()] + [
        int(whole[9])
    ]
    assert data.sampler is not None
    assert data.sampler.bins.sizes == kept.tolist()
    # They are images of the whole set with their labels, each once, in its order.
    rows = {image.numpy().tobytes(): at for at, image in enumerate(mnist["train"].images)}
    positions = torch.tensor([rows[image.numpy().tobytes()] for image in images])
    assert bool((positions.diff() > 0).all())
    assert torch.equal(labels, mnist["train"].labels[positions])
    torch.manual_seed(1)
    assert torch.equal(make_data(imbalance=data.imbalance, seed=1).dataset("train").images, images)
    assert data.dataset("test") is mnist["test"]


def test_a_digit_keeps_at_least_one_image_and_the_choice_is_its_own(make_data: MakeData, mnist: dict):
    def images(**shares: Any) -> set[bytes]:
        train = make_data(**shares).dataset("train")
        return {image.numpy().tobytes() for image, label in zip(train.images, train.labels, strict=True) if label == 3}

    tiny, some = images(imbalance={3: 1e-9}), images(imbalance={3: 0.5})
    assert len(tiny) == 1
    assert tiny < some
    assert images(imbalance={3: 0.5, 0: 0.1, 9: 0.2}) == some
    others = make_data(imbalance={3: 0.5}).dataset("train").labels.bincount()
    assert [n for digit, n in enumerate(others.tolist()) if digit != 3] == [
        n for digit, n in enumerate(mnist["train"].labels.bincount().tolist()) if digit != 3
    ]


@pytest.mark.parametrize(
    ("imbalance", "message"),
    [
        ([0.1] * 9, r"`imbalance` must have 10 shares, one for each digit, got \[.*\]: give 1.0 for"),
        (0.1, "`imbalance` must have 10 shares, one for each digit, got 0.1: give"),
        ([0.0] + [1.0] * 9, r"`imbalance` is 0.0 for the digit 0, but a share must be in \(0, 1\]: use 1.0"),
        ([1.0] * 9 + [1.5], "`imbalance` is 1.5 for the digit 9"),
        ({4: float("nan")}, "`imbalance` is nan for the digit 4"),
        ({4: -1}, "`imbalance` is -1 for the digit 4"),
        ({10: 0.5}, "`imbalance` has a share for 10: use digits, 0 … 9, as keys"),
        ({"1": 0.5}, "`imbalance` has a share for '1': use digits"),
    ],
)
def test_a_bad_imbalance(imbalance: Any, message: str):
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(imbalance=imbalance)


@pytest.mark.parametrize(
    "text", ["[0.01,0.01,0.01,0.01,0.01,1,1,1,1,1]", "{0: 0.01, 1: 0.01, 2: 0.01, 3: 0.01, 4: 0.01}"]
)
def test_imbalance_from_yaml_and_the_command_line(data_from_arguments: Any, text: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(
        f"data: {{class_path: lightning_as.MNISTDataModule, init_args: {{imbalance: {text}}}}}"
    )
    for arguments in (
        ["--data=lightning_as.MNISTDataModule", f"--data.imbalance={text}"],
        [f"--config={tmp_path / 'config.yaml'}"],
    ):
        assert data_from_arguments(*arguments).imbalance == [0.01] * 5 + [1.0] * 5


def test_noisy_labels_are_wrong_of_a_share_nested_and_the_same_whatever_the_seed(make_data: MakeData, mnist: dict):
    clean = mnist["train"].labels
    few, many = (make_data(label_noise=share, seed=0) for share in (0.1, 0.4))
    wrong = [data.dataset("train").labels != clean for data in (few, many)]
    assert [int(mask.sum()) for mask in wrong] == [200, 800]
    assert bool((wrong[0] <= wrong[1]).all())
    assert torch.equal(few.dataset("train").labels[wrong[0]], many.dataset("train").labels[wrong[0]])
    torch.manual_seed(1)
    assert torch.equal(make_data(label_noise=0.4, seed=1).dataset("train").labels, many.dataset("train").labels)
    assert torch.equal(many.dataset("train").images, mnist["train"].images)
    assert many.dataset("test") is mnist["test"]
    assert make_data().dataset("train") is mnist["train"]
    many.setup("fit")
    assert many.sampler is not None
    assert many.sampler.bins.sizes == many.dataset("train").labels.bincount().tolist()


def test_a_wrong_label_is_any_other_digit_with_the_same_chance(make_data: MakeData, mnist: dict):
    clean, noisy = mnist["train"].labels, make_data(label_noise=0.99).dataset("train").labels
    wrong = clean != noisy
    counts = ((noisy - clean) % 10)[wrong].bincount(minlength=10)
    assert counts[0] == 0
    expected = float(wrong.sum()) / 9
    assert float(((counts[1:] - expected) ** 2 / expected).sum()) < 26.1  # chi-square of 8, at 0.001


def test_noise_is_of_the_images_that_are_kept(make_data: MakeData):
    imbalance = [0.1] * 5 + [1.0] * 5
    clean = make_data(imbalance=imbalance).dataset("train")
    noisy = make_data(imbalance=imbalance, label_noise=0.1).dataset("train")
    assert torch.equal(noisy.images, clean.images)
    assert int((noisy.labels != clean.labels).sum()) == round(0.1 * len(clean))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_bad_label_noise(share: float):
    with pytest.raises(ValueError, match=rf"`label_noise` must be a share of the images in \[0, 1\), got {share}"):
        MNISTDataModule(label_noise=share)


def test_a_checkpoint_brings_the_module_back(make_data: MakeData, make_trainer: Callable[..., Trainer], tmp_path: Path):
    data = make_data(data_dir=tmp_path, imbalance={3: 0.5})
    trainer = make_trainer(limit_train_batches=1)
    data.prepare_data = lambda: None
    trainer.fit(ConvNetClassifier(), data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    back = MNISTDataModule.load_from_checkpoint(tmp_path / "it.ckpt")
    assert (back.batch_size, back.data_dir, back.seed) == (100, str(tmp_path), 0)
    assert back.imbalance == data.imbalance


def test_the_bundled_copy_needs_no_folder_and_a_copy_elsewhere_is_the_same(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in BUNDLED.glob("t10k*"):
        shutil.copy(file, raw)
    assert torch.equal(load_mnist("test", str(tmp_path)).images, load_mnist("test").images)
