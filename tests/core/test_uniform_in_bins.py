from __future__ import annotations

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.uniform_in_bins import UniformInBins
from tests.helpers.statistics import p_value

TAGS = torch.tensor([2, 0, 1, 1, 2, 2, 1, 2, 2, 2])


def test_uniforms_go_to_the_members_in_equal_steps():
    inside = UniformInBins(Bins(TAGS))
    for bin_, members in enumerate([[1], [2, 3, 6], [0, 4, 5, 7, 8, 9]]):
        steps = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
        assert inside.draw(torch.full((len(members),), bin_), steps).tolist() == members


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 1000, 6131, 2**16, 2**16 + 1])
def test_the_ends_of_the_uniforms_stay_in_the_bin(size):
    tags = torch.zeros(size + 2, dtype=torch.int64)
    tags[0], tags[-1] = 1, 2
    inside = UniformInBins(Bins(tags))
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert inside.draw(torch.zeros(2, dtype=torch.int64), ends).tolist() == [1, size]


def test_draws_follow_the_law():
    inside, generator = UniformInBins(Bins(TAGS)), torch.Generator().manual_seed(0)
    bins = torch.randint(3, (60_000,), generator=generator)
    drawn = inside.draw(bins, torch.rand(60_000, dtype=torch.float64, generator=generator))
    assert torch.equal(TAGS[drawn], bins)
    law = inside.probability(TAGS)
    assert law.tolist() == [1 / [1, 3, 6][tag] for tag in TAGS.tolist()]
    assert p_value(drawn, law / 3) > 1e-3
