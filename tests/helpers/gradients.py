"""Per-sample gradients by one backward pass for each sample."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def own_gradients(module: nn.Module, inputs: Tensor, targets: Tensor, wide: list[nn.Parameter]) -> Tensor:
    """The squared norm of each sample's own gradient, with respect to parameters or, without any, the logits."""
    found, device = [], next(module.parameters()).device  # which is not the data's on a GPU
    inputs, targets = inputs.to(device), targets.to(device)
    for x, y in zip(inputs, targets, strict=True):
        logits = module(x[None])
        gradients = torch.autograd.grad(cross_entropy(logits, y[None]), wide or logits)
        found.append(sum(float(gradient.double().square().sum()) for gradient in gradients))
    return torch.tensor(found, dtype=torch.float64)
