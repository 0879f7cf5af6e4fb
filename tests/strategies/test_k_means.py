import pytest
import torch
from torch import Tensor

from lightning_as.strategies._k_means import k_means, means, nearest
from tests.helpers.statistics import seeded


def cost(points: Tensor, assigned: Tensor) -> float:
    groups = [points[assigned == cluster].double() for cluster in assigned.unique().tolist()]
    return sum(float((own - own.mean(0)).square().sum()) for own in groups)


@pytest.mark.parametrize(("offset", "fit_on"), [(0.0, 10_000), (1e4, 10_000), (0.0, 60)])
@pytest.mark.parametrize("seed", range(3))
def test_groups_that_lie_apart_are_found(seed: int, offset: float, fit_on: int):
    """Five groups of 40 points each, ten times as far apart as they are wide."""
    generator = seeded()
    truth = torch.arange(5).repeat_interleave(40)[torch.randperm(200, generator=generator)]
    points = 10 * torch.eye(5)[truth] + torch.randn(200, 5, generator=generator) / 3 + offset
    found = k_means(points, 5, seeded(seed), fit_on=fit_on)
    assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == 5


def test_iterations_lower_the_cost_to_a_fixed_point_that_the_generator_decides():
    points = torch.randn(300, 3, dtype=torch.float64, generator=seeded(1))
    costs = [cost(points, k_means(points, 7, seeded(3), iterations)) for iterations in (0, 1, 2, 5, 1000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.95 * costs[0]
    found = k_means(points, 7, seeded(3), iterations=1000)
    centres = torch.stack([points[found == cluster].mean(0) for cluster in range(7)])
    assert torch.equal(found, torch.cdist(points, centres).argmin(1))
    assert torch.equal(k_means(points, 7, seeded(4)), k_means(points, 7, seeded(4)))
    assert any(not torch.equal(k_means(points, 7, seeded(4)), k_means(points, 7, seeded(s))) for s in (5, 6))


def test_there_are_no_more_clusters_than_different_points_and_their_numbers_have_no_gap():
    a, b, c, d, e = k_means(torch.tensor([[0], [200], [200], [250], [0]], dtype=torch.uint8), 4, seeded()).tolist()
    assert ({a, b, d}, a, b) == ({0, 1, 2}, e, c)
    assert k_means(torch.ones(6, 2), 3, seeded()).tolist() == [0] * 6
    assert k_means(torch.randn(9, 2, generator=seeded()), 1, seeded()).tolist() == [0] * 9


def test_nearest_and_means_by_loops():
    points = torch.randn(20_000, 3, dtype=torch.float64, generator=seeded())  # more than a chunk
    centres = torch.randn(4, 3, dtype=torch.float64, generator=seeded(1))
    found = nearest(points, centres)
    assert torch.equal(found, torch.stack([(points - centre).square().sum(1) for centre in centres]).argmin(0))
    found[found == 2] = 3
    expected = [points[found == c].mean(0) if c != 2 else torch.zeros(3, dtype=torch.float64) for c in range(4)]
    torch.testing.assert_close(means(points, found, 4), torch.stack(expected))
