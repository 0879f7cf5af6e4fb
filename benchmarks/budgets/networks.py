"""Small networks, one for each kind of data, and the module that trains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.budgets.data import BUCKETS

_COLOURS = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]  # mean and standard deviation of CIFAR-10's training pixels


def convolutional(classes: int, dims: int) -> nn.Module:
    """Two strided convolutions with batch normalisation, for 28 × 28 grey images: lean, for a table of many cells."""
    network = nn.Sequential(
        *_convolution(1, 8, 2), *_convolution(8, 16, 2), nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU()
    )
    network.append(nn.Linear(64, classes))
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def perceptron(classes: int, dims: int) -> nn.Module:
    """Two hidden layers, for tables of so many columns."""
    return nn.Sequential(nn.Linear(dims, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes))


def bag_of_words(classes: int, dims: int) -> nn.Module:
    """The mean of the embeddings of hashed words and pairs of words, and one hidden layer."""
    embedding = nn.EmbeddingBag(BUCKETS, 32, mode="mean", padding_idx=0)
    with torch.no_grad():
        embedding.weight.mul_(0.1)  # torch's own are as large as what is learned: 12 points worse on TREC-6
    return nn.Sequential(embedding, nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))


def residual(classes: int, dims: int) -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels, for 32 × 32 colour images in bytes."""
    network = nn.Sequential(
        Colours(), *_convolution(3, 16, 2), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Colours(nn.Module):
    """Bytes of colour images as numbers of about zero mean and unit variance."""

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1) for part in _COLOURS)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) float32 of as many bytes."""
        numbers = images.to(torch.float32, memory_format=torch.channels_last)
        return (numbers - self.mean) / self.deviation  # pyright: ignore[reportOperatorIssue]


class Block(nn.Module):
    """Two convolutions and what goes round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(*_convolution(inputs, outputs, stride), *_convolution(outputs, outputs, 1)[:-1])
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, outputs, H / stride, W / stride) of (B, inputs, H, W)."""
        return (self.inside(images) + self.around(images)).relu()


class Classifier(LightningModule):
    """A network that is trained by Adam, with a learning rate that rises and falls to zero within the budget.

    Args:
        network: Gives logits (B, C).
        learning_rate: The largest.
        steps: Of the training in all.
        augment: What training inputs go through. Default: nothing.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, steps: int, augment: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.steps = steps
        self.augment = augment
        self.importance_weights: Tensor | None = None
        """Of the batch that is trained on, (B,), where a callback samples with weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, (B, C)."""
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        inputs, labels = batch
        logits = self(inputs if self.augment is None else self.augment(inputs))
        losses = cross_entropy(logits, labels, reduction="none")
        loss = (losses if self.importance_weights is None else losses * self.importance_weights).mean()
        return {"loss": loss, "losses": losses.detach(), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return self.scheduled(torch.optim.Adam(self.parameters(), self.learning_rate, fused=True))

    def scheduled(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimizer with a learning rate that rises and falls to zero."""
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MomentumClassifier(Classifier):
    """The same, trained by stochastic gradient descent with momentum."""

    def configure_optimizers(self) -> Any:
        return self.scheduled(torch.optim.SGD(self.parameters(), self.learning_rate, momentum=0.9, fused=True))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
