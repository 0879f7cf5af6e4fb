"""k-means clustering: Lloyd's algorithm from k-means++ centres, vectorised.

Lloyd, "Least squares quantization in PCM" (1982); Arthur and Vassilvitskii, "k-means++" (2007).
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 8192  # rows that distances are computed for at a time


def k_means(
    points: Tensor, clusters: int, generator: torch.Generator, iterations: int = 20, fit_on: int = 10_000
) -> Tensor:
    """Partition points into clusters of small variance.

    Costs O(`iterations` · `fit_on` · `clusters` · d) for the fit and O(M · `clusters` · d) to assign all points.

    Args:
        points: (M, d), finite; integers count as float32.
        clusters: Largest number of clusters, at least 1. There are fewer where there are fewer different points.
        generator: For the first centres and the part that is fitted on.
        iterations: Largest number of Lloyd's iterations. Default: 20.
        fit_on: The centres are fitted on that many random points, if there are more. Default: 10,000.

    Returns:
        The cluster of each point, numbered from 0 without a gap, (M,) int64.
    """
    points = points if points.is_floating_point() else points.to(torch.float32)
    points = points - points.mean(0)  # the distances below lose digits far from the origin
    sample = points
    if len(points) > fit_on:
        sample = points[torch.randperm(len(points), generator=generator, device="cpu")[:fit_on]]
    centres = _first_centres(sample, clusters, generator)
    assigned = nearest(sample, centres)
    for _ in range(iterations):
        centres = means(sample, assigned, len(centres))
        previous, assigned = assigned, nearest(sample, centres)
        if torch.equal(assigned, previous):
            break
    # A centre may have lost all its points.
    return torch.unique(nearest(points, centres), return_inverse=True)[1]


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The centre that is nearest to each point: (M,) int64 for points (M, d) and centres (k, d)."""
    half = centres.square().sum(1) / 2
    parts = [torch.addmm(half, rows, centres.T, alpha=-1).argmin(1) for rows in points.split(_CHUNK)]
    return torch.cat(parts)


def means(points: Tensor, assigned: Tensor, clusters: int) -> Tensor:
    """The mean of the points of each cluster, (clusters, d); zero for one without points."""
    counts = torch.bincount(assigned, minlength=clusters).clamp_(min=1).to(points.dtype)
    return points.new_zeros(clusters, points.shape[1]).index_add_(0, assigned, points) / counts.unsqueeze(1)


def _first_centres(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre is a point, drawn in proportion to its squared distance from those before."""
    chosen = torch.randint(len(points), (1,), generator=generator, device="cpu")
    distances = (points - points[chosen]).square().sum(1).to(torch.float64)
    for _ in range(clusters - 1):
        cumulative = distances.cumsum(0)
        if float(cumulative[-1]) <= 0:  # every point is a centre
            break
        uniform = torch.rand(1, dtype=torch.float64, generator=generator, device="cpu")
        centre = torch.searchsorted(cumulative, cumulative[-1] * uniform, right=True)
        chosen = torch.cat([chosen, centre])
        distances = torch.minimum(distances, (points - points[centre]).square().sum(1).to(torch.float64))
    return points[chosen]
