"""What several tests count, draw and compare."""

import io
from typing import Any

import torch
from scipy.stats import chisquare
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def saved(state: Any) -> Any:
    """A state, once written to a file and read again."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def p_value(drawn: Tensor, probabilities: Tensor) -> float:
    """Of the chi-square test of draws against a distribution; cells that expect fewer than 10 are pooled."""
    counts = torch.bincount(drawn, minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0
    descending = probabilities.argsort(descending=True)
    counts, expected = counts[descending], probabilities[descending] / probabilities.sum() * len(drawn)
    cells = max(1, int((expected >= 10).sum()) - 1)  # the last large one takes in all small ones
    pooled = [torch.cat([values[:cells], values[cells:].sum().view(1)]).numpy() for values in (counts, expected)]
    assert pooled[1].min() > 0
    return float(chisquare(*pooled).pvalue)
