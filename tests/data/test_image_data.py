import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_as import AdaptiveBatchSampler, Bins, ImageDataModule, Uniform
from lightning_as.data.image_data import ImageDataset, Part


class Numbered(ImageDataModule):
    """Images of one pixel: their positions in the training set of 60, less than 0 in the test set of 20."""

    num_classes = 3
    dims = (1, 1, 1)

    def __init__(self, batch_size: int = 10, note: str = "", **options: Any) -> None:
        super().__init__(batch_size, **{"seed": 0, **options})
        self.note = note
        self.loaded: list[str] = []

    def load(self, part: Part) -> ImageDataset:
        self.loaded.append(part)
        numbers = torch.arange(60) if part == "train" else -torch.arange(1, 21)
        return ImageDataset(numbers.float().view(-1, 1, 1, 1), numbers.abs() % 3)


def sampler_of(data: Numbered) -> AdaptiveBatchSampler:
    data.setup("fit")
    return data.sampler


def test_a_data_set_gives_samples_and_whole_batches():
    images, labels = torch.arange(12.0).view(3, 2, 1, 2), torch.tensor([4, 5, 6])
    dataset, unlabelled = ImageDataset(images, labels), ImageDataset(images, None)
    assert torch.equal(dataset[1][0], images[1])
    assert (len(dataset), dataset[1][1]) == (3, 5)
    for indices in ([2, 0, 2], torch.tensor([2, 0, 2])):
        assert torch.equal(dataset.__getitems__(indices)[0], images[[2, 0, 2]])
        assert dataset.__getitems__(indices)[1].tolist() == [6, 4, 6]
        assert torch.equal(unlabelled[indices], images[[2, 0, 2]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_batches_are_those_that_the_sampler_draws_and_evaluation_goes_in_order(num_workers: int):
    data = Numbered(num_workers=num_workers)
    with pytest.raises(RuntimeError, match=r"call `setup\('fit'\)` before `train_dataloader"):
        data.train_dataloader()
    sampler = sampler_of(data)
    loader = data.train_dataloader()
    assert loader.persistent_workers == (num_workers > 0)
    assert loader.sampler is sampler
    for (images, labels), indices in zip(loader, list(pickle.loads(pickle.dumps(data)).sampler), strict=True):
        assert images.flatten().tolist() == indices
        assert labels.tolist() == [index % 3 for index in indices]
    loaders = (data.train_evaluation_dataloader(), data.val_dataloader(), data.test_dataloader())
    for loader, part in zip(loaders, ("train", "test", "test"), strict=True):
        images, labels = (torch.cat(column) for column in zip(*loader, strict=True))
        assert torch.equal(images, data.dataset(part).images)
        assert torch.equal(labels, data.dataset(part).labels)
    assert torch.equal(torch.cat(list(data.predict_dataloader())), data.dataset("test").images)
    data.setup("validate")
    str(data)  # which asks for all loaders, from Lightning 2.5 on
    assert (data.sampler is sampler, data.loaded) == (True, ["train", "test"])
    data.batch_size = 5
    assert len(data.train_dataloader()) == 12


def test_images_follow_the_trainer_to_its_gpu_if_asked_and_the_sampler_stays(monkeypatch: pytest.MonkeyPatch):
    """The device `meta` stands for one: it has no numbers, but everything else."""
    monkeypatch.setattr("lightning_as.data.image_data._GPUS", ("meta",))
    for device, expected in (("auto", "meta"), ("cpu", "cpu")):
        data = Numbered(device=device, bins=Bins(torch.arange(60) % 3))
        strategy = SimpleNamespace(root_device=torch.device("meta"), broadcast=int)
        data.trainer = SimpleNamespace(strategy=strategy, overfit_batches=0)
        sampler = sampler_of(data)
        assert data.dataset("train").images.device.type == expected
        assert sampler.bins_at_work.device.type == "cpu"
        strategy.root_device = torch.device("cpu")
        data._datasets.clear()  # numbers cannot come back from where they are none
        assert sampler_of(data) is sampler  # in a later fit on the CPU
        assert data.dataset("train").images.device.type == "cpu"
    alone = Numbered(device="auto")
    sampler_of(alone)
    assert alone.dataset("train").images.device.type == "cpu"


@pytest.mark.parametrize(
    ("bins", "sizes"), [("label", [20, 20, 20]), ("single", [60]), (Bins(torch.arange(60) // 59), [59, 1])]
)
def test_bins_and_hyperparameters(bins: Any, sizes: list[int]):
    data = Numbered(5, note="mine", bins=bins, batches_per_epoch=2)
    assert sampler_of(data).bins.sizes == sizes
    assert len(data.train_dataloader()) == 2
    expected = {"note": "mine", "batch_size": 5, "batches_per_epoch": 2}
    assert {name: data.hparams[name] for name in expected} == expected
    assert data.hparams.get("bins") == (bins if isinstance(bins, str) else None)


def test_the_seed_is_given_or_that_of_seed_everything_in_the_first_process():
    def first(seed: int | None, shift: int = 0) -> list[int]:
        data = Numbered(seed=seed)
        strategy = SimpleNamespace(broadcast=lambda seed: seed + shift, root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(strategy=strategy)
        return next(iter(sampler_of(data)))

    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert first(None) == first(7) == first(6, shift=1) != first(8)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": -1}, "`num_workers` must be at least 0, got -1"),
        ({"bins": "labels"}, "`bins` must be 'label', 'single' or a `Bins`, got 'labels'"),
        ({"device": "cuda:1"}, "`device` must be 'cpu' or 'auto', got 'cuda:1': 'auto' is the Trainer's."),
        ({"device": "auto", "num_workers": 2}, "`device='auto'` keeps the images .* leave out .*num_workers"),
        ({"device": "auto", "pin_memory": True}, "`device='auto'` keeps the images .* leave out .*pin_memory"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Numbered(**options).setup("fit")


def test_a_later_fit_begins_with_shuffled_epochs_and_none_overfits():
    data, strategy = Numbered(batches_per_epoch=6), Uniform(replacement=True)
    sampler = sampler_of(data)
    sampler.attach(strategy)
    assert sampler_of(data) is sampler  # in whose fit there may be no callback
    assert sampler.strategy is not strategy
    assert sorted(index for batch in sampler for index in batch) == list(range(60))
    data.trainer = SimpleNamespace(overfit_batches=2)
    with pytest.raises(MisconfigurationException, match="`overfit_batches=2` replaces the sampler"):
        data.setup("fit")
