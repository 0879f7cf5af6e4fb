"""Figures of a model on a whole data set, precise enough to compare losses far below float32's 1e-7."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_as.losses import CrossEntropy


class Evaluation(NamedTuple):
    """What :func:`evaluate` finds."""

    cost: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of instances whose largest logit is the right one."""


class Instances(NamedTuple):
    """What :func:`evaluate_each` finds of each instance, in the order of the batches, on the CPU."""

    losses: Tensor
    """Cross-entropies in nats, (N,) float64."""
    gradients: Tensor
    """Of the losses with respect to the logits, softmax(z) − y, (N, C) float64."""


def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Mean cross-entropy and accuracy over the given batches, in evaluation mode and float64.

    The module is left as it was: its training flags are restored. Dropout is off, batch normalisation uses its
    running statistics.

    Args:
        module: Gives logits (B, C) for inputs.
        batches: Pairs of inputs and class indices (B,), such as a DataLoader.

    Returns:
        The cost in nats and the accuracy as a share.
    """
    # On the CPU, since not every device knows float64.
    cost, accuracy = MeanMetric().set_dtype(torch.float64), MeanMetric().set_dtype(torch.float64)
    for logits, targets in _logits(module, batches):
        cost.update(CrossEntropy()(logits, targets))
        accuracy.update((logits.argmax(dim=1) == targets).to(torch.float64))
    return Evaluation(float(cost.compute()), float(accuracy.compute()))


def evaluate_each(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Instances:
    """The same of each instance, and the gradients with respect to the logits, in one pass; see :func:`evaluate`."""
    found = []
    for logits, targets in _logits(module, batches):
        losses = CrossEntropy()(logits, targets)
        gradients = logits.softmax(dim=1).scatter_(1, targets.unsqueeze(1), 0.0)
        # softmax_y − 1 is minus what the others sum to: subtracting would cancel all digits of a sure prediction.
        gradients.scatter_(1, targets.unsqueeze(1), -gradients.sum(dim=1, keepdim=True))
        found.append((losses, gradients))
    return Instances(*(torch.cat(column) for column in zip(*found, strict=True)))


@torch.inference_mode()
def _logits(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, C) float64 and targets of each batch, on the CPU, in evaluation mode."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with evaluating(module):
        for inputs, targets in batches:
            yield module(inputs.to(device)).cpu().to(torch.float64), targets.cpu()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode while the context is open, and then as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
