import gzip
import hashlib
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, MNISTDataModule
from lightning_as.mnist import load_mnist

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


def test_evaluation_goes_through_the_natural_distribution_in_order(make_data: MakeData, mnist: dict):
    data = make_data()
    for loader, part in (
        (data.train_evaluation_dataloader(), "train"),
        (data.val_dataloader(), "test"),
        (data.test_dataloader(), "test"),
    ):
        images, labels = (torch.cat(column) for column in zip(*loader, strict=True))
        assert torch.equal(images, mnist[part].images)
        assert torch.equal(labels, mnist[part].labels)
    assert torch.equal(torch.cat(list(data.predict_dataloader())), mnist["test"].images)


def test_setup_is_idempotent_and_loaders_have_no_side_effects(make_data: MakeData):
    data = make_data()
    data.setup("fit")
    sampler = data.sampler
    assert sampler is not None
    state = sampler.state_dict()
    data.setup("validate")
    data.setup("fit")
    assert data.sampler is sampler
    str(data)
    assert torch.equal(sampler.state_dict()["generator"], state["generator"])
    data.batch_size = 50
    assert len(data.train_dataloader()) == 40


def test_bins(make_data: MakeData, mnist: dict):
    for bins, sizes in (
        ("label", mnist["train"].labels.bincount().tolist()),
        ("single", [2000]),
        (Bins(torch.arange(2000) % 3), [667, 667, 666]),
    ):
        data = make_data(bins=bins)
        data.setup("fit")
        assert data.sampler is not None
        assert data.sampler.bins.sizes == sizes
        assert data.sampler.bins.are_labels == (bins == "label")
    with pytest.raises(ValueError, match="`bins` are of 10 instances, but the training set has 2000"):
        make_data(bins=Bins.single(10)).setup("fit")


def test_the_seed_is_that_of_seed_everything_unless_given(make_data: MakeData):
    def first(seed: int | None) -> list[int]:
        data = make_data(seed=seed)
        data.setup("fit")
        assert data.sampler is not None
        return next(iter(data.sampler))

    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert first(None) == first(7) != first(8)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_can_be_pickled(make_data: MakeData):
    data = make_data()
    data.setup("fit")
    assert data.sampler is not None
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy.sampler) == list(data.sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"num_workers": -1}, "`num_workers` must not be negative, got -1"),
        ({"bins": "labels"}, "`bins` must be 'label', 'single' or a `Bins`, got 'labels'"),
        ({"batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(**options)


def test_the_bundled_copy_needs_no_folder_and_a_copy_elsewhere_is_the_same(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in BUNDLED.glob("t10k*"):
        shutil.copy(file, raw)
    assert torch.equal(load_mnist("test", str(tmp_path)).images, load_mnist("test").images)
