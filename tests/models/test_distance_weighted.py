from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest
from torch import Tensor
from torch.nn.functional import normalize

from lightning_as.models.margin_embedding import DistanceWeightedSampling
from tests.helpers.statistics import p_value


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 24, dimensions: int = 5, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    embeddings = torch.randn(size, dimensions, dtype=torch.float64, generator=generator)
    return normalize(embeddings, dim=1), torch.randint(classes, (size,), generator=generator)


def naive_law(
    embeddings: Tensor, labels: Tensor, anchor: int, cutoff: float = 0.5, nonzero_loss_cutoff: float = 1.4
) -> list[float]:
    """The law of one anchor's negatives, from the formula."""
    d = embeddings.shape[1]
    weights = []
    for other in range(len(labels)):
        distance = max(cutoff, math.dist(embeddings[anchor].tolist(), embeddings[other].tolist()))
        if labels[other] == labels[anchor] or distance >= nonzero_loss_cutoff:
            weights.append(0.0)
        else:
            log_w = (2 - d) * math.log(distance) - (d - 3) / 2 * math.log(1 - distance**2 / 4)
            weights.append(math.exp(log_w))
    if sum(weights) == 0:
        weights = [float(label != labels[anchor]) for label in labels]
    total = math.fsum(weights)
    return [weight / total for weight in weights] if total else weights


@pytest.mark.parametrize("dimensions", [2, 3, 5, 64])
@pytest.mark.parametrize("seed", range(5))
def test_the_law_is_that_of_the_formula(dimensions: int, seed: int):
    embeddings, labels = batch(dimensions=dimensions, seed=seed)
    embeddings[3] = embeddings[4]  # at a distance of 0
    for options in ({}, {"cutoff": 0.1, "nonzero_loss_cutoff": 2.0}, {"cutoff": 1.0, "nonzero_loss_cutoff": 1.2}):
        law = DistanceWeightedSampling(**options).probabilities(embeddings, labels)
        expected = [naive_law(embeddings, labels, anchor, **options) for anchor in range(len(labels))]
        torch.testing.assert_close(law, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-12)


def test_a_law_by_hand():
    # In two dimensions w(D) = √(1 − D²/4). Negatives at 60°, 20° and 120°: D is 1, 0.35 (so 0.5) and √3, too far.
    angles = torch.tensor([0.0, 60.0, 20.0, 120.0], dtype=torch.float64).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    law = DistanceWeightedSampling().probabilities(embeddings, torch.tensor([0, 1, 2, 3]))[0]
    near, far = math.sqrt(1 - 1 / 16), math.sqrt(3 / 4)
    expected = torch.tensor([0, far, near, 0], dtype=torch.float64) / (near + far)
    torch.testing.assert_close(law, expected)


def test_negatives_are_drawn_from_the_law():
    embeddings, labels = batch(size=12)
    sampling, generator = DistanceWeightedSampling(), seeded()
    law = sampling.probabilities(embeddings, labels)
    accompanied = torch.bincount(labels)[labels] > 1
    anchor = int(((law > 0.05).sum(1) * accompanied).argmax())
    drawn = []
    for _ in range(2000):
        anchors, _, negatives = sampling(embeddings, labels, generator)
        drawn.append(negatives[anchors == anchor])
    assert int((law[anchor] > 0.05).sum()) >= 3
    assert p_value(torch.cat(drawn), law[anchor]) > 1e-3


def test_weights_are_the_inverse_of_the_density_of_distances():
    # Distances of random pairs follow q; weighted by w, they are uniform between the cut-offs.
    d, generator = 6, seeded()
    pairs = normalize(torch.randn(200_000, 2, d, dtype=torch.float64, generator=generator), dim=2)
    distances = (pairs[:, 0] - pairs[:, 1]).norm(dim=1)

    def density(x: float) -> float:
        return x ** (d - 2) * (1 - x * x / 4) ** ((d - 3) / 2)

    whole = quad(density, 0, 2)[0]
    assert (
        kstest(distances[:2000].numpy(), lambda x: np.array([quad(density, 0, at)[0] for at in x]) / whole).pvalue
        > 1e-3
    )
    inside = distances[(distances >= 0.5) & (distances < 1.4)]
    weights = torch.tensor([1 / density(x) for x in inside.tolist()])
    histogram = torch.histogram(inside.float(), 9, range=(0.5, 1.4), weight=weights.float()).hist
    assert float(histogram.std() / histogram.mean()) < 0.1


def test_each_pair_of_a_class_is_there_once_in_both_orders_with_a_negative():
    embeddings, labels = batch()
    anchors, positives, negatives = DistanceWeightedSampling()(embeddings, labels, seeded())
    expected = [(a, p) for a in range(24) for p in range(24) if a != p and labels[a] == labels[p]]
    assert list(zip(anchors.tolist(), positives.tolist(), strict=True)) == expected
    assert bool((labels[negatives] != labels[anchors]).all())


def test_an_anchor_whose_negatives_are_all_too_far_takes_any_of_them():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 2])
    law = DistanceWeightedSampling().probabilities(embeddings, labels)
    assert law[0].tolist() == [0, 0, 0.5, 0.5]
    assert law[2].tolist() == [0, 0, 0, 1]  # of those not too far there is one
    negatives = DistanceWeightedSampling()(embeddings, labels, seeded())[2]
    assert set(negatives.tolist()) <= {2, 3}


def test_there_may_be_no_triplet_at_all():
    for labels in (torch.zeros(6).long(), torch.arange(6), torch.zeros(1).long()):
        embeddings = torch.randn(len(labels), 3, generator=seeded())
        assert [len(part) for part in DistanceWeightedSampling()(embeddings, labels, seeded())] == [0, 0, 0]


def test_lengths_do_not_matter_and_no_gradient_is_kept():
    embeddings, labels = batch()
    longer = (7 * embeddings).requires_grad_()
    sampling = DistanceWeightedSampling()
    torch.testing.assert_close(sampling.probabilities(longer, labels), sampling.probabilities(embeddings, labels))
    zero = sampling.probabilities(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]))
    assert bool(zero.isfinite().all())


def test_the_generator_decides():
    embeddings, labels = batch()
    first, again, other = (DistanceWeightedSampling()(embeddings, labels, seeded(seed))[2] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("cutoffs", [(0.0, 1.4), (1.4, 1.4), (0.5, 2.1)])
def test_cutoffs_are_distances(cutoffs: tuple[float, float]):
    with pytest.raises(ValueError, match=f"0 < cutoff < nonzero_loss_cutoff <= 2, got {cutoffs[0]} and {cutoffs[1]}"):
        DistanceWeightedSampling(*cutoffs)
