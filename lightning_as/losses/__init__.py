"""The loss of each sample of a batch, and the squared norm of its gradient with respect to the logits.

A loss is a callable ``(logits, targets) -> losses`` from a batch of B samples to (B,). No sample's loss depends on
another sample, and a sample of many entries, such as an image of labelled pixels, has one loss: their mean. The losses
of this package compute in float32 at least, and in float64 if the logits are float64. Those of torch, and others,
become such a loss by :func:`per_sample`.
"""

from lightning_as.losses.criterion import Criterion, per_sample, takes_batch
from lightning_as.losses.cross_entropy import IGNORED, CrossEntropy
from lightning_as.losses.elementwise import BinaryCrossEntropy, MeanSquaredError
from lightning_as.losses.gradients import gradient_bound, squared_gradient_norms
from lightning_as.losses.margins import look_at

__all__ = [
    "IGNORED",
    "BinaryCrossEntropy",
    "Criterion",
    "CrossEntropy",
    "MeanSquaredError",
    "gradient_bound",
    "look_at",
    "per_sample",
    "squared_gradient_norms",
    "takes_batch",
]
