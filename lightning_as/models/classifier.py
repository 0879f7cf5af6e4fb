"""The thesis's convolutional network (Table 1) as a LightningModule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lightning_as.core.arguments import check_choice, check_integer, check_share
from lightning_as.models.image_classifier import ImageClassifier


class ConvNetClassifier(ImageClassifier):
    """Two 5 × 5 convolutions of 32 filters and two fully connected layers, for 28 × 28 grey images.

    The thesis's Table 1, with one input channel where the table has a misprinted 3, and dropout before the last
    layer. `training_step` returns what :class:`AdaptiveSamplingCallback` reads beside the loss: the per-sample
    ``losses`` (B,) and the ``logits`` (B, C).

    Args:
        num_classes: Number of classes, C. Default: 10.
        optimizer: ``"adadelta"``: lr 1.0, rho 0.9; ``"adam"``: lr 1e-3, betas 0.9 and 0.999, as in the thesis. For
            any other, override `configure_optimizers` or use ``--optimizer`` on the command line.
        dropout: Share of the 256 features dropped in training, in [0, 1). Default: 0.5.

    Raises:
        TypeError: If `num_classes` is not an integer.
        ValueError: If an argument is out of its range.

    Source: Avalos, master's thesis (2021), Table 1 and section 4.4.
    """

    def __init__(
        self,
        num_classes: int = 10,
        optimizer: Literal["adadelta", "adam"] = "adadelta",
        dropout: float = 0.5,
    ) -> None:
        check_integer("num_classes", num_classes, least=2)
        check_choice("optimizer", optimizer, ("adadelta", "adam"))
        check_share("dropout", dropout)
        network = nn.Sequential(
            *_convolution(1, 32),
            *_convolution(32, 32),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )
        super().__init__(network, num_classes)
        self.save_hyperparameters()
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adadelta":
            return torch.optim.Adadelta(self.parameters(), lr=1.0, rho=0.9)
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.9, 0.999))


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 5), nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]
