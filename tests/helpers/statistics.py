"""What several tests count and compare."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import chisquare
from torch import Tensor


def p_value(drawn: Tensor, probabilities: Tensor) -> float:
    """Of the chi-square test of draws against a law; cells that expect fewer than 10 are pooled."""
    counts = torch.bincount(drawn, minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0
    descending = probabilities.argsort(descending=True)
    counts, expected = counts[descending], probabilities[descending] / probabilities.sum() * len(drawn)
    cells = max(1, int((expected >= 10).sum()) - 1)  # the last large one takes in all small ones
    pooled = [torch.cat([values[:cells], values[cells:].sum().view(1)]).numpy() for values in (counts, expected)]
    assert pooled[1].min() > 0
    return float(chisquare(*pooled).pvalue)


def tensors_in(*things: Any) -> dict[int, int]:
    """Address -> bytes of every tensor storage that is reachable from the objects' attributes."""
    found: dict[int, int] = {}
    visited: set[int] = set()
    queue = list(things)
    while queue:
        thing = queue.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            queue.extend(thing.values())
        elif hasattr(thing, "__dict__"):
            queue.append(vars(thing))
        elif hasattr(thing, "__iter__") and not isinstance(thing, str | bytes):
            queue.extend(thing)
    return found
