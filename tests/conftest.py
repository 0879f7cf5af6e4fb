"""Shared pieces: a small MNIST, and a Trainer without its surroundings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningCLI

from lightning_as import Bins, ConvNetClassifier, MNISTDataModule
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
    train, test = load_mnist("train"), load_mnist("test")
    assert train.labels is not None
    assert test.labels is not None
    return {
        "train": ImageDataset(train.images[:2000], train.labels[:2000]),
        "test": ImageDataset(test.images[:500], test.labels[:500]),
    }


@pytest.fixture
def make_data(mnist: dict[str, ImageDataset], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MNISTDataModule]:
    """A DataModule over the small MNIST."""
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])

    def make(batch_size: int = 100, **options: Any) -> MNISTDataModule:
        return MNISTDataModule(batch_size=batch_size, **{"seed": 0, **options})

    return make


@pytest.fixture
def data_from_arguments() -> Callable[..., LightningDataModule]:
    """The DataModule that a command line asks for."""

    def instantiate(*arguments: str) -> LightningDataModule:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            return LightningCLI(
                ConvNetClassifier,
                LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=False,
                trainer_defaults={"accelerator": "cpu", "logger": False},
                run=False,
                args=list(arguments),
            ).datamodule

    return instantiate


@pytest.fixture
def make_trainer(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """A quiet Trainer on the CPU."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield lambda **options: Trainer(**{**defaults, **options})
