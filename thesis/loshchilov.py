"""The set-up of the thesis's rival as its authors had it: data, network and optimizers of online batch selection.

The thesis compares with online batch selection in a set-up that it calls the same and that differs: 60,000 training
images for 50,000, pixels of mean 0 and variance 1 for pixels in [0, 1], dropout before the last layer for dropout
before the first fully connected one, batch normalisation with other constants, AdaDelta with ρ = 0.9 for 0.95.

Source: the authors' script for MNIST (Lasagne), beside Loshchilov and Hutter, "Online Batch Selection for Faster
Training of Neural Networks" (2015), arXiv:1511.06343. Glorot's uniform weights and zero biases are Lasagne's defaults.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lightning_as.core.arguments import check_choice
from lightning_as.data.image_data import ImageDataset, Part
from lightning_as.data.mnist import MEAN, STD, MNISTDataModule
from lightning_as.models.image_classifier import ImageClassifier

_TRAINED = 50_000
"""The others are for validation there."""


class LoshchilovMNIST(MNISTDataModule):
    """The first 50,000 training images, and pixels in [0, 1]; the options are those of :class:`MNISTDataModule`."""

    def load(self, part: Part) -> ImageDataset:
        """Read a part."""
        dataset = super().load(part)
        kept = _TRAINED if part == "train" else len(dataset)
        labels = None if dataset.labels is None else dataset.labels[:kept]
        return ImageDataset(dataset.images[:kept] * STD + MEAN, labels)


class LoshchilovNet(ImageClassifier):
    """Two 5 × 5 convolutions of 32 filters and two fully connected layers, with dropout before the first of these.

    Args:
        optimizer: ``"adadelta"``: lr 1.0, rho 0.95; ``"adam"``: lr 1e-3, betas 0.9 and 0.999. Default: ``"adadelta"``.

    Raises:
        ValueError: If there is no such optimizer.
    """

    def __init__(self, optimizer: Literal["adadelta", "adam"] = "adadelta") -> None:
        check_choice("optimizer", optimizer, ("adadelta", "adam"))
        network = nn.Sequential(
            *_convolution(1, 32),
            *_convolution(32, 32),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32 * 4 * 4, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        )
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        super().__init__(network, 10)
        self.save_hyperparameters()
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adadelta":
            return torch.optim.Adadelta(self.parameters(), lr=1.0, rho=0.95, eps=1e-6)
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.9, 0.999))


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    normalisation = nn.BatchNorm2d(channels_out, eps=1e-4, momentum=0.15)
    return [nn.Conv2d(channels_in, channels_out, 5), normalisation, nn.ReLU(), nn.MaxPool2d(2)]
