"""What the ready classifiers of images have in common: their steps, losses, metrics and logs."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]


class ImageClassifier(LightningModule):
    """A network that is trained by cross-entropy; a subclass says by which optimizer, in `configure_optimizers`.

    `training_step` returns what :class:`AdaptiveSamplingCallback` reads beside the loss: the per-sample ``losses`` (B,)
    and the ``logits`` (B, C). Logged are ``train/loss``, ``train/accuracy``, both of the sampled batches, and the same
    under ``val/`` and ``test/``.

    Args:
        network: Gives logits (B, C) of images.
        num_classes: Number of classes, C.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.importance_weights: Tensor | None = None
        """Of the batch that is trained on, (B,), where a callback samples with weights."""
        # Twice as fast on a CPU at batch 64, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, C), of images (B, channels, height, width)."""
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
        """Class probabilities, (B, C), of images."""
        return self(batch).softmax(dim=1)

    def _evaluate(self, batch: Batch, stage: str, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        logits = self(images)
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", cross_entropy(logits, labels), on_epoch=True, batch_size=len(labels))
        self.log(f"{stage}/accuracy", accuracy, on_epoch=True, prog_bar=True, batch_size=len(labels))
