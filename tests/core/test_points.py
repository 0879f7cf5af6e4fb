from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core import points as module
from lightning_as.core.bins import Bins
from lightning_as.core.points import Kind, Points
from lightning_as.core.weighted_distribution import WeightedDistribution
from tests.helpers.statistics import double, p_value, saved, seeded


@pytest.fixture(params=[False, True], ids=["at once", "in parts"])
def of_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes points of so many strata, put in order at once or in three parts."""

    def made(count: int, kind: Kind = "strata") -> Points:
        monkeypatch.setattr(module, "_PART", -(-count // 3) if request.param else 2**18)
        return Points(count, kind)

    return made


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 1), (49, 49), (97, 5), (1000, 64), (2**15 + 3, 4097)])
def test_a_pass_has_a_point_of_each_stratum_and_drops_what_makes_no_batch(of_parts: Any, count: int, size: int):
    points, generator, orders = of_parts(count), seeded(), []
    for _ in range(3):
        taken = torch.cat([points.take(size, generator) for _ in range(count // size)])
        strata = (taken * count).long()
        assert len(strata.unique()) == len(strata) == count // size * size
        assert taken.dtype == torch.float64
        assert ((taken >= 0) & (taken < 1)).all()
        orders.append(strata.tolist())
    assert count < 3 or orders[0] != orders[1] != orders[2] != orders[0]


def test_no_rounding_moves_a_point_out_of_its_stratum(of_parts: Any, monkeypatch: pytest.MonkeyPatch):
    """At either end of a stratum, where 1/49 · 49 < 1, and between numbers that float64 has not."""
    for last in (0, 1):
        monkeypatch.setattr(Tensor, "random_", lambda self, steps, generator, last=last: self.fill_(last * (steps - 1)))
        for count in (3, 49, 1000, 60_001, 10**6 + 3):
            strata = (of_parts(count).take(count, seeded()) * count).long()
            assert torch.equal(strata.sort().values, torch.arange(count))


def test_each_point_by_itself_is_uniform_and_so_is_its_place_in_the_stratum(of_parts: Any):
    points, generator = of_parts(7), seeded()
    passes = torch.stack([points.take(7, generator) for _ in range(3000)])
    cells = torch.full((70,), 1 / 70, dtype=torch.float64)
    for at in (0, 1, 3, 6):
        assert p_value((passes[:, at] * 70).long(), cells) > 1e-3


def test_all_at_once_any_two_strata_follow_each_other_alike():
    points, generator = Points(7), seeded()
    neighbours = torch.stack([points.take(7, generator)[:2] for _ in range(3000)]).mul(7).long()
    pairs = torch.full((7, 7), 1 / 42, dtype=torch.float64).fill_diagonal_(0)
    assert p_value(neighbours[:, 0] * 7 + neighbours[:, 1], pairs.view(-1)) > 1e-3


def test_over_all_permutations_each_draw_has_its_probability_and_the_weighted_mean_is_unbiased(
    monkeypatch: pytest.MonkeyPatch,
):
    distribution, values, orders = WeightedDistribution(Bins.single(3)), double(3, -1, 10), list(permutations(range(4)))
    distribution.set(torch.arange(3), double(1, 2, 1))  # whole strata: the place in one makes no difference
    counts, means = torch.zeros(4, 3, dtype=torch.float64), []
    for order in orders:
        monkeypatch.setattr(torch, "randperm", lambda *_, order=order, **__: torch.tensor(order, dtype=torch.int32))
        points, generator = Points(4), seeded()
        draws = [distribution.draw(points.take(2, generator)) for _ in range(2)]
        for at, index in enumerate(torch.cat([draw.indices for draw in draws]).tolist()):
            counts[at, index] += 1
        means += [float((values[draw.indices] / (3 * draw.probabilities)).mean()) for draw in draws]
    assert torch.equal(counts / len(orders), double(0.25, 0.5, 0.25).expand(4, 3))
    assert sum(means) / len(means) == pytest.approx(float(values.mean()), rel=1e-12)


@pytest.mark.parametrize("kind", ["strata", "independent"])
def test_a_saved_pass_goes_on_to_the_bit_wherever_it_is(of_parts: Any, kind: Kind, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    points, generator, sizes = of_parts(50, kind), seeded(), [3, 3, 1, 8, 20, 2, 11, 2, 50, 1]
    for size in 3 * sizes:
        other, state = Points(50, kind), saved(points.state_dict())
        other.take(7, seeded(9))
        other.load_state_dict(state)
        assert other.state_dict() == state
        generators = [torch.Generator(), generator]
        generators[0].set_state(generator.get_state())
        for following in (size, 5, 9):
            expected = points.take(following, generators[1])
            assert torch.equal(other.take(following, generators[0]), expected)


def test_a_batch_must_have_as_many_strata_and_a_state_must_be_of_a_pass():
    with pytest.raises(
        ValueError, match="A batch of 6 has no strata of its own among 5 instances: use smaller batches"
    ):
        Points(5).take(6, seeded())
    assert len(Points(5, "independent").take(6, seeded())) == 6
    good = Points(5).state_dict()
    for wrong in ({"position": 6}, {"start": 6}, {"key": 2**63}):
        with pytest.raises(ValueError, match="damaged"):
            Points(5).load_state_dict(good | wrong)


@pytest.mark.parametrize("period", [2, 3, 4])
def test_in_parts_data_with_a_period_come_in_all_its_phases(period: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PART", 300)  # of 1,200 and some: four or five parts
    for count in (1200, 1203):
        points, generator = Points(count), seeded()
        strata = torch.cat([points.take(100, generator) for _ in range(12)]).mul(count).long().view(12, 100)
        for batch in strata:
            assert int(torch.bincount(batch % period, minlength=period).min()) > 5
