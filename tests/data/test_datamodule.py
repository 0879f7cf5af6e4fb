import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import (
    AdaptiveBatchSampler,
    AdaptiveDataLoader,
    AdaptiveDataModule,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    Bins,
)
from lightning_as.data.dataloader import Batches
from tests.helpers.versions import described

MakeTrainer = Callable[..., Trainer]
N, B = 24, 4


def tensors() -> TensorDataset:
    return TensorDataset(torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3)


def collate(samples: list[Any]) -> Any:
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


class Minimal(LightningDataModule):
    """Gives training batches, and nothing more."""

    def __init__(self, batch_size: int = B) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train = tensors()

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, self.batch_size, shuffle=True)


class Own(Minimal):
    """Does all that a DataModule can, and takes notes."""

    def __init__(self, batch_size: int = B, secret: str = "sesame") -> None:
        super().__init__(batch_size)
        self.save_hyperparameters()
        self.calls: list[Any] = []
        self.counter = 0

    def note(self, call: Any) -> None:
        if call not in self.calls:
            self.calls.append(call)

    def prepare_data(self) -> None:
        self.note(("prepare_data", self.trainer is not None))

    def setup(self, stage: str) -> None:
        self.note(("setup", stage, self.trainer is not None))

    def teardown(self, stage: str) -> None:
        self.note(("teardown", stage))

    def val_dataloader(self) -> Any:
        return DataLoader(self.train, 6)

    def test_dataloader(self) -> Any:
        return [DataLoader(self.train, 5), DataLoader(self.train, 3)]

    def predict_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=2)  # by name: Lightning cannot predict otherwise

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("before transfer")
        return [batch[0] + 100, batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.note(("transfer", device.type))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("after transfer")
        return [batch[0] - 100, batch[1]]

    def state_dict(self) -> dict[str, Any]:
        return {"counter": self.counter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counter = state_dict["counter"]

    def on_exception(self, exception: BaseException) -> None:
        self.note(("exception", type(exception).__name__))


class Linear(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.sizes: dict[str, list[int]] = {"train": [], "val": [], "test": [], "predict": []}

    def step(self, part: str, batch: Any) -> Tensor:
        assert float(batch[0].abs().max()) < 50
        self.sizes[part].append(len(batch[0]))
        return cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step("train", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Evaluated(Linear):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.step("val", batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("test", self.step("test", batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step("predict", batch)


def callback() -> AdaptiveSamplingCallback:
    return AdaptiveSamplingCallback(logits_from="net")


def fit(
    make_trainer: MakeTrainer, data: Any, module: LightningModule | None = None, **options: Any
) -> AdaptiveSampling:
    ours = callback()
    options = {"limit_val_batches": None, "num_sanity_val_steps": 0, **options}
    make_trainer(callbacks=[ours], **options).fit(Linear() if module is None else module, datamodule=data)
    assert isinstance(ours.strategy, AdaptiveSampling)
    return ours.strategy


def parts(loader: AdaptiveDataLoader) -> tuple[Batches, AdaptiveBatchSampler]:
    assert isinstance(loader.dataset, Batches)
    assert isinstance(loader.sampler, AdaptiveBatchSampler)
    return loader.dataset, loader.sampler


# --- The train loader ---


def test_of_a_data_set_it_makes_a_train_loader():
    dataset = tensors()
    data = AdaptiveDataModule(dataset, B, bins="single", batches_per_epoch=7, seed=3, num_workers=1)
    loader = data.train_dataloader()
    batches, sampler = parts(loader)
    assert batches.dataset is dataset
    assert (sampler.batch_size, len(loader), loader.num_workers, sampler.bins.sizes) == (B, 7, 1, [N])
    expected = AdaptiveDataLoader(dataset, B, "single", 7, seed=3)
    for (x, y), (same, label) in zip(loader, expected, strict=True):
        assert torch.equal(x, same)
        assert torch.equal(y, label)


def test_of_a_datamodule_the_train_loader_keeps_its_settings():
    class WithSettings(Minimal):
        def train_dataloader(self) -> Any:
            return DataLoader(
                self.train,
                self.batch_size,
                num_workers=2,
                collate_fn=collate,
                prefetch_factor=3,
                persistent_workers=True,
                pin_memory=True,
                timeout=9.0,
            )

    inner = WithSettings()
    loader = AdaptiveDataModule(inner).train_dataloader()
    batches, sampler = parts(loader)
    assert batches.dataset is inner.train
    assert batches.collate_fn is collate
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (2, 3, True)
    assert (loader.pin_memory, loader.timeout) == (True, 9.0)
    assert (sampler.batch_size, len(loader), sampler.bins.sizes) == (B, N // B, [8, 8, 8])


def test_of_a_datamodule_the_train_loader_s_settings_can_be_overridden():
    data = AdaptiveDataModule(Minimal(), 6, bins=torch.arange(N) % 2, batches_per_epoch=3, seed=1, num_workers=1)
    loader = data.train_dataloader()
    _, sampler = parts(loader)
    assert (sampler.batch_size, len(loader), loader.num_workers, sampler.bins.sizes) == (6, 3, 1, [12, 12])


def test_the_seed_is_by_default_the_one_that_torch_was_given():
    def first(seed: int | None) -> Tensor:
        return next(iter(AdaptiveDataModule(Minimal(), seed=seed).train_dataloader()))[0]

    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(5)
        assert torch.equal(first(None), first(5))
        assert not torch.equal(first(None), first(6))
    finally:
        torch.random.set_rng_state(before)


def test_loaders_made_anew_have_another_order_in_each_epoch_and_the_same_in_all_runs(make_trainer: MakeTrainer):
    def orders() -> list[Tensor]:
        seen: list[Tensor] = []

        class Seen(Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if batch_idx == 0:
                    seen.append(batch[0])

        trainer = make_trainer(callbacks=[Seen()], max_epochs=3, reload_dataloaders_every_n_epochs=1)
        trainer.fit(Linear(), datamodule=AdaptiveDataModule(Minimal(), seed=0))
        return seen

    first, again = orders(), orders()
    assert len(first) == 3
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(first, 2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_datamodule_that_is_adaptive_already():
    class Ours(Minimal):
        def train_dataloader(self) -> Any:
            return AdaptiveDataLoader(self.train, B)

    with pytest.raises(MisconfigurationException, match="Ours gives an AdaptiveDataLoader already: use it as it is"):
        AdaptiveDataModule(Ours()).train_dataloader()


# --- Errors ---


@pytest.mark.parametrize("data", [[1, 2, 3].__len__, 3, None, iter([1]), DataLoader(tensors())])
def test_what_is_neither_a_datamodule_nor_a_data_set(data: Any):
    with pytest.raises(TypeError, match="`data` must be a DataModule or a data set with `__getitem__`, got"):
        AdaptiveDataModule(data, B)


def test_a_data_set_without_a_batch_size():
    with pytest.raises(ValueError, match="`batch_size` is missing: give the number of instances per batch"):
        AdaptiveDataModule(tensors())


@pytest.mark.parametrize(
    ("loaders", "name"),
    [
        (lambda loader: {"a": loader, "b": loader}, "dict"),
        (lambda loader: [loader], "list"),
        (lambda loader: None, "NoneType"),
        (lambda loader: iter(loader), "_SingleProcessDataLoaderIter"),
    ],
)
def test_a_datamodule_that_gives_anything_but_one_train_loader(loaders: Callable[[Any], Any], name: str):
    class Other(Minimal):
        def train_dataloader(self) -> Any:
            return loaders(super().train_dataloader())

    message = f"`train_dataloader` of Other gave a {name}: AdaptiveDataModule needs a single torch DataLoader"
    with pytest.raises(MisconfigurationException, match=message):
        AdaptiveDataModule(Other()).train_dataloader()


def test_what_a_loader_refuses_is_said_when_the_loader_is_made():
    unlabelled = AdaptiveDataModule(TensorDataset(torch.rand(N, 3)), B)
    with pytest.raises(ValueError, match="`bins='label'` found no integer per instance in the TensorDataset"):
        unlabelled.train_dataloader()
    with pytest.raises(ValueError, match="`bins` are of 3 instances, but the data set has 24"):
        AdaptiveDataModule(Minimal(), bins=Bins.single(3)).train_dataloader()


# --- All else is passed on ---


def test_in_a_fit_every_hook_of_the_datamodule_is_called_and_knows_the_trainer(make_trainer: MakeTrainer):
    inner = Own()
    module = Evaluated()
    strategy = fit(make_trainer, AdaptiveDataModule(inner, seed=0), module)
    assert strategy.metrics()["seen"] > 0.25
    assert module.sizes == {"train": [B] * (N // B), "val": [6] * 4, "test": [], "predict": []}
    assert inner.calls == [
        ("prepare_data", True),
        ("setup", "fit", True),
        "before transfer",
        ("transfer", "cpu"),
        "after transfer",
        ("teardown", "fit"),
    ]


def test_validation_test_and_prediction_are_the_datamodule_s(make_trainer: MakeTrainer):
    inner, module = Own(), Evaluated()
    data = AdaptiveDataModule(inner)
    trainer = make_trainer(limit_val_batches=None)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    assert module.sizes == {"train": [], "val": [6] * 4, "test": [5] * 4 + [4] + [3] * 8, "predict": [2] * 12}
    assert [call[1] for call in inner.calls if call[0] == "setup"] == ["validate", "test", "predict"]
    assert [call[1] for call in inner.calls if call[0] == "teardown"] == ["validate", "test", "predict"]


def test_an_exception_in_training_is_passed_on(make_trainer: MakeTrainer):
    class Failing(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise ArithmeticError

    inner = Own()
    with pytest.raises(ArithmeticError):
        fit(make_trainer, AdaptiveDataModule(inner), Failing())
    assert ("exception", "ArithmeticError") in inner.calls


def test_the_datamodule_s_state_goes_into_checkpoints_and_comes_back(make_trainer: MakeTrainer, tmp_path: Path):
    inner = Own()
    inner.counter = 3
    module = Linear()
    trainer = make_trainer(callbacks=[callback()])
    trainer.fit(module, datamodule=AdaptiveDataModule(inner))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fresh = Own()
    data = AdaptiveDataModule(fresh)
    assert data.state_dict() == {"counter": 0}
    make_trainer(callbacks=[callback()], max_epochs=2).fit(
        module, datamodule=data, ckpt_path=str(tmp_path / "end.ckpt")
    )
    assert fresh.counter == 3
    assert data.state_dict() == {"counter": 3}


def test_a_datamodule_without_validation_data_is_trained_on_without_validation(make_trainer: MakeTrainer):
    for data in (Minimal(), AdaptiveDataModule(Minimal()), AdaptiveDataModule(tensors(), B)):
        module = Evaluated()
        ours = [] if isinstance(data, Minimal) else [callback()]
        make_trainer(callbacks=ours, limit_val_batches=None).fit(module, datamodule=data)
        assert module.sizes["val"] == []
        assert len(module.sizes["train"]) == N // B


def test_a_datamodule_that_is_made_from_data_sets_keeps_its_validation_data(make_trainer: MakeTrainer):
    inner = LightningDataModule.from_datasets(train_dataset=tensors(), val_dataset=tensors(), batch_size=8)
    module = Evaluated()
    strategy = fit(make_trainer, AdaptiveDataModule(inner, seed=0), module)
    assert module.sizes == {"train": [8] * 3, "val": [8] * 3, "test": [], "predict": []}
    assert strategy.metrics()["seen"] > 0.25


def test_a_data_set_alone_has_no_state(make_trainer: MakeTrainer):
    data = AdaptiveDataModule(tensors(), B)
    assert not data.state_dict()
    data.load_state_dict({})
    data.prepare_data()
    data.setup("fit")
    data.teardown("fit")


class Hooked(Linear):
    """Moves its batches itself."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.moved.append("before")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.moved.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.moved.append("after")
        return batch


@pytest.mark.parametrize(
    "data", [Minimal, lambda: AdaptiveDataModule(Minimal()), lambda: AdaptiveDataModule(tensors(), B)]
)
def test_a_module_that_moves_its_batches_itself_still_does(make_trainer: MakeTrainer, data: Callable[[], Any]):
    module = Hooked()
    made = data()
    ours = [] if isinstance(made, Minimal) else [callback()]
    make_trainer(callbacks=ours, limit_train_batches=1).fit(module, datamodule=made)
    assert module.moved == ["before", "transfer", "after"]


def test_settings_that_lightning_reads_are_the_datamodule_s():
    inner = Own()
    inner.prepare_data_per_node = False
    inner.allow_zero_length_dataloader_with_multiple_devices = True
    data = AdaptiveDataModule(inner)
    assert data.prepare_data_per_node is False
    assert data.allow_zero_length_dataloader_with_multiple_devices is True
    assert data.hparams == {"batch_size": B, "secret": "sesame"}
    assert data.hparams_initial == inner.hparams_initial


# --- Attributes ---


def test_attributes_and_methods_are_looked_up_in_the_datamodule():
    inner = Own()
    data = AdaptiveDataModule(inner)
    assert data.train is inner.train
    inner.later = 12  # pyright: ignore[reportAttributeAccessIssue]
    assert data.later == 12
    data.note("hello")
    assert inner.calls == ["hello"]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = data.nonsense
    assert not hasattr(data, "__nonsense__")
    dataset = tensors()
    assert AdaptiveDataModule(dataset, B).tensors is dataset.tensors


def test_the_batch_size_is_the_datamodule_s_until_it_is_set():
    inner = Minimal(6)
    data = AdaptiveDataModule(inner)
    assert data.batch_size == 6
    inner.batch_size = 3
    assert data.batch_size == 3
    assert len(data.train_dataloader()) == 8
    data.batch_size = 12
    assert data.batch_size == 12
    assert len(data.train_dataloader()) == 2
    own = AdaptiveDataModule(tensors(), B)
    assert own.batch_size == B
    own.batch_size = 8
    assert own.batch_size == 8
    assert len(own.train_dataloader()) == 3


def test_a_datamodule_without_a_batch_size_has_none_here():
    inner = LightningDataModule.from_datasets(train_dataset=tensors(), batch_size=8)
    data = AdaptiveDataModule(inner)
    assert not hasattr(data, "batch_size")
    assert len(data.train_dataloader()) == 3


@described
def test_it_is_described_without_an_error():
    assert f"size={N}" in str(AdaptiveDataModule(Own()))


@pytest.mark.parametrize(
    "make", [lambda: AdaptiveDataModule(Own(), seed=4), lambda: AdaptiveDataModule(tensors(), B, seed=4)]
)
@pytest.mark.parametrize("twice", [lambda data: pickle.loads(pickle.dumps(data)), copy.deepcopy])
def test_it_can_be_pickled_and_copied(make: Any, twice: Any):
    data = make()
    again = twice(data)
    assert isinstance(again, AdaptiveDataModule)
    assert again.data is not data.data
    for (x, y), (same, label) in zip(data.train_dataloader(), again.train_dataloader(), strict=True):
        assert torch.equal(x, same)
        assert torch.equal(y, label)
    if isinstance(again.data, Own):
        again.setup("fit")
        assert again.data.calls == [("setup", "fit", False)]
        assert data.calls == []
        assert again.hparams["secret"] == "sesame"


def test_a_half_made_one_is_asked_for_attributes_without_an_endless_loop():
    with pytest.raises(AttributeError):
        _ = AdaptiveDataModule.__new__(AdaptiveDataModule).anything
