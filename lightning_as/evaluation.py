"""Figures of a model on a whole data set, precise enough to compare losses far below float32's 1e-7."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric


class Evaluation(NamedTuple):
    """What :func:`evaluate` finds."""

    cost: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of instances whose largest logit is the right one."""


@torch.inference_mode()
def evaluate(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Mean cross-entropy and accuracy over the given batches, in evaluation mode and float64.

    The module is left as it was: its training flags are restored. Dropout is off, batch normalisation uses its
    running statistics.

    Args:
        module: Gives logits (B, C) for inputs.
        batches: Pairs of inputs and class indices (B,), such as a DataLoader.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    # On the CPU, since not every device knows float64.
    cost, accuracy = MeanMetric().set_dtype(torch.float64), MeanMetric().set_dtype(torch.float64)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        for inputs, targets in batches:
            logits, targets = module(inputs.to(device)).cpu().to(torch.float64), targets.cpu()
            cost.update(cross_entropy(logits, targets, reduction="none"))
            accuracy.update((logits.argmax(dim=1) == targets).to(torch.float64))
    finally:
        for part, training in modes:
            part.training = training
    return Evaluation(float(cost.compute()), float(accuracy.compute()))
