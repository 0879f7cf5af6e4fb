"""A small residual network for colour images as a LightningModule."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from lightning_as.core.arguments import check_integer, check_positive
from lightning_as.models.image_classifier import ImageClassifier

STAGES = 3  # each with twice the channels of the one before, at half its height and width


class ResidualNetClassifier(ImageClassifier):
    """A residual network of 6 · `blocks` + 2 layers with weights, for 32 × 32 colour images.

    The family of He et al. for CIFAR-10, whose ResNet-20 the defaults are: 270,000 parameters, 41 million
    multiplications for an image. ``ResidualNetClassifier(width=8, blocks=1)`` has 20,000 and 3 million.

    Trained by SGD with Nesterov's momentum of 0.9 and a weight decay of 5e-4, and by a one-cycle learning rate over the
    whole training, of torch's defaults: it rises for 0.3 of the steps, and falls to nearly 0 at the last. For another
    optimizer, override `configure_optimizers` or use ``--optimizer`` on the command line.

    Args:
        num_classes: Number of classes, C. Default: 10.
        width: Channels of the first stage; the other two have 2 and 4 times as many. Default: 16.
        blocks: Blocks of two convolutions in each of the three stages. Default: 3.
        learning_rate: The largest of the cycle, for batches of 128. Default: 0.1.

    Raises:
        TypeError: If a number of classes, channels or blocks is not an integer.
        ValueError: If an argument is out of its range.
        MisconfigurationException: Before the first step, if the Trainer does not say how long it trains, or if a
            checkpoint's cycle is shorter than that.

    Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2, with the
    shortcuts without parameters (option A); the optimizer's settings are those of Zagoruyko and Komodakis, "Wide
    Residual Networks" (2016), section 3, and the learning rate's course that of Smith and Topin, "Super-Convergence"
    (2017).
    """

    def __init__(self, num_classes: int = 10, width: int = 16, blocks: int = 3, learning_rate: float = 0.1) -> None:
        check_integer("num_classes", num_classes, least=2)
        check_integer("width", width, unit="channels")
        check_integer("blocks", blocks)
        check_positive("learning_rate", learning_rate)
        layers: list[nn.Module] = [_convolution(3, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
        for stage in range(STAGES):
            for _ in range(blocks):
                layers.append(_Block(channels, width * 2**stage))
                channels = width * 2**stage
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
        super().__init__(nn.Sequential(*layers), num_classes)
        self.save_hyperparameters()
        self.learning_rate = learning_rate

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise MisconfigurationException(
                "The learning rate of ResidualNetClassifier goes through one cycle over the whole training, but the "
                "Trainer has no end: give it `max_epochs` or `max_steps`, or override `configure_optimizers`."
            )
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(steps), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse to go on from a checkpoint beyond the end of its cycle."""
        cycle, steps = self.lr_schedulers(), self.trainer.estimated_stepping_batches
        if isinstance(cycle, torch.optim.lr_scheduler.OneCycleLR) and cycle.total_steps < steps:
            raise MisconfigurationException(
                f"The checkpoint's learning rate ends after {cycle.total_steps} steps, but {steps} are to be trained: "
                "resume with the `max_epochs` that it was begun with; or begin a new cycle with its weights, "
                "`ResidualNetClassifier.load_from_checkpoint(path)`."
            )


class _Block(nn.Module):
    """relu(F(x) + x), where F is two convolutions; where it doubles the channels, it halves height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.stride = channels_out // channels_in
        self.residual = nn.Sequential(
            *(
                _convolution(channels_in, channels_out, self.stride),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ),
            *(_convolution(channels_out, channels_out), nn.BatchNorm2d(channels_out)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels_out, height / stride, width / stride) of images (B, channels_in, height, width)."""
        residual = self.residual(images)
        if self.stride > 1:  # every other pixel, and zeros for the channels that are new
            images = images[:, :, :: self.stride, :: self.stride]
            images = pad(images, (0, 0, 0, 0, 0, residual.shape[1] - images.shape[1]))
        return relu(residual + images)


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution
