import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor, nn

from lightning_as import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, Scores, Uniform
from lightning_as.data.image_data import ImageDataset, Part
from lightning_as.data.torchvision_data import TorchvisionDataModule
from lightning_as.models.image_classifier import ImageClassifier
from tests.helpers.idx import write_mnist
from tests.helpers.statistics import seeded
from tests.helpers.tiny import Fitted, differences, tiny_fit
from tests.helpers.versions import counted

datasets = pytest.importorskip("torchvision.datasets", exc_type=ImportError)
SIZES = {"train": 30, "test": 20}
FASHION = "train-images-idx3-ubyte, .* into .*FashionMNIST.raw"


def pixels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    size = SIZES[part]
    return torch.randint(256, (size, *module.dims), dtype=torch.uint8, generator=seeded(size))


def labels(part: str, module: type[TorchvisionDataModule]) -> Tensor:
    return (torch.arange(SIZES[part]) * 7 + 3) % module.num_classes


def write_cifar(root: Path, module: type[TorchvisionDataModule]) -> None:
    """Small files where torchvision looks for them."""
    cifar = getattr(datasets, module._name)
    folder = root / cifar.base_folder
    folder.mkdir(parents=True)
    for part, files in (("train", cifar.train_list), ("test", cifar.test_list)):
        rows = pixels(part, module).flatten(1).numpy().reshape(len(files), -1, 3072)
        targets = labels(part, module).view(len(files), -1).tolist()
        key = "labels" if module is CIFAR10DataModule else "fine_labels"
        for (name, _), data, own in zip(files, rows, targets, strict=True):
            (folder / name).write_bytes(pickle.dumps({"data": data, key: own, "coarse_labels": [0] * len(own)}))
    names = {cifar.meta["key"]: [str(label) for label in range(module.num_classes)]}
    (folder / cifar.meta["filename"]).write_bytes(pickle.dumps(names))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[TorchvisionDataModule]], Path]:
    """Puts a small data set, whose checksums are wrong, into a folder; there is no network."""
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network")))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())

    def write(module: type[TorchvisionDataModule]) -> Path:
        if module is not FashionMNISTDataModule:
            write_cifar(tmp_path, module)
            return tmp_path
        for part, name in (("train", "train"), ("test", "t10k")):
            write_mnist(tmp_path / "FashionMNIST" / "raw", name, pixels(part, module)[:, 0], labels(part, module))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("module", "classes", "dims", "files"),
    [
        (FashionMNISTDataModule, 10, (1, 28, 28), FASHION),
        (CIFAR10DataModule, 10, (3, 32, 32), "cifar-10-python.tar.gz, or the folder that is in it, into {}"),
        (CIFAR100DataModule, 100, (3, 32, 32), "cifar-100-python.tar.gz, or the folder that is in it, into {}"),
    ],
)
@pytest.mark.filterwarnings("ignore:There are 30 bins for 30 instances")
def test_it_reads_what_torchvision_wrote(module: Any, classes: int, dims: Any, files: str, write: Any, tmp_path: Path):
    data = module()  # what a model needs to know is there without data
    assert (data.num_classes, data.dims, data.data_dir) == (classes, dims, "data")
    put = rf".*Put {files.format(re.escape(str(tmp_path)))}: `prepare_data` takes"
    # torchvision 0.19 keeps the error of a mirror to itself
    with pytest.raises(FileNotFoundError, match=rf"(?s)downloaded \(.*(no network|Error downloading){put}"):
        module(tmp_path).prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"(?s)could not be read \({put}"):
        module(tmp_path).setup("fit")
    data = module(write(module), batch_size=10, seed=0)
    assert (data.hparams["data_dir"], data.hparams["batch_size"]) == (str(tmp_path), 10)
    data.prepare_data()
    data.setup("fit")
    mean, std = (torch.tensor(figures).view(len(data._mean), 1, 1) for figures in (module._mean, module._std))
    for part in ("train", "test"):
        dataset = data.dataset(part)
        assert dataset.images.is_contiguous()
        back = (dataset.images * std + mean) * 255
        assert torch.allclose(back, pixels(part, module).float(), atol=1e-3)
        assert torch.equal(dataset.labels, labels(part, module))
    assert sum(data.sampler.bins.sizes) == 30


class Relabelled(CIFAR10DataModule):
    """Bytes from elsewhere, and labels from yet elsewhere: all that a subclass takes."""

    def prepare_data(self) -> None:
        pass

    def load(self, part: Part) -> ImageDataset:
        arrays = np.random.default_rng(SIZES[part]).integers(256, size=(SIZES[part], 32, 32, 3), dtype=np.uint8)
        return self.normalised(arrays, np.arange(SIZES[part], dtype=np.uint8) % 3)


class Looking(Uniform):
    """Has some instances scored by their inputs before each batch."""

    reads = frozenset({"inputs"})

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[Tensor]()

    def wanted(self) -> Tensor:
        return torch.arange(12)

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.inputs is not None
        self.seen.append(scores.inputs.view(-1, 3, 32, 32))


class Linear(ImageClassifier):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), 10)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(folder: Path, data: Relabelled, strategy: Any = None, make: Any = Linear, **options: Any) -> Fitted:
    return tiny_fit(folder, strategy or Uniform(), make, data, {"logits_from": None}, max_epochs=2, **options)


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("augment", [True, False])
def test_only_what_is_trained_on_is_augmented(augment: bool, tmp_path: Path):
    validated, drawn = list[Tensor](), list[Tensor]()

    def keep(trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        validated.append(batch[0])

    def note(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        drawn.append(torch.as_tensor(data.sampler.current.indices))

    data, strategy = Relabelled(batch_size=10, seed=0, augment=augment), Looking()
    watching = LambdaCallback(on_validation_batch_end=keep, on_train_batch_start=note)
    batches = fit(tmp_path, data, strategy, callbacks=(watching,), limit_val_batches=1).watch.batches
    train, test = (data.dataset(part) for part in ("train", "test"))
    for (images, labels), indices in zip(batches, drawn, strict=True):
        plain = train.images[indices]
        assert labels.tolist() == train.labels[indices].tolist() == (indices % 3).tolist()
        assert [torch.equal(*pair) for pair in zip(images, plain, strict=True)].count(False) >= 8 * augment
        assert torch.equal(images, plain) != augment
        # Shifted by up to 4 pixels, and perhaps turned: the middle of the original is somewhere.
        middle = plain[0, :, 4:28, 4:28]
        framed = [each.unfold(1, 24, 1).unfold(2, 24, 1) for each in (images[0], images[0].flip(2))]
        assert any(bool((each == middle.view(3, 1, 1, 24, 24)).all((0, 3, 4)).any()) for each in framed)
    assert len(strategy.seen) == 8
    assert all(torch.equal(seen, train.images[:12]) for seen in strategy.seen)
    assert all(torch.equal(images, test.images) for images in validated)
    assert torch.equal(torch.cat([images for images, _ in data.train_evaluation_dataloader()]), train.images)


def augmented(seed: int | None = 3, trained: int = 0, rank: int = 0, training: bool = True, **options: Any) -> Tensor:
    """The batch of a DataModule by itself, with a Trainer that has trained on so many batches."""
    data = Relabelled(batch_size=10, seed=seed, **options)
    data.setup("fit")
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(completed=trained)))
    data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        training=training,
        lightning_module=SimpleNamespace(training=True, on_after_batch_transfer=lambda batch, _: batch),
        fit_loop=SimpleNamespace(epoch_loop=progress),
        global_rank=rank,
    )
    return data.on_after_batch_transfer(data.dataset("train")[list(range(10))], 0)[0]


def test_seed_batch_and_process_decide_how_and_nothing_else():
    torch.manual_seed(3)
    state, first = torch.get_rng_state(), augmented()
    for same in (augmented(), augmented(None), augmented(num_workers=2, bins="single")):
        assert torch.equal(same, first)
    others = (augmented(4), augmented(trained=1), augmented(rank=1), augmented(-4))
    assert not any(torch.equal(other, first) for other in others)
    plain = Relabelled().dataset("train").images[:10]
    assert torch.equal(augmented(training=False), plain)  # even of a module that stays in training mode
    assert torch.equal(augmented(augment=False), plain)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("augment", [True, False])
def test_a_hook_of_the_module_gets_what_is_augmented(augment: bool, tmp_path: Path):
    class Doubling(Linear):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 2, batch[1]

    plain, doubled = (
        fit(tmp_path, Relabelled(batch_size=10, seed=0, augment=augment), make=make).watch.batches
        for make in (Linear, Doubling)
    )
    assert differences([[images * 2, labels] for images, labels in plain], doubled) == []


@counted
@pytest.mark.filterwarnings("ignore:::lightning")
def test_a_resumed_fit_augments_as_the_uninterrupted_one(tmp_path: Path):
    def fail(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            raise ValueError("something broke")

    def data() -> Relabelled:
        return Relabelled(batch_size=10, seed=0)

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(tmp_path, data(), callbacks=(saving,)).watch.batches
    assert not torch.equal(whole[0][0], whole[3][0])
    with pytest.raises(ValueError, match="something broke"):
        fit(tmp_path, data(), callbacks=(LambdaCallback(on_before_backward=fail), OnExceptionCheckpoint(tmp_path)))
    for name, done in (("step=2", 2), ("step=3", 3), ("on_exception", 4)):
        rest = fit(tmp_path, data(), ckpt_path=tmp_path / f"{name}.ckpt", seed=1).watch.batches
        assert len(rest) == 6 - done
        assert differences(rest, whole[done:]) == []


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 32, 32).byte(), np.zeros((2, 32, 32, 3))])
def test_pixels_that_are_not_as_they_were_read(pixels: Any):
    with pytest.raises(
        ValueError, match=r"must be uint8 of the shape \(N, 32, 32, 3\), got torch.* of \(2, .* as it is"
    ):
        CIFAR10DataModule().normalised(pixels, [0, 1])
    with pytest.raises(ValueError, match=r"the shape \(N, 28, 28\), got torch"):
        FashionMNISTDataModule().normalised(pixels, [0, 1])
