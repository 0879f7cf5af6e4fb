import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from lightning_as import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule
from lightning_as.data.torchvision_data import TorchvisionDataModule
from tests.helpers.idx import write_mnist
from tests.helpers.statistics import seeded

datasets = pytest.importorskip("torchvision.datasets", exc_type=ImportError)
SIZES = {"train": 30, "test": 20}
FASHION = "train-images-idx3-ubyte, .* into .*FashionMNIST.raw"


def pixels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    size = SIZES[part]
    return torch.randint(256, (size, *module.dims), dtype=torch.uint8, generator=seeded(size))


def labels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    return (torch.arange(SIZES[part]) * 7 + 3) % module.num_classes


def write_cifar(root: Path, module: type[TorchvisionDataModule]) -> None:
    """Small files where torchvision looks for them."""
    cifar = getattr(datasets, module._name)
    folder = root / cifar.base_folder
    folder.mkdir(parents=True)
    for part, files in (("train", cifar.train_list), ("test", cifar.test_list)):
        rows = pixels(part, module).flatten(1).numpy().reshape(len(files), -1, 3072)
        targets = labels(part, module).view(len(files), -1).tolist()
        key = "labels" if module is CIFAR10DataModule else "fine_labels"
        for (name, _), data, own in zip(files, rows, targets, strict=True):
            (folder / name).write_bytes(pickle.dumps({"data": data, key: own, "coarse_labels": [0] * len(own)}))
    names = {cifar.meta["key"]: [str(label) for label in range(module.num_classes)]}
    (folder / cifar.meta["filename"]).write_bytes(pickle.dumps(names))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[TorchvisionDataModule]], Path]:
    """Puts a small data set, whose checksums are wrong, into a folder; there is no network."""
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network")))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())

    def write(module: type[TorchvisionDataModule]) -> Path:
        if module is not FashionMNISTDataModule:
            write_cifar(tmp_path, module)
            return tmp_path
        for part, name in (("train", "train"), ("test", "t10k")):
            write_mnist(tmp_path / "FashionMNIST" / "raw", name, pixels(part, module)[:, 0], labels(part, module))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("module", "classes", "dims", "files"),
    [
        (FashionMNISTDataModule, 10, (1, 28, 28), FASHION),
        (CIFAR10DataModule, 10, (3, 32, 32), "cifar-10-python.tar.gz, or the folder that is in it, into {}"),
        (CIFAR100DataModule, 100, (3, 32, 32), "cifar-100-python.tar.gz, or the folder that is in it, into {}"),
    ],
)
@pytest.mark.filterwarnings("ignore:There are 30 bins for 30 instances")
def test_it_reads_what_torchvision_wrote(module: Any, classes: int, dims: Any, files: str, write: Any, tmp_path: Path):
    data = module()  # what a model needs to know is there without data
    assert (data.num_classes, data.dims, data.data_dir) == (classes, dims, "data")
    put = rf".*Put {files.format(re.escape(str(tmp_path)))}: `prepare_data` takes"
    # torchvision 0.19 keeps the error of a mirror to itself
    with pytest.raises(FileNotFoundError, match=rf"(?s)downloaded \(.*(no network|Error downloading){put}"):
        module(tmp_path).prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"(?s)could not be read \({put}"):
        module(tmp_path).setup("fit")
    data = module(write(module), batch_size=10, seed=0)
    assert (data.hparams["data_dir"], data.hparams["batch_size"]) == (str(tmp_path), 10)
    data.prepare_data()
    data.setup("fit")
    mean, std = (torch.tensor(figures).view(len(data._mean), 1, 1) for figures in (module._mean, module._std))
    for part in ("train", "test"):
        dataset = data.dataset(part)
        assert dataset.images.is_contiguous()
        back = (dataset.images * std + mean) * 255
        assert torch.allclose(back, pixels(part, module).float(), atol=1e-3)
        assert torch.equal(dataset.labels, labels(part, module))
    assert sum(data.sampler.bins.sizes) == 30
