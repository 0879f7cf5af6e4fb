import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_as import AdaptiveDataLoader, AdaptiveSampling, AdaptiveSamplingCallback, Bins, ConvNetClassifier
from lightning_as.data.image_data import ImageDataModule, ImageDataset, Part, normalise
from lightning_as.data.labels import find_labels

MakeTrainer = Callable[..., Trainer]


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


class Linear(ConvNetClassifier):
    def __init__(self) -> None:
        super().__init__(num_classes=3, optimizer="adam")
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))


def fitted(data: Numbered) -> Numbered:
    data.setup("fit")
    return data


def test_the_base_must_be_told_how_to_load():
    with pytest.raises(TypeError, match=r"abstract method '?load"):
        ImageDataModule()


def test_a_data_set_gives_samples_and_whole_batches():
    images, labels = torch.arange(12.0).view(3, 2, 1, 2), torch.tensor([4, 5, 6])
    dataset = ImageDataset(images, labels)
    assert len(dataset) == 3
    assert torch.equal(dataset[1][0], images[1])
    assert dataset[1][1] == 5
    batch = dataset.__getitems__([2, 0, 2])
    assert torch.equal(batch[0], images[[2, 0, 2]])
    assert batch[1].tolist() == [6, 4, 6]
    assert find_labels(dataset) is labels
    unlabelled = ImageDataset(images, None)
    assert torch.equal(unlabelled[[1, 2]], images[1:])
    assert torch.equal(unlabelled[0], images[0])
    assert find_labels(unlabelled) is None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_batches_are_those_that_the_sampler_draws(num_workers: int):
    data = fitted(Numbered(num_workers=num_workers))
    loader = data.train_dataloader()
    assert isinstance(loader, AdaptiveDataLoader)
    assert loader.persistent_workers == (num_workers > 0)
    assert loader.sampler is data.sampler
    drawn = list(pickle.loads(pickle.dumps(data.sampler)))
    for (images, labels), indices in zip(loader, drawn, strict=True):
        assert images.flatten().tolist() == indices
        assert labels.tolist() == [index % 3 for index in indices]


def test_images_and_sampler_follow_the_trainer_to_its_gpu_if_asked():
    """The device `meta` stands for one: it has no numbers, but everything else."""
    for device, expected in (("auto", "meta"), ("cpu", "cpu")):
        data = Numbered(device=device, bins=Bins(torch.arange(60) % 3))
        strategy = SimpleNamespace(root_device=torch.device("meta"), broadcast=int)
        data.trainer = SimpleNamespace(strategy=strategy, overfit_batches=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lightning_as.data.image_data._GPUS", ("meta",))
            data.setup("fit")
            assert data.dataset("train").images.device.type == expected
            assert data.sampler is not None
            assert data.sampler.bins_at_work.device.type == expected
            sampler, root = data.sampler, torch.device("cpu")
            strategy.root_device = root
            data._datasets.clear()  # numbers cannot come back from where they are none
            data.setup("fit")  # a later fit on the CPU
            assert data.sampler is sampler
            assert data.sampler.bins_at_work.on_host
            assert data.dataset("train").images.device == root
    alone = Numbered(device="auto")
    alone.setup("fit")
    assert alone.dataset("train").images.device.type == "cpu"


@pytest.mark.parametrize("option", [{"num_workers": 2}, {"pin_memory": True}])
def test_what_is_of_no_use_beside_images_on_a_gpu_is_refused(option: dict[str, Any]):
    with pytest.raises(ValueError, match=f"`device='auto'` keeps the images .* leave out .*{next(iter(option))}"):
        Numbered(device="auto", **option)


def test_evaluation_goes_through_the_natural_distribution_in_order():
    data = Numbered()
    for loader, part in (
        (data.train_evaluation_dataloader(), "train"),
        (data.val_dataloader(), "test"),
        (data.test_dataloader(), "test"),
    ):
        images, labels = (torch.cat(column) for column in zip(*loader, strict=True))
        assert torch.equal(images, data.dataset(part).images)
        assert torch.equal(labels, data.dataset(part).labels)
    assert torch.equal(torch.cat(list(data.predict_dataloader())), data.dataset("test").images)


def test_setup_is_idempotent_and_loaders_have_no_side_effects():
    data = fitted(Numbered())
    sampler = data.sampler
    assert sampler is not None
    state = sampler.state_dict()
    data.setup("validate")
    data.setup("fit")
    data.train_dataloader()
    assert data.loaded == ["train"]
    str(data)
    data.val_dataloader()  # which `str` asks for, from Lightning 2.5 on
    assert data.sampler is sampler
    assert data.loaded == ["train", "test"]
    assert torch.equal(sampler.state_dict()["generator"], state["generator"])
    data.batch_size = 5
    assert len(data.train_dataloader()) == 12


def test_without_setup_there_is_no_train_loader():
    with pytest.raises(RuntimeError, match=r"call `setup\('fit'\)` before `train_dataloader"):
        Numbered().train_dataloader()


def test_bins():
    for bins, sizes in (("label", [20, 20, 20]), ("single", [60]), (Bins(torch.arange(60) // 59), [59, 1])):
        sampler = fitted(Numbered(bins=bins)).sampler
        assert sampler is not None
        assert sampler.bins.sizes == sizes
        if bins == "label":
            assert sampler.bins.labels is not None
            assert sampler.bins.labels.tolist() == [0, 1, 2]
        else:
            assert sampler.bins.labels is None
    with pytest.raises(ValueError, match="`bins` are of 10 instances, but the data set has 60"):
        fitted(Numbered(bins=Bins.single(10)))


def test_the_seed_is_that_of_seed_everything_unless_given():
    def first(seed: int | None) -> list[int]:
        sampler = fitted(Numbered(seed=seed)).sampler
        assert sampler is not None
        return next(iter(sampler))

    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert first(None) == first(7) != first(8)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_is_that_of_the_first_process():
    data = Numbered(seed=3)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda seed: seed + 1))
    assert list(fitted(data).sampler or ()) == list(fitted(Numbered(seed=4)).sampler or ())


def test_it_can_be_pickled():
    data = fitted(Numbered())
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy.sampler) == list(data.sampler or ())


def test_hyperparameters_are_those_of_the_subclass_but_no_bins():
    data = Numbered(5, note="mine", bins=Bins.single(60), batches_per_epoch=2)
    assert data.hparams["note"] == "mine"
    assert data.hparams["batch_size"] == 5
    assert data.hparams["batches_per_epoch"] == 2
    assert "bins" not in data.hparams
    assert Numbered(bins="single").hparams["bins"] == "single"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"num_workers": -1}, "`num_workers` must not be negative, got -1"),
        ({"bins": "labels"}, "`bins` must be 'label', 'single' or a `Bins`, got 'labels'"),
        ({"device": "cuda:1"}, "`device` must be 'cpu' or 'auto', got 'cuda:1': 'auto' is the Trainer's."),
        ({"batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Numbered(**options)


def test_a_later_fit_without_the_callback_is_of_shuffled_epochs(make_trainer: MakeTrainer):
    data, strategy = Numbered(batches_per_epoch=6), AdaptiveSampling()
    make_trainer(callbacks=[AdaptiveSamplingCallback(strategy)]).fit(Linear(), data)
    sampler = data.sampler
    assert sampler is not None
    assert sampler.strategy is strategy
    make_trainer().fit(Linear(), data)
    assert data.sampler is sampler
    assert sampler.strategy is not strategy
    assert sorted(index for batch in sampler for index in batch) == list(range(60))


def test_overfit_batches_is_refused(make_trainer: MakeTrainer):
    with pytest.raises(MisconfigurationException, match="`overfit_batches=2` replaces the sampler"):
        make_trainer(overfit_batches=2).fit(Linear(), Numbered())


def test_normalise():
    pixels = torch.randint(256, (4, 5, 6, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    result = normalise(pixels.permute(0, 3, 1, 2), mean, std)
    assert result.shape == (4, 3, 5, 6)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    for channel in range(3):
        expected = (pixels[..., channel].double() / 255 - mean[channel]) / std[channel]
        assert torch.allclose(result[:, channel].double(), expected, atol=1e-6)
