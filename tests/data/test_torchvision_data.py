import hashlib
import pickle
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from lightning_as import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule
from lightning_as.data.torchvision_data import TorchvisionDataModule

datasets = pytest.importorskip("torchvision.datasets", exc_type=ImportError)
MODULES = [FashionMNISTDataModule, CIFAR10DataModule, CIFAR100DataModule]
SIZES = {"train": 30, "test": 20}


def pixels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    generator = torch.Generator().manual_seed(SIZES[part])
    return torch.randint(256, (SIZES[part], *module.dims), dtype=torch.uint8, generator=generator)


def labels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    return (torch.arange(SIZES[part]) * 7 + 3) % module.num_classes


def write_fashion(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, name in (("train", "train"), ("test", "t10k")):
        for kind, values in (
            ("images-idx3", pixels(part, FashionMNISTDataModule)[:, 0]),
            ("labels-idx1", labels(part, FashionMNISTDataModule).to(torch.uint8)),
        ):
            header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + values.numpy().tobytes())


def write_cifar(root: Path, module: type[TorchvisionDataModule], patch: pytest.MonkeyPatch) -> None:
    """Small files where torchvision looks for them, of which it is told the right checksums."""
    cifar = getattr(datasets, module._name)
    folder = root / cifar.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for part, files in (("train", cifar.train_list), ("test", cifar.test_list)):
        rows = pixels(part, module).flatten(1).numpy().reshape(len(files), -1, 3072)
        targets = labels(part, module).view(len(files), -1).tolist()
        key = "labels" if module is CIFAR10DataModule else "fine_labels"
        sums = [
            [name, write(name, {"data": rows[at], key: targets[at], "coarse_labels": [0] * len(targets[at])})]
            for at, (name, _) in enumerate(files)
        ]
        patch.setattr(cifar, f"{part}_list", sums)
    meta = cifar.meta
    names = {meta["key"]: [str(label) for label in range(module.num_classes)]}
    patch.setattr(cifar, "meta", {**meta, "md5": write(meta["filename"], names)})


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[TorchvisionDataModule]], Path]:
    """Puts a small data set into a folder."""

    def write(module: type[TorchvisionDataModule]) -> Path:
        if module is FashionMNISTDataModule:
            write_fashion(tmp_path)
        else:
            write_cifar(tmp_path, module, monkeypatch)
        return tmp_path

    return write


def offline(*_: object, **__: object) -> None:
    raise URLError("no network")


@pytest.mark.parametrize("module", MODULES)
def test_it_reads_what_torchvision_wrote(module: type[TorchvisionDataModule], write: Any, monkeypatch: Any):
    monkeypatch.setattr("urllib.request.urlopen", offline)
    data = module(write(module), batch_size=10, seed=0)
    assert isinstance(data.hparams["data_dir"], str)
    assert data.hparams["batch_size"] == 10
    data.prepare_data()
    data.setup("fit")
    mean, std = (torch.tensor(figures).view(-1, 1, 1) for figures in (module._mean, module._std))
    for part in ("train", "test"):
        dataset = data.dataset(part)
        assert dataset.images.dtype == torch.float32
        assert dataset.images.is_contiguous()
        back = (dataset.images * std + mean) * 255
        assert torch.allclose(back, pixels(part, module).float(), atol=1e-3)
        assert torch.equal(dataset.labels, labels(part, module))
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (10, *module.dims)
    assert data.sampler is not None
    assert sum(data.sampler.bins.sizes) == 30


@pytest.mark.parametrize(
    ("module", "classes", "dims"),
    [
        (FashionMNISTDataModule, 10, (1, 28, 28)),
        (CIFAR10DataModule, 10, (3, 32, 32)),
        (CIFAR100DataModule, 100, (3, 32, 32)),
    ],
)
def test_what_a_model_needs_to_know_is_there_without_data(module: Any, classes: int, dims: tuple[int, int, int]):
    data = module()
    assert (data.num_classes, data.dims, data.data_dir) == (classes, dims, "data")
    assert len(data._mean) == len(data._std) == dims[0]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (FashionMNISTDataModule, r"Put train-images-idx3-ubyte, .* into .*FashionMNIST.raw: `prepare_data`"),
        (CIFAR10DataModule, r"Put cifar-10-python.tar.gz, or the folder that is in it, into {}: `prepare_data`"),
        (CIFAR100DataModule, r"Put cifar-100-python.tar.gz, or the folder that is in it, into {}: `prepare_data`"),
    ],
)
def test_offline_without_the_files_it_says_what_to_put_where(
    module: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("urllib.request.urlopen", offline)
    message = message.format(re.escape(str(tmp_path)))
    reason = "(no network|Error downloading)"  # torchvision 0.19 keeps the error of a mirror to itself
    with pytest.raises(FileNotFoundError, match=rf"(?s)could not be downloaded \(.*{reason}.*{message}"):
        module(tmp_path).prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"(?s)could not be read \(.*{message}"):
        module(tmp_path).setup("fit")


def test_an_archive_that_was_put_there_is_unpacked(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("urllib.request.urlopen", offline)
    folder = write(CIFAR10DataModule) / "cifar-10-batches-py"
    other = tmp_path / "elsewhere"
    other.mkdir()
    with tarfile.open(other / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    archived = (other / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archived).hexdigest())
    data = CIFAR10DataModule(other)
    data.prepare_data()
    assert torch.equal(data.dataset("test").labels, labels("test", CIFAR10DataModule))


def test_a_damaged_file_is_not_read(write: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("urllib.request.urlopen", offline)
    folder = write(CIFAR10DataModule)
    file = folder / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=r"CIFAR10 could not be read .*corrupted"):
        CIFAR10DataModule(folder).dataset("train")


@pytest.mark.parametrize("module", MODULES)
def test_the_command_line_can_give_its_arguments(module: type[TorchvisionDataModule], data_from_arguments: Any):
    data = data_from_arguments(
        f"--data=lightning_as.{module.__name__}", "--data.data_dir=there", "--data.batch_size=7", "--data.bins=single"
    )
    assert type(data) is module
    assert (data.data_dir, data.batch_size, data.bins) == ("there", 7, "single")
