from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_as import MarginEmbedding, MNISTDataModule
from lightning_as.models.margin_embedding import recall_at_1


def test_the_loss_by_hand():
    module = MarginEmbedding(num_classes=2)
    module.beta.data = torch.tensor([1.2, 1.0])
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    triplets = (torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([3, 0]))
    # D² is 2 − 2 cos. Anchor 0: D_ap = √0.8 = 0.894, D_an = 2: max(0, 0.894 − 1.2 + 0.2) = 0 and max(0, −0.6) = 0.
    # Anchor 3: D_ap = √2: 1.414 − 1.0 + 0.2 = 0.614; D_an = 2: max(0, 1 − 2 + 0.2) = 0. One term is not 0.
    loss = module.margin_loss(embeddings, labels, triplets)
    assert float(loss.detach()) == pytest.approx(math.sqrt(2) - 0.8, rel=1e-5)
    loss.backward()
    assert module.beta.grad is not None
    assert module.beta.grad.tolist() == [0, -1]
    # Closer together: both negatives count, too.
    loss = module.margin_loss(embeddings, labels, (torch.tensor([1]), torch.tensor([0]), torch.tensor([2])))
    near, far = math.sqrt(0.8) - 1.2 + 0.2, 1.2 - math.sqrt(0.4) + 0.2
    assert near < 0
    assert float(loss.detach()) == pytest.approx(far, rel=1e-5)


def test_no_triplets_are_no_loss_and_points_that_coincide_have_a_gradient():
    module = MarginEmbedding(num_classes=1)
    embeddings = torch.ones(3, 2, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = module.margin_loss(embeddings, torch.zeros(3).long(), (none, none, none))
    assert float(loss.detach()) == 0
    loss.backward()
    one, two = torch.tensor([0]), torch.tensor([1])
    module.margin_loss(embeddings, torch.zeros(3).long(), (one, two, two)).backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())


def test_embeddings_lie_on_the_unit_sphere():
    module = MarginEmbedding(dimensions=7)
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(images).norm(dim=1), torch.ones(5))
    assert module(images).shape == (5, 7)


def test_recall_by_loops():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(1500, 4, generator=generator), dim=1)  # more than a chunk
    labels = torch.randint(3, (1500,), generator=generator)
    hits = 0
    for i in range(1500):
        distances = (embeddings - embeddings[i]).norm(dim=1)
        distances[i] = math.inf
        hits += int(labels[distances.argmin()] == labels[i])
    assert float(recall_at_1(embeddings, labels)) == pytest.approx(hits / 1500, abs=2e-3)
    together = torch.eye(4).repeat_interleave(2, dim=0)
    assert float(recall_at_1(together, torch.arange(4).repeat_interleave(2))) == 1
    assert float(recall_at_1(together, torch.arange(8))) == 0


@pytest.mark.filterwarnings("ignore:::lightning")
def test_it_learns_digits(tmp_path: Path):
    seed_everything(0, verbose=False)
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=20,
        limit_val_batches=3,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(MarginEmbedding(dimensions=16), datamodule=MNISTDataModule(batch_size=64, seed=0))
    assert float(trainer.callback_metrics["val/recall@1"]) > 0.8


def test_a_checkpoint_keeps_the_state_of_the_draws():
    images, labels = torch.zeros(6, 2), torch.arange(6) % 3
    module, other = MarginEmbedding(negatives_seed=1), MarginEmbedding(negatives_seed=2)
    module.sampling(images, labels, module._generator)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    expected = module.sampling(images, labels, module._generator)[2]
    assert not torch.equal(other.sampling(images, labels, other._generator)[2], expected)
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(other.sampling(images, labels, other._generator)[2], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be at least 1, got 0"),
        ({"dimensions": 1}, "`dimensions` must be at least 2, got 1"),
        ({"margin": -0.1}, "`margin` must not be negative"),
        ({"beta": 1.9}, "their sum at most 2, the largest distance; got 0.2 and 1.9"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"cutoff": 0.0}, "0 < cutoff < nonzero_loss_cutoff <= 2, got 0.0 and 1.4"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        MarginEmbedding(**options)
