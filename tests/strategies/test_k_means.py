from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_as.strategies._k_means import k_means, means, nearest


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(dtype: torch.dtype = torch.float64, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Five groups of 40 points each, ten times as far apart as they are wide."""
    generator = seeded()
    truth = torch.arange(5).repeat_interleave(40)[torch.randperm(200, generator=generator)]
    centres = 10 * torch.eye(5, dtype=torch.float64)
    noise = torch.randn(200, 5, dtype=torch.float64, generator=generator) / 3
    return (centres[truth] + noise + offset).to(dtype), truth


def cost(points: Tensor, assigned: Tensor) -> float:
    """Sum of squared distances from the means, by loops."""
    total = 0.0
    for cluster in assigned.unique().tolist():
        own = points[assigned == cluster].double()
        total += float((own - own.mean(0)).square().sum())
    return total


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_groups_that_lie_apart_are_found(seed: int, offset: float):
    points, truth = blobs(torch.float32, offset)
    found = k_means(points, 5, seeded(seed))
    pairs = {(a, b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)}
    assert len(pairs) == 5


def test_the_result_is_a_fixed_point_of_lloyds_iteration():
    points = torch.randn(300, 3, dtype=torch.float64, generator=seeded(1))
    found = k_means(points, 7, seeded(2), iterations=1000)
    centres = torch.stack([points[found == cluster].mean(0) for cluster in range(7)])
    expected = [min(range(7), key=lambda c: float((point - centres[c]).norm())) for point in points]
    assert found.tolist() == expected


def test_iterations_lower_the_cost():
    points = torch.randn(500, 4, dtype=torch.float64, generator=seeded(1))
    costs = [cost(points, k_means(points, 8, seeded(3), iterations)) for iterations in (0, 1, 2, 5, 50)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.95 * costs[0]


def test_first_centres_are_spread_in_proportion_to_squared_distances():
    # Two heaps that are far apart: the second centre is never in the first heap, whose points coincide.
    points = torch.cat([torch.zeros(99, 1), torch.ones(1, 1)])
    for seed in range(20):
        assert k_means(points, 2, seeded(seed), iterations=0).unique(return_counts=True)[1].tolist() in (
            [99, 1],
            [1, 99],
        )


def test_there_are_no_more_clusters_than_different_points_and_their_numbers_have_no_gap():
    points = torch.tensor([[0.0], [1.0], [1.0], [5.0], [0.0]])
    found = k_means(points, 4, seeded())
    assert found.unique().tolist() == [0, 1, 2]
    assert found[0] == found[4]
    assert found[1] == found[2]
    assert k_means(torch.ones(6, 2), 3, seeded()).tolist() == [0] * 6
    assert k_means(torch.randn(1, 2, generator=seeded()), 3, seeded()).tolist() == [0]


def test_one_cluster_is_all():
    assert k_means(blobs()[0], 1, seeded()).unique().tolist() == [0]


def test_bytes_are_points_too():
    assert k_means(torch.tensor([[0], [255], [254], [1]], dtype=torch.uint8), 2, seeded()).tolist() in (
        [0, 1, 1, 0],
        [1, 0, 0, 1],
    )


def test_a_part_is_enough_to_fit_on_and_all_are_assigned():
    points, truth = blobs()
    found = k_means(points, 5, seeded(1), fit_on=60)
    assert len({(a, b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)}) == 5


def test_the_generator_decides():
    points = torch.randn(200, 2, generator=seeded())
    assert torch.equal(k_means(points, 6, seeded(1)), k_means(points, 6, seeded(1)))
    assert any(not torch.equal(k_means(points, 6, seeded(1)), k_means(points, 6, seeded(s))) for s in (2, 3))


def test_nearest_and_means_by_loops():
    points = torch.randn(20_000, 3, dtype=torch.float64, generator=seeded())  # more than a chunk
    centres = torch.randn(4, 3, dtype=torch.float64, generator=seeded(1))
    found = nearest(points, centres)
    distances = torch.stack([(points - centre).square().sum(1) for centre in centres], dim=1)
    assert torch.equal(found, distances.argmin(1))
    found[found == 2] = 3
    expected = [points[found == c].mean(0) if c != 2 else torch.zeros(3, dtype=torch.float64) for c in range(4)]
    torch.testing.assert_close(means(points, found, 4), torch.stack(expected))
