from __future__ import annotations

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution, last_occurrence
from lightning_as.core.smoothed_where_drawn import SmoothedWhereDrawn
from thesis.smoothed_everywhere import SmoothedEverywhere

pytestmark = pytest.mark.usefixtures("implementation")

TAGS = torch.tensor([0] * 6 + [1] + [2] * 20 + [0] * 5)


@pytest.fixture(params=[SmoothedEverywhere, SmoothedWhereDrawn])
def distribution(request: pytest.FixtureRequest) -> InstanceDistribution:
    return request.param(Bins(TAGS), delta_q=0.1)


def test_it_starts_uniform_in_each_bin(distribution: InstanceDistribution):
    expected = 1 / torch.tensor(distribution.bins.sizes).double()[TAGS]
    torch.testing.assert_close(distribution.probabilities(), expected, rtol=1e-15, atol=0)
    assert distribution.share_seen == 0


def test_draws_carry_their_probability_and_stay_in_their_bin(distribution: InstanceDistribution):
    generator = torch.Generator().manual_seed(0)
    everyone = torch.arange(len(TAGS))
    distribution.update(everyone, TAGS, 1 + everyone.double())
    distribution.update(torch.tensor([0, 1, 12]), torch.tensor([0, 0, 2]), torch.tensor([0.0, 1e-9, 40.0]).double())
    bins = torch.randint(3, (1000,), generator=generator)
    uniforms = torch.rand(distribution.uniforms, 1000, dtype=torch.float64, generator=generator)
    indices, q = distribution.draw(bins, uniforms)
    law = distribution.probabilities()
    assert torch.equal(TAGS[indices], bins)
    torch.testing.assert_close(q, law[indices], rtol=1e-12, atol=0)
    assert torch.equal(distribution.probability(indices, bins), law[indices])
    sums = torch.zeros(3, dtype=torch.float64).index_add_(0, TAGS, law)
    torch.testing.assert_close(sums, torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert distribution.share_seen == 1


def test_the_last_occurrence_stands_for_all():
    assert last_occurrence(torch.tensor([7, 3, 7, 9, 3])).tolist() == [2, 4, 2, 3, 4]
    assert last_occurrence(torch.tensor([], dtype=torch.int64)).tolist() == []
