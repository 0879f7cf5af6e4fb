"""`python -m thesis` on an MNIST of 200 images, for tests of several processes."""

import torch

import lightning_as.data.mnist
from lightning_as.data.image_data import ImageDataset
from thesis.__main__ import main

_load = lightning_as.data.mnist.load_mnist


def _small(part: str, data_dir: str | None = None) -> ImageDataset:
    return ImageDataset(*_load(part, data_dir)[torch.arange(200 if part == "train" else 100)])


if __name__ == "__main__":
    lightning_as.data.mnist.load_mnist = _small
    main()
