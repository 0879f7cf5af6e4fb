import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from torch.nn.functional import normalize

from lightning_as import MNISTDataModule
from lightning_as.models.margin_embedding import DistanceWeightedSampling, MarginEmbedding, recall_at_1
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.tiny import tiny_trainer


def batch(size: int = 24, dimensions: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    embeddings = torch.randn(size, dimensions, dtype=torch.float64, generator=seeded(seed))
    return normalize(embeddings, dim=1), torch.randint(3, (size,), generator=seeded(seed))


def naive(embeddings: Tensor, labels: Tensor, anchor: int, cutoff: float = 0.5, far: float = 1.4) -> Tensor:
    """The distribution of one anchor's negatives, from the formula; all alike if none is near enough."""
    d, weights = embeddings.shape[1], []
    for other in range(len(labels)):
        distance = max(cutoff, math.dist(embeddings[anchor].tolist(), embeddings[other].tolist()))
        near = labels[other] != labels[anchor] and distance < far
        weights.append(distance ** (2 - d) * (1 - distance**2 / 4) ** ((3 - d) / 2) if near else 0.0)
    if sum(weights) == 0:
        weights = [float(label != labels[anchor]) for label in labels]
    return double(*weights) / (math.fsum(weights) or 1)


@pytest.mark.parametrize("dimensions", [2, 3, 5, 64])
def test_the_distribution_is_that_of_the_formula_whatever_the_lengths(dimensions: int):
    for seed, (cutoff, far) in enumerate([(0.5, 1.4), (0.1, 2.0), (1.0, 1.2)]):
        embeddings, labels = batch(dimensions=dimensions, seed=seed)
        embeddings[3] = embeddings[4]  # at a distance of 0
        found = DistanceWeightedSampling(cutoff, far).probabilities((7 * embeddings).requires_grad_(), labels)
        expected = torch.stack([naive(embeddings, labels, anchor, cutoff, far) for anchor in range(len(labels))])
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)
    zero = DistanceWeightedSampling().probabilities(torch.zeros(4, dimensions), torch.tensor([0, 0, 1, 1]))
    assert bool(zero.isfinite().all())


def test_each_pair_of_a_class_gets_a_negative_drawn_for_it():
    embeddings, labels = batch(size=12)
    sampling, generator = DistanceWeightedSampling(), seeded()
    expected = [(a, p) for a in range(12) for p in range(12) if a != p and labels[a] == labels[p]]
    probabilities = sampling.probabilities(embeddings, labels)
    anchor = max({a for a, _ in expected}, key=lambda a: int((probabilities[a] > 0.05).sum()))
    assert (probabilities[anchor] > 0.05).sum() >= 3
    drawn = []
    for _ in range(2000):
        anchors, positives, negatives = sampling(embeddings, labels, generator)
        assert list(zip(anchors.tolist(), positives.tolist(), strict=True)) == expected
        drawn.append(negatives[anchors == anchor])
    assert p_value(torch.cat(drawn), probabilities[anchor]) > 1e-3
    for classes in (torch.zeros(6).long(), torch.arange(6), torch.zeros(1).long()):  # no triplets at all
        assert [len(part) for part in sampling(embeddings[: len(classes)], classes, seeded())] == [0, 0, 0]


def test_the_loss_by_hand():
    module = MarginEmbedding(num_classes=2)
    module.beta.data = torch.tensor([1.2, 1.0])
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    # D² is 2 − 2 cos. Anchor 0: D_ap = √0.8 = 0.894, D_an = 2: max(0, 0.894 − 1.2 + 0.2) = 0 and max(0, −0.6) = 0.
    # Anchor 3: D_ap = √2: 1.414 − 1.0 + 0.2 = 0.614; D_an = 2: max(0, 1 − 2 + 0.2) = 0. One term is not 0.
    loss = module.margin_loss(embeddings, labels, (torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([3, 0])))
    assert float(loss.detach()) == pytest.approx(math.sqrt(2) - 0.8, rel=1e-5)
    loss.backward()
    assert module.beta.grad.tolist() == [0, -1]
    # Closer together: the negative counts, at √0.4, and the positive, at √0.8, does not.
    loss = module.margin_loss(embeddings, labels, (torch.tensor([1]), torch.tensor([0]), torch.tensor([2])))
    assert float(loss.detach()) == pytest.approx(1.2 - math.sqrt(0.4) + 0.2, rel=1e-5)
    assert float(module.margin_loss(embeddings, labels, (torch.zeros(0).long(),) * 3).detach()) == 0
    same = torch.ones(3, 2, requires_grad=True)  # points that coincide have a gradient, too
    module.margin_loss(same, labels[:3], tuple(torch.tensor([[0], [1], [1]]))).backward()
    assert bool(same.grad.isfinite().all())


def test_recall_by_loops():
    embeddings = normalize(torch.randn(1500, 4, generator=seeded()), dim=1)  # more than a chunk
    labels = torch.randint(3, (1500,), generator=seeded(1))
    distances = torch.cdist(embeddings.double(), embeddings.double()).fill_diagonal_(math.inf)
    expected = float((labels[distances.argmin(1)] == labels).double().mean())
    assert float(recall_at_1(embeddings, labels)) == pytest.approx(expected, abs=2e-3)
    together = torch.eye(4).repeat_interleave(2, dim=0)
    assert float(recall_at_1(together, torch.arange(4).repeat_interleave(2))) == 1
    assert float(recall_at_1(together, torch.arange(8))) == 0


@pytest.mark.filterwarnings("ignore:::lightning")
def test_it_learns_digits_on_the_unit_sphere_and_keeps_its_draws_in_checkpoints(tmp_path: Path):
    seed_everything(0, verbose=False)
    module, other = MarginEmbedding(dimensions=16, negatives_seed=1), MarginEmbedding(negatives_seed=2)
    trainer = tiny_trainer(tmp_path, limit_train_batches=20, limit_val_batches=3, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=MNISTDataModule(batch_size=64, seed=0))
    assert float(trainer.callback_metrics["val/recall@1"]) > 0.8
    found = module.eval()(torch.randn(5, 1, 28, 28))
    assert found.shape == (5, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    expected = module.sampling(*batch(), module._generator)[2]
    assert not torch.equal(other.sampling(*batch(), other._generator)[2], expected)
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(other.sampling(*batch(), other._generator)[2], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be at least 1, got 0"),
        ({"dimensions": 1}, "`dimensions` must be at least 2, got 1"),
        ({"margin": -0.1}, "`margin` must not be negative"),
        ({"beta": 1.9}, "their sum at most 2, the largest distance; got 0.2 and 1.9"),
        ({"learning_rate": 0.0}, "`learning_rate` must be finite and positive, got 0.0"),
        ({"cutoff": 0.0}, "0 < cutoff < nonzero_loss_cutoff <= 2, got 0.0 and 1.4"),
        ({"cutoff": 1.4}, "0 < cutoff < nonzero_loss_cutoff <= 2, got 1.4 and 1.4"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        MarginEmbedding(**options)
