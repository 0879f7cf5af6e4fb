from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, RHOLoss, cli
from lightning_as.data.dataloader import as_it_is
from lightning_as.data.image_data import ImageDataset
from lightning_as.plugin.irreducible import irreducible_losses
from tests.helpers.tiny import Tiny, tiny_dataset, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
N = 101


class Remembering(Tiny):
    """Keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))
        self.trained: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[[], Trainer]:
    return lambda: tiny_trainer(tmp_path, max_epochs=2)


def numbered() -> TensorDataset:
    """Instances whose first feature tells which they are."""
    features, labels = tiny_dataset(N).tensors
    features[:, 0] = torch.arange(N) / N
    return TensorDataset(features, labels)


def rows(features: Tensor) -> set[int]:
    return set((features[:, 0] * N).round().long().tolist())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_half_is_scored_by_a_model_that_was_trained_on_the_other(
    make_trainer: Callable[[], Trainer], num_workers: int
):
    made: list[Remembering] = []

    def make() -> LightningModule:
        made.append(Remembering())
        return made[-1]

    dataset = numbered()
    random = torch.get_rng_state()
    losses = irreducible_losses(make, DataLoader(dataset, 16, num_workers=num_workers), make_trainer, logits_from="net")
    assert torch.equal(torch.get_rng_state(), random)
    assert losses.shape == (N,)
    assert losses.dtype == torch.float64
    seen = [rows(torch.cat(module.trained)) for module in made]
    assert len(made) == 2
    assert not seen[0] & seen[1]
    assert [len(module.trained) for module in made] == [6, 6]  # two epochs of 50 or 51 instances in batches of 16
    features, labels = dataset.tensors
    for module, other in zip(made, seen[::-1], strict=True):
        module.eval()
        with torch.no_grad():
            expected = cross_entropy(module.net(features), labels, reduction="none").double()
        scored = torch.tensor(sorted(other))
        torch.testing.assert_close(losses[scored], expected[scored], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(losses[scored], losses[scored].mean())
    strategy = RHOLoss(losses)
    assert torch.equal(strategy.irreducible_losses, losses)


def test_the_seed_decides_halves_and_modules(make_trainer: Callable[[], Trainer]):
    found = [
        irreducible_losses(Remembering, DataLoader(numbered(), 16), make_trainer, seed, "net") for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_any_train_loader_will_do(make_trainer: Callable[[], Trainer]):
    dataset = numbered()
    expected = irreducible_losses(Remembering, DataLoader(dataset, 16), make_trainer, logits_from="net")
    whole = DataLoader(ImageDataset(*dataset.tensors), 16, collate_fn=as_it_is)
    for loader in (AdaptiveDataLoader(dataset, 16), whole):
        assert torch.equal(irreducible_losses(Remembering, loader, make_trainer, logits_from="net"), expected)


def test_losses_of_ones_own_and_named_targets(make_trainer: Callable[[], Trainer]):
    losses = irreducible_losses(
        Remembering,
        DataLoader(numbered(), 16),
        make_trainer,
        logits_from="net",
        target_key=1,
        per_sample_loss=lambda logits, targets: targets.double(),
    )
    assert torch.equal(losses, tiny_dataset(N).tensors[1].double())


@pytest.mark.filterwarnings("ignore")
def test_the_command_makes_the_file_that_the_preset_names(
    mnist: dict[str, ImageDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])
    monkeypatch.setattr(sys, "argv", ["lightning-as", "irreducible-losses", "--epochs=2", "--batch_size=64"])
    cli.main()
    losses = torch.load("irreducible_losses.pt", weights_only=True)
    assert losses.shape == (2000,)
    assert 0.01 < float(losses.mean()) < 1.5  # chance is 2.3
    assert "2000 losses" in capsys.readouterr().out
    monkeypatch.setattr(
        sys,
        "argv",
        [
            *["lightning-as", "fit", "--config", "rho_loss", "--trainer.max_epochs=1"],
            *["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu"],
        ],
    )
    cli.main()
    assert "training cost" in capsys.readouterr().out
