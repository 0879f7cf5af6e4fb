import math

import pytest
import torch

from lightning_as.strategies import scores
from lightning_as.strategies.scores import entropies_of
from tests.helpers.statistics import double, seeded


@pytest.mark.parametrize("block", [1, 10, 2**20])
def test_entropies_are_those_of_the_softmax_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scores, "_BLOCK", block)
    logits = 3 * torch.randn(20, 5, dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(entropies_of(logits), torch.distributions.Categorical(logits=logits).entropy())
    assert entropies_of(logits.half()).dtype == torch.float64
    assert entropies_of(double(1e4, 0, -1e4).expand(3, 3)).tolist() == [0] * 3
    for odd in (math.nan, math.inf, -math.inf):
        logits[3, 1] = odd
        assert entropies_of(logits).isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3, 4)])
def test_logits_of_no_classes_have_none(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"logits \(M, C\) with C ≥ 2, but they are \(6.*: let `logits_from` name"):
        entropies_of(torch.zeros(shape))
