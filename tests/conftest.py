"""Shared pieces: a small MNIST, and both executions."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from lightning_as import Bins, MNISTDataModule
from lightning_as.data.image_data import ImageDataset
from lightning_as.data.mnist import load_mnist

# The tests' tensors are small, and threads of several processes on few cores get in each other's way.
torch.set_num_threads(1)


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bins, and all that lies beside them, were on a GPU: torch draws and learns, and looks at nothing."""
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    monkeypatch.setattr(Bins, "on_host", False)


@pytest.fixture(params=["compiled", "torch"])
def execution(request: pytest.FixtureRequest) -> str:
    """The compiled loops of the CPU, and the torch code of other devices, in turn."""
    if request.param == "torch":
        request.getfixturevalue("in_torch")
    return request.param


@pytest.fixture(scope="session")
def mnist() -> dict[str, ImageDataset]:
    """The first 2,000 training and 500 test images."""
    sizes = {"train": 2000, "test": 500}
    return {part: ImageDataset(*load_mnist(part)[torch.arange(size)]) for part, size in sizes.items()}


@pytest.fixture
def make_data(mnist: dict[str, ImageDataset], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MNISTDataModule]:
    """A DataModule over the small MNIST."""
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])
    return partial(MNISTDataModule, batch_size=100, seed=0)
