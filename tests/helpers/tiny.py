"""A tiny data set, DataModule and module as users have them, and what watches a fit of them."""

import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback
from lightning_as.data.image_data import ImageDataModule, ImageDataset
from tests.helpers.recording import Recording
from tests.helpers.statistics import seeded

BATCH, EPOCH = 16, 6  # instances in a batch, batches in an epoch


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def refused(message: str) -> Any:
    return pytest.raises(MisconfigurationException, match=message)


def tiny_dataset(size: int = BATCH * EPOCH) -> TensorDataset:
    """Instances of 8 features in 4 classes of unequal sizes. The features are multiples of 1/16."""
    generator = seeded()
    features = torch.randn(size, 8, generator=generator).mul(16).round() / 16
    return TensorDataset(features, (features @ torch.randn(8, 4, generator=generator)).argmax(1))


class TinyData(LightningDataModule):
    def __init__(self, size: int = BATCH * EPOCH, batch_size: int = BATCH, **options: Any) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.options = tiny_dataset(size), batch_size, options

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
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Noisy(Tiny):
    """Has everything that a forward pass could disturb: batch norm, dropout, and random numbers of all libraries."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(16, momentum=None)  # the count of its batches matters, too
        self.net = nn.Sequential(nn.Linear(8, 16), norm, nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))
        self.frozen = nn.Dropout().eval()
        self.unused = nn.Linear(3, 3)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        _ = random.random(), np.random.rand(), torch.rand(1)  # as augmentation would
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise = 0.01 * float(np.random.rand()) + 0.01 * random.random()
        return super().training_step((batch[0] + noise, batch[1]), batch_idx)


class Manual(Tiny):
    """Steps by itself, twice in a batch for good measure, and returns nothing, as Lightning's own examples do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for _ in range(2):
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


class Watch(Callback):
    """Keeps the batches that were trained on, and the logits of each, by means of its own."""

    def __init__(self) -> None:
        self.batches, self.logits, self._logits, self._last = list[Any](), list[Tensor](), None, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if hasattr(pl_module, "net"):
            pl_module.get_submodule("net").register_forward_hook(self._see)
        self._last = not pl_module.automatic_optimization  # counts then, and not the first, before any update

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._logits = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(move_data_to_device(batch, "cpu"))
        if self._logits is not None:
            self.logits.append(self._logits)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training and isinstance(output, Tensor) and (self._last or self._logits is None):
            self._logits = output.detach().cpu()


def tiny_trainer(folder: Path, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU, or on what the environment says, such as `cuda`, where there is one."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    accelerator = os.environ.get("TESTS_ACCELERATOR", "cpu")
    defaults = {"accelerator": accelerator, "max_epochs": 1, "default_root_dir": folder, **dict.fromkeys(quiet, False)}
    return Trainer(**{**defaults, **options})


class Fitted(NamedTuple):
    """What a fit leaves behind."""

    strategy: Any
    watch: Watch
    trainer: Any
    module: Any
    messages: list[str]  # its warnings


def tiny_fit(
    folder: Path, sampling=None, make=Tiny, data=None, ours=None, callbacks=(), seed=0, ckpt_path=None, **options: Any
) -> Fitted:
    """Fit a module with the callback, a Watch, and options of the Trainer, from a random state of its own.

    Unless it is said otherwise by a new `Recording`, on the tiny data, wrapped, from the logits of "net", and without
    validation; `ours` are options of the callback, and the data "own" are what the module has.
    """
    seed_everything(seed, verbose=False)
    module, strategy, watch = make(), Recording() if sampling is None else sampling, Watch()
    trained = torch.compile(module, backend="aot_eager") if options.pop("compile", False) else module
    callback = AdaptiveSamplingCallback(strategy, **{"logits_from": "net", **(ours or {})})
    saves = any(isinstance(one, Checkpoint) for one in callbacks)
    defaults = {"enable_checkpointing": saves, "limit_val_batches": 0}
    trainer = tiny_trainer(folder, callbacks=[callback, watch, *callbacks], **{**defaults, **options})
    data = AdaptiveDataModule(TinyData()) if data is None else None if isinstance(data, str) else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(trained, data, ckpt_path=ckpt_path)
    return Fitted(strategy, watch, trainer, module, [str(one.message) for one in caught])


def tell(expected: int, strategy: Recording, watch: Watch) -> None:
    """Check that the strategy was told of the `expected` batches that were trained on, with the losses of each."""
    features, labels = tiny_dataset().tensors
    assert len(strategy.told) == len(watch.batches) == expected
    for (draw, losses, bounds), (x, y), logits in zip(strategy.told, watch.batches, watch.logits, strict=True):
        wide = logits if logits.dtype == torch.float64 else logits.float()
        assert torch.equal(x.double(), features[draw.indices].double())
        assert torch.equal(y, labels[draw.indices])
        torch.testing.assert_close(losses, cross_entropy(wide.double(), y, reduction="none"), rtol=1e-5, atol=1e-7)
        assert not losses.requires_grad
        assert (bounds.shape, bool((bounds > 0).all())) == ((BATCH,), True)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested states differ."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.cpu(), other.cpu()
        nan = one.isnan()
        same = torch.equal(nan, other.isnan()) and torch.equal(one[~nan], other[~nan])
    else:
        same = one == other
    return [] if same else [path]
