import pytest
import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.core.two_levels import InsideBins, TwoLevels
from lightning_as.core.uniform_in_bins import UniformInBins
from tests.helpers.statistics import double, p_value, seeded

pytestmark = pytest.mark.usefixtures("execution")

TAGS = torch.arange(5).repeat_interleave(torch.tensor([40, 1, 17, 3, 90]))[torch.randperm(151, generator=seeded())]
P = double(0.3, 0.2, 0.0, 0.1, 0.4)
FLOORS = pytest.mark.parametrize("floor", [0.0, 0.2])
LOWER = pytest.mark.parametrize("lower", ["uniform", "learnt"])


def fresh(lower: str) -> InsideBins:
    return UniformInBins(Bins(TAGS)) if lower == "uniform" else InstanceDistribution(Bins(TAGS), delta_q=0.0)


def levels_of(lower: str, floor: float) -> tuple[TwoLevels, Tensor]:
    """Two levels, and what r is by its formula."""
    inside, generator = fresh(lower), seeded(1)
    for _ in range(30 if isinstance(inside, InstanceDistribution) else 0):
        indices = torch.randint(151, (20,), generator=generator)
        scores = torch.rand(20, dtype=torch.float64, generator=generator).pow(4)
        inside.update(indices, TAGS[indices], scores.masked_fill(scores < 0.05, 0))
    q = inside.probability(torch.arange(151), TAGS)
    return TwoLevels(Bins(TAGS), BinDistribution(P), inside, floor), (1 - floor) * P[TAGS] * q + floor / 151


@FLOORS
@LOWER
def test_draws_follow_r_and_carry_it(lower: str, floor: float):
    levels, r = levels_of(lower, floor)
    mass = torch.zeros(5, dtype=torch.float64).index_add_(0, TAGS, r)
    assert float(r.sum()) == pytest.approx(1, rel=1e-12)
    torch.testing.assert_close(levels.probabilities(), r, rtol=1e-12, atol=0)
    torch.testing.assert_close(levels.probability(torch.tensor([7, 7, 150])), r[[7, 7, 150]], rtol=1e-12, atol=0)
    torch.testing.assert_close(levels.bin_probabilities(), mass, rtol=1e-12, atol=0)
    draw = levels.draw(200_000, seeded(2))
    assert p_value(draw.indices, r) > 1e-3
    assert torch.equal(draw.bins, TAGS[draw.indices])
    torch.testing.assert_close(draw.probabilities, r[draw.indices], rtol=1e-12, atol=0)
    torch.testing.assert_close(draw.within, (r / mass[TAGS])[draw.indices], rtol=1e-12, atol=0)
    pairs = draw.bins.view(2, -1)  # neighbours in a batch are independent
    share = torch.bincount(pairs[0] * 5 + pairs[1], minlength=25) / 100_000
    torch.testing.assert_close(share, torch.outer(mass, mass).view(-1), atol=0.01, rtol=0, check_dtype=False)


@FLOORS
@LOWER
def test_one_uniform_decides_floor_bin_and_instance(lower: str, floor: float, monkeypatch: pytest.MonkeyPatch):
    """Uniforms in equal steps hit each instance as often as r says, in the floor's part and in the rest."""
    levels, r = levels_of(lower, floor)
    steps = (torch.arange(10**6, dtype=torch.float64) + 0.5) / 10**6
    monkeypatch.setattr(torch, "rand", lambda *_, **__: steps.clone())
    counts = torch.bincount(levels.draw(10**6, seeded()).indices, minlength=151)
    torch.testing.assert_close(counts.double(), r * 10**6, rtol=0, atol=3)
    ends = double(0, floor, floor - 2**-54, 1 - 2**-53).clamp_(min=0)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends.clone())
    assert (r[levels.draw(4, seeded()).indices] > 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 6131, 2**16 + 1])
def test_the_ends_of_the_uniforms_stay_in_the_bin(size: int):
    inside = UniformInBins(Bins([1] + [0] * size + [2]))
    assert inside.draw(torch.zeros(2, dtype=torch.int64), double(0, 1 - 2**-53))[0].tolist() == [1, size]
