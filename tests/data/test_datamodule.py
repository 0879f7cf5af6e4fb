import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException as Misconfigured
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback
from tests.helpers.streams import Shards, loader_of
from tests.helpers.tiny import tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
N, B = 24, 4
DATASET = TensorDataset(torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3)


class Minimal(LightningDataModule):
    """Gives training batches, from a loader of its own or a given one, and nothing more."""

    def __init__(self, batch_size: int = B, loader: Any = None) -> None:
        super().__init__()
        self.batch_size, self.train, self.loader = batch_size, DATASET, loader

    def train_dataloader(self) -> Any:
        return self.loader or DataLoader(self.train, self.batch_size, shuffle=True)


class Moving:
    """Takes notes of how batches are moved, for a module or a DataModule."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[Any] = []

    def note(self, call: Any) -> None:
        if call not in self.calls:
            self.calls.append(call)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("before transfer")
        return [batch[0] + 100, batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.note(("transfer", device.type))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("after transfer")
        return [batch[0] - 100, batch[1]]


MOVES = ["before transfer", ("transfer", "cpu"), "after transfer"]


class Own(Moving, Minimal):
    """Does all that a DataModule can, and takes notes."""

    def __init__(self, batch_size: int = B, secret: str = "sesame") -> None:
        super().__init__(batch_size)
        self.save_hyperparameters()
        self.counter = 0

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

    def state_dict(self) -> dict[str, Any]:
        return {"counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counter = state["counter"]

    def on_exception(self, exception: BaseException) -> None:
        self.note(("exception", type(exception).__name__))


class Linear(LightningModule):
    """Notes the stage and the size of each batch."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.net, self.fails, self.seen = nn.Linear(3, 3), fails, []

    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        assert float(batch[0].abs().max()) < 50
        if self.fails:
            raise ArithmeticError
        self.seen.append((self.trainer.state.stage.value, len(batch[0])))
        return cross_entropy(self.net(batch[0]), batch[1])

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LinearMoving(Moving, Linear):
    pass


def fit(folder: Path, data: Any, module: Linear, ckpt_path: Any = None, epochs: int = 1) -> Trainer:
    callback = AdaptiveSamplingCallback(logits_from="net")
    trainer = tiny_trainer(folder, callbacks=callback, num_sanity_val_steps=0, max_epochs=epochs)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def same(one: Any, other: Any) -> bool:
    """Whether two loaders give the same batches."""
    return all(torch.equal(x, y) for pair in zip(one, other, strict=True) for x, y in zip(*pair, strict=True))


def sizes(loader: AdaptiveDataLoader) -> tuple[int, int, int, list[int]]:
    return loader.sampler.batch_size, len(loader), loader.num_workers, loader.sampler.bins.sizes


def test_the_train_loader_is_made_of_the_data_set_or_keeps_the_datamodule_s_settings():
    own = AdaptiveDataModule(DATASET, B, bins="single", batches_per_epoch=7, seed=3, num_workers=1).train_dataloader()
    assert own.dataset.dataset is DATASET
    assert sizes(own) == (B, 7, 1, [N])
    assert same(own, AdaptiveDataLoader(DATASET, B, "single", 7, seed=3))
    inner = Minimal(loader=DataLoader(DATASET, B, num_workers=2, collate_fn=tuple))
    loader = AdaptiveDataModule(inner).train_dataloader()
    assert (loader.dataset.dataset, loader.dataset.collate_fn) == (DATASET, tuple)
    assert sizes(loader) == (B, N // B, 2, [8, 8, 8])
    loader = AdaptiveDataModule(inner, 6, torch.arange(N) % 2, 3, seed=1, num_workers=1).train_dataloader()
    assert sizes(loader) == (6, 3, 1, [12, 12])


def test_the_seed_is_the_one_that_torch_was_given_and_another_in_each_epoch():
    def epoch(seed: int | None, number: int = 0, first_process: int = 0) -> AdaptiveDataLoader:
        data = AdaptiveDataModule(Minimal(), seed=seed)
        strategy = SimpleNamespace(broadcast=lambda seed: seed + first_process)
        data.trainer = SimpleNamespace(current_epoch=number, strategy=strategy)
        return data.train_dataloader()

    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert same(epoch(None), epoch(5))
        assert not same(epoch(None), epoch(6))
    assert not same(epoch(0, number=3), epoch(0, number=2))
    assert same(epoch(0, first_process=8), epoch(8))


LOADER = DataLoader(DATASET, B)
NEITHER = "`data` must be a DataModule or a data set with `__getitem__`, got"


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        *[(data, {}, TypeError, NEITHER) for data in (None, LOADER)],
        (DATASET, {"batch_size": None}, ValueError, "`batch_size` is missing: give the number of instances"),
        (Minimal(loader=[LOADER]), {}, Misconfigured, "Minimal gave a list: AdaptiveDataModule needs a single torch"),
        (
            Minimal(loader=AdaptiveDataLoader(DATASET, B)),
            {},
            Misconfigured,
            "an AdaptiveDataLoader already: use it as it",
        ),
        (Minimal(loader=loader_of(Shards())), {}, Misconfigured, "an AdaptiveIterableLoader already: use it as it"),
    ],
)
def test_bad_arguments(data: Any, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        AdaptiveDataModule(data, **{"batch_size": B, **options}).train_dataloader()


def test_every_hook_and_loader_and_the_state_of_the_datamodule_are_used(tmp_path: Path):
    inner, module = Own(), Linear()
    inner.counter = 3
    data, resumed = AdaptiveDataModule(inner, seed=0), AdaptiveDataModule(Own())
    trainer = fit(tmp_path, data, module)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert module.seen == [("train", B)] * (N // B) + [("validate", 6)] * 4
    assert inner.calls == [("prepare_data", True), ("setup", "fit", True), *MOVES, ("teardown", "fit")]
    assert "adaptive/ess" in trainer.callback_metrics
    inner.calls, module.seen = [], []
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    expected = {"validate": [6] * 4, "test": [5] * 4 + [4] + [3] * 8, "predict": [2] * 12}
    assert module.seen == [(stage, size) for stage, each in expected.items() for size in each]
    for hook in ("setup", "teardown"):
        assert [call[1] for call in inner.calls if call[0] == hook] == ["validate", "test", "predict"]
    with pytest.raises(ArithmeticError):
        fit(tmp_path, data, Linear(fails=True))
    assert ("exception", "ArithmeticError") in inner.calls
    fit(tmp_path, resumed, module, tmp_path / "end.ckpt", epochs=2)
    assert resumed.state_dict() == {"counter": resumed.data.counter} == {"counter": 3}


@pytest.mark.parametrize(
    ("make", "train", "val"),
    [
        (lambda: AdaptiveDataModule(Minimal()), B, 0),
        (lambda: AdaptiveDataModule(DATASET, B), B, 0),
        (lambda: AdaptiveDataModule(LightningDataModule.from_datasets(DATASET, DATASET, batch_size=8)), 8, 3),
    ],
)
def test_it_lacks_what_the_datamodule_lacks(make: Callable[[], Any], train: int, val: int, tmp_path: Path):
    module = LinearMoving()  # which moves its batches itself
    fit(tmp_path, make(), module)
    assert module.seen == [("train", train)] * (N // train) + [("validate", 8)] * val
    assert module.calls == MOVES


def test_what_is_read_set_or_deleted_on_it_is_the_datamodule_s():
    inner = Own(6)
    inner.prepare_data_per_node, inner.allow_zero_length_dataloader_with_multiple_devices = False, True
    data = AdaptiveDataModule(inner)
    assert (data.prepare_data_per_node, data.allow_zero_length_dataloader_with_multiple_devices) == (False, True)
    assert data.hparams == data.hparams_initial == {"batch_size": 6, "secret": "sesame"}
    assert (data.train, isinstance(data, Own), isinstance(data, AdaptiveDataModule)) == (DATASET, True, True)
    data.counter += 2
    data.later, data.trainer, data.setup = 12, "a Trainer", print
    data.save_hyperparameters({"fold": 3})
    assert (inner.counter, inner.later, inner.trainer, inner.setup) == (2, 12, "a Trainer", print)
    assert inner.hparams.fold == 3
    del data.later
    half_made = AdaptiveDataModule.__new__(AdaptiveDataModule)  # which must not ask itself without end
    for one, name in ((data, "later"), (data, "__nonsense__"), (half_made, "anything")):
        with pytest.raises(AttributeError, match=name):
            getattr(one, name)
    assert data.data is inner
    data.data, inner.seed = "their own", 7
    assert (data.data, data.seed, data.bins, data.num_workers) == (inner.data, 7, "label", None)
    data.seed = 5
    assert data.seed == inner.seed == 5


def test_of_a_data_set_it_has_the_attributes_too():
    dataset = TensorDataset(*DATASET.tensors)
    data = AdaptiveDataModule(dataset, B)
    data.tensors, data.prepare_data_per_node, data.mine = DATASET.tensors[::-1], False, 3
    assert dataset.tensors is data.tensors
    assert (data.data, data.seed, data.prepare_data_per_node, data.mine) == (dataset, None, False, 3)
    assert not hasattr(dataset, "mine")
    del data.mine
    assert not hasattr(data, "mine")


def test_what_is_logged_and_saved_is_what_it_is_without_the_wrapper(tmp_path: Path):
    def saved(data: LightningDataModule) -> tuple[Any, Any]:
        logger = CSVLogger(tmp_path, version=type(data).__name__)
        trainer = tiny_trainer(tmp_path, logger=logger, limit_train_batches=1)
        trainer.fit(Linear(), datamodule=data)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        checkpoint = torch.load(tmp_path / "end.ckpt", weights_only=True)
        names = {"Own", "datamodule_hparams_name", "datamodule_hyper_parameters"}
        return logger.experiment.hparams, {name: checkpoint[name] for name in names if name in checkpoint}

    assert saved(AdaptiveDataModule(Own(6))) == saved(Own(6))
    assert Own.load_from_checkpoint(tmp_path / "end.ckpt").hparams.secret == "sesame"


def test_the_batch_size_is_the_datamodule_s_until_it_is_set():
    data = AdaptiveDataModule(Minimal(6))
    data.data.batch_size = 3
    assert (data.batch_size, len(data.train_dataloader())) == (3, 8)
    data.batch_size = 12
    assert (data.batch_size, len(data.train_dataloader()), data.data.batch_size) == (12, 2, 12)
    without = AdaptiveDataModule(LightningDataModule.from_datasets(DATASET, batch_size=8))
    assert not hasattr(without, "batch_size")
    assert len(without.train_dataloader()) == 3


def test_it_can_be_pickled_and_copied():
    for data in (AdaptiveDataModule(DATASET, B, seed=4), AdaptiveDataModule(Own(), seed=4)):
        for again in (deepcopy(data), pickle.loads(pickle.dumps(data))):
            assert type(again) is AdaptiveDataModule
            assert again.data is not data.data
            assert same(data.train_dataloader(), again.train_dataloader())
    again.setup("fit")
    assert again.calls == [("setup", "fit", False)]
    assert (data.calls, again.hparams["secret"]) == ([], "sesame")
