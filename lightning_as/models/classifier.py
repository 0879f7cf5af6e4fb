"""The thesis's convolutional network (Table 1) as a LightningModule."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lightning_as.core.arguments import check_choice, check_integer, check_share

Batch = tuple[Tensor, Tensor]


class ConvNetClassifier(LightningModule):
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
        super().__init__()
        check_integer("num_classes", num_classes, least=2)
        check_choice("optimizer", optimizer, ("adadelta", "adam"))
        check_share("dropout", dropout)
        self.save_hyperparameters()
        self.optimizer = optimizer
        self.importance_weights: Tensor | None = None
        """Of the batch that is trained on, (B,), where a callback samples with weights."""
        network = nn.Sequential(
            *_convolution(1, 32),
            *_convolution(32, 32),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )
        # Twice as fast on a CPU at batch 64, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, C), of images (B, 1, 28, 28)."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        losses = cross_entropy(logits, labels, reduction="none")
        loss = (losses if self.importance_weights is None else losses * self.importance_weights).mean()
        self.train_accuracy.update(logits, labels)
        # Both are of the sampled batches, which are harder than the data: judge by val/…
        # Even without a bar Lightning looks at what is for it in every step, and on a GPU waits for it.
        self.log("train/loss", loss, prog_bar=self.trainer.progress_bar_callback is not None)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return {"loss": loss, "losses": losses, "logits": logits}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_accuracy)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Class probabilities, (B, C), of images (B, 1, 28, 28)."""
        return self(batch).softmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adadelta":
            return torch.optim.Adadelta(self.parameters(), lr=1.0, rho=0.9)
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.9, 0.999))

    def _evaluate(self, batch: Batch, stage: str, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        logits = self(images)
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", cross_entropy(logits, labels), on_epoch=True, batch_size=len(labels))
        self.log(f"{stage}/accuracy", accuracy, on_epoch=True, prog_bar=True, batch_size=len(labels))


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 5), nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]
