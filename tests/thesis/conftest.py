"""An MNIST of 200 images, and studies of it."""

import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lightning_as.data.image_data import ImageDataset
from thesis.grid import cells, select
from thesis.study import Study


@pytest.fixture(autouse=True)
def tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first 200 training and 100 test images are MNIST, and nothing is said but by the code under test."""

    def load(part: str, data_dir: str | None = None) -> ImageDataset:
        return ImageDataset(*request.getfixturevalue("mnist")[part][torch.arange(200 if part == "train" else 100)])

    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", load)
    with warnings.catch_warnings():
        for module in ("lightning", "torch"):
            warnings.filterwarnings("ignore", module=module)
        yield


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """A study of the thesis's cells."""

    def make(*only: str, epochs: int = 3, folder: str = "study", seeds: int = 1) -> Study:
        return Study(select(cells("thesis", seeds), only), epochs, tmp_path / folder, "cpu")

    return make


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """What a study wrote, without the seconds."""

    def read(folder: str = "study") -> list[dict[str, str]]:
        lines = (tmp_path / folder / "epochs.csv").read_text().splitlines()
        return [{name: row[name] for name in row if name != "seconds"} for row in csv.DictReader(lines)]

    return read
