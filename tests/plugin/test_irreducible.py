import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, RHOLoss, cli
from lightning_as.data.dataloader import as_it_is
from lightning_as.data.image_data import ImageDataset
from lightning_as.plugin.irreducible import irreducible_losses
from tests.helpers.tiny import Noisy, refused, tiny_dataset, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
N = 101


class Remembering(Noisy):
    """Keeps what it is trained on, and changes its batches before and after they come to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[Tensor] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


def numbered() -> TensorDataset:
    """Instances whose first feature tells which they are."""
    features, labels = tiny_dataset(N).tensors
    features[:, 0] = torch.arange(N) / N
    return TensorDataset(features, labels)


@pytest.fixture
def losses_of(tmp_path: Path) -> Callable[..., Tensor]:
    def losses_of(loader: Any = None, make: Any = Remembering, logits_from: str = "net", **options: Any) -> Tensor:
        loader = DataLoader(numbered(), 16) if loader is None else loader
        trainer = partial(tiny_trainer, tmp_path, max_epochs=2)
        return irreducible_losses(make, loader, trainer, logits_from=logits_from, **options)

    return losses_of


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_half_is_scored_by_a_model_that_was_trained_on_the_other(losses_of: Any, num_workers: int):
    made: list[Remembering] = []

    def make() -> LightningModule:
        made.append(Remembering())
        return made[-1]

    random, (features, labels) = torch.get_rng_state(), numbered().tensors
    losses = losses_of(DataLoader(numbered(), 16, num_workers=num_workers), make)
    assert torch.equal(torch.get_rng_state(), random)
    assert losses.shape == (N,)
    assert losses.dtype == torch.float64
    seen = [set(((torch.cat(one.trained)[:, 0] / 2 - 1) * N).round().long().tolist()) for one in made]
    assert not seen[0] & seen[1]
    assert [len(module.trained) for module in made] == [6, 6]  # two epochs of 50 or 51 instances in batches of 16
    for module, other in zip(made, seen[::-1], strict=True):
        with torch.no_grad():
            expected = cross_entropy(module.eval().net((features + 1) * 2), labels, reduction="none").double()
        scored = torch.tensor(sorted(other))
        torch.testing.assert_close(losses[scored], expected[scored], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(losses[scored], losses[scored].mean())
    assert torch.equal(RHOLoss(losses).irreducible_losses, losses)


def test_the_seed_decides_and_any_train_loader_will_do(losses_of: Any):
    first, whole = losses_of(), DataLoader(ImageDataset(*numbered().tensors), 16, collate_fn=as_it_is)
    for loader in (AdaptiveDataLoader(numbered(), 16), whole):
        assert torch.equal(losses_of(loader), first)
    assert not torch.equal(losses_of(seed=1), first)


def test_losses_of_ones_own_and_named_targets(losses_of: Any):
    own = losses_of(target_key=1, per_sample_loss=lambda logits, targets: targets.double())
    assert torch.equal(own, numbered().tensors[1].double())
    with refused("`logits_from='head'` is no submodule of Remembering"):
        losses_of(logits_from="head")


def test_batches_of_any_form_are_scored_by_a_function_and_what_cannot_be_is_known_before_training(losses_of: Any):
    class Triples(Remembering):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([batch[0], batch[2]], batch_idx)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

        on_after_batch_transfer = on_before_batch_transfer  # pyright: ignore[reportAssignmentType]

    made: list[Any] = []
    features, labels = numbered().tensors
    loader = DataLoader(TensorDataset(features, features, labels), 16)
    with refused("the batch is a list of 3: say what gives its logits, `forward=lambda batch: …`"):
        losses_of(loader, lambda: made.append(Triples()) or made[-1], target_key=2)
    assert [len(module.trained) for module in made] == [0]
    own = losses_of(loader, Triples, target_key=2, forward=lambda module, batch: module.net(batch[0]))
    assert own.shape == (N,)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_makes_the_file_of_the_preset(mnist: Any, tmp_path: Path, monkeypatch: Any, capsys: Any):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lightning-as", *arguments])
        cli.main()
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])
    assert "2000 losses" in run("irreducible-losses", "--epochs=2", "--batch_size=64")
    losses = torch.load("irreducible_losses.pt", weights_only=True)
    assert losses.shape == (2000,)
    assert 0.01 < float(losses.mean()) < 1.5  # chance is 2.3
