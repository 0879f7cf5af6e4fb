"""A tiny data set, DataModule and module as users have them, and what watches a fit of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataModule, AdaptiveSampling, Draw
from lightning_as.data.image_data import ImageDataModule, ImageDataset

BATCH, EPOCH = 16, 6  # instances in a batch, batches in an epoch


def tiny_dataset(size: int = BATCH * EPOCH) -> TensorDataset:
    """Instances of 8 features in 4 classes of unequal sizes. The features are multiples of 1/16."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(size, 8, generator=generator).mul(16).round() / 16
    return TensorDataset(features, (features @ torch.randn(8, 4, generator=generator)).argmax(1))


class TinyData(LightningDataModule):
    """A DataModule as users have them."""

    def __init__(self, size: int = BATCH * EPOCH, batch_size: int = BATCH, **options: Any) -> None:
        super().__init__()
        self.dataset = tiny_dataset(size)
        self.batch_size = batch_size
        self.options = options

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        # Batches of the very size that is trained on, so that only the mode tells the two apart.
        return DataLoader(self.dataset, BATCH)


class ReadyData(ImageDataModule):
    """The same data in a DataModule like those of the package, which keep one sampler for all fits."""

    num_classes, dims = 4, (1, 1, 8)

    def load(self, part: Any) -> ImageDataset:
        return ImageDataset(*tiny_dataset().tensors)


def make_data(kind: str, num_workers: int = 0) -> AdaptiveDataModule | ReadyData:
    """The data, "wrapped" or "ready", with workers that live for several epochs, if any."""
    if kind == "ready":
        return ReadyData(BATCH, num_workers)
    return AdaptiveDataModule(TinyData(num_workers=num_workers, persistent_workers=num_workers > 0))


class Tiny(LightningModule):
    """A module as users have them."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", cross_entropy(self.net(x), y))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Recording(AdaptiveSampling):
    """Keeps what it was told, over all its fits. P moves every third batch, so that an epoch has several laws."""

    def __init__(self, beta: int = 3, delta_p: float = 0.5, **options: Any) -> None:
        super().__init__(beta=beta, delta_p=delta_p, **options)
        self.told: list[tuple[Draw, Tensor, Tensor]] = []

    def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.told.append((draw, losses.clone(), bounds.clone()))
        super().update(draw, losses, bounds)

    def indices(self) -> list[list[int]]:
        return [draw.indices.tolist() for draw, _, _ in self.told]


class Watch(Callback):
    """Keeps the batches that were trained on, and the logits of each, by means of its own."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.logits: list[Tensor] = []
        self._logits: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.get_submodule("net").register_forward_hook(self._see)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        assert self._logits is not None
        self.logits.append(self._logits)

    def _see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training:
            self._logits = output.detach()


def tiny_trainer(folder: Path, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**{**defaults, **options})


def tell(expected: int, strategy: Recording, watch: Watch) -> None:
    """Check that the strategy was told of the `expected` batches that were trained on, with the losses of each."""
    features, labels = tiny_dataset().tensors
    assert len(strategy.told) == len(watch.batches) == expected
    for (draw, losses, bounds), (x, y), logits in zip(strategy.told, watch.batches, watch.logits, strict=True):
        wide = logits if logits.dtype == torch.float64 else logits.float()
        assert torch.equal(x.double(), features[draw.indices].double())
        assert torch.equal(y, labels[draw.indices])
        assert torch.equal(losses, cross_entropy(wide, y, reduction="none").double())
        assert not losses.requires_grad
        assert bounds.shape == (BATCH,)
        assert bool((bounds > 0).all())


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested states differ."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{path}.{key}")]
    same = torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
    return [] if same else [path]
