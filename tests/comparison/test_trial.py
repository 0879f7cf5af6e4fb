import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback, ClosenessSampling
from lightning_as.comparison.budget import Length
from lightning_as.comparison.rivals import UNIFORM, Rival
from lightning_as.comparison.setting import Setting
from lightning_as.comparison.trial import run, try_out, undisturbed
from tests.helpers.streams import Shards, loader_of
from tests.helpers.tiny import BATCH, EPOCH, Tiny, TinyData, refused, tiny_dataset, tiny_trainer

PLAIN, CLOSENESS = Rival(UNIFORM, None), Rival("ClosenessSampling", ClosenessSampling())
CPU = {"accelerator": "cpu", "max_epochs": 2, "callbacks": [AdaptiveSamplingCallback(logits_from="net")]}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with undisturbed():
        yield
    assert list(tmp_path.iterdir()) == []  # nothing is written


def wrapped() -> AdaptiveDataModule:
    return AdaptiveDataModule(TinyData())


def run_one(setting: Setting, rival: Rival = PLAIN, seed: int = 3, **overrides: Any) -> Any:
    return run(setting, rival, seed, overrides, lambda: None)


def test_uniform_sampling_is_a_fit_without_the_callback_and_the_figure_that_of_its_last_weights(tmp_path: Path):
    class Kept(Tiny):
        made: ClassVar[list[Tiny]] = []

        def __init__(self) -> None:
            super().__init__()
            self.made.append(self)

    steps = []
    found = run(Setting(Kept, wrapped, CPU), PLAIN, 3, {}, lambda: steps.append(1))
    (module,) = Kept.made
    seed_everything(3, workers=True, verbose=False)
    ordinary, data = Tiny(), wrapped()
    tiny_trainer(tmp_path, max_epochs=2).fit(ordinary, data)
    assert all(map(torch.equal, module.state_dict().values(), ordinary.state_dict().values()))
    features, labels = tiny_dataset().tensors
    assert found.metrics == {"val/loss": pytest.approx(float(cross_entropy(module.net(features), labels).detach()))}
    assert (found.steps, len(steps)) == (2 * EPOCH, 2 * EPOCH)
    assert found.step_seconds > 0
    assert found.start_seconds >= 0


def test_a_strategy_starts_from_the_same_weights_and_samples():
    begins: dict[type, Any] = {}

    class Begin(Tiny):
        def on_train_start(self) -> None:
            kinds = [type(one).__name__ for one in self.trainer.callbacks]  # pyright: ignore
            begins["AdaptiveSamplingCallback" in kinds] = self.net[0].weight.clone()  # pyright: ignore

    setting = Setting(Begin, wrapped, CPU)
    one, other = run_one(setting), run_one(setting, CLOSENESS)
    assert torch.equal(begins[True], begins[False])
    assert one.metrics != other.metrics
    assert run_one(setting, CLOSENESS).metrics == other.metrics


def test_loaders_serve_as_well():
    def loaders() -> Any:
        return AdaptiveDataLoader(tiny_dataset(), BATCH), DataLoader(tiny_dataset(), BATCH)

    assert run_one(Setting(Tiny, loaders, CPU)).metrics == run_one(Setting(Tiny, wrapped, CPU)).metrics


class Scheduled(Tiny):
    """With a schedule that ends at zero, and the learning rates of all steps."""

    rates: list[float]

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        total = int(self.trainer.estimated_stepping_batches)
        if self.kind == "steps":
            schedule = OneCycleLR(optimizer, 0.1, total_steps=total, final_div_factor=1e9)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]
        return [optimizer], [CosineAnnealingLR(optimizer, 20)]  # by heart, in epochs

    def on_train_batch_end(self, *_: Any) -> None:
        Scheduled.rates.append(self.optimizers().param_groups[0]["lr"])  # pyright: ignore


@pytest.mark.parametrize("kind", ["steps", "epochs"])
@pytest.mark.parametrize("ends", ["max_epochs", "max_steps"])
def test_a_schedule_ends_in_a_shorter_run_where_it_ends_in_the_whole(kind: str, ends: str):
    length = {"max_epochs": {"max_epochs": 20}, "max_steps": {"max_epochs": -1, "max_steps": 20 * EPOCH}}[ends]
    setting = Setting(lambda: Scheduled(kind), wrapped, {**CPU, **length})
    last = {}
    for share in (1.0, 0.5):
        Scheduled.rates = []
        overrides = try_out(setting, PLAIN).length.scaled(share) if share < 1 else {}
        Scheduled.rates = []
        assert run_one(setting, CLOSENESS, **overrides).steps == share * 20 * EPOCH == len(Scheduled.rates)
        last[share] = Scheduled.rates[-1]
    if (kind, ends) == ("epochs", "max_steps"):
        assert last[0.5] > 10 * last[1.0]  # it cannot know
    else:
        assert max(last.values()) < 0.001  # of 0.1


def test_validations_that_are_further_apart_than_a_shorter_epoch_come_at_its_end():
    setting = Setting(Tiny, wrapped, {**CPU, "val_check_interval": EPOCH})
    assert run_one(setting, limit_train_batches=2).steps == 4
    setting = Setting(Tiny, wrapped, {**CPU, "val_check_interval": 5, "check_val_every_n_epoch": None})
    assert run_one(setting, limit_train_batches=2).steps == 4


def test_a_try_out_knows_length_figures_and_setting():
    setting = Setting(Tiny, wrapped, {**CPU, "min_epochs": 2})
    tried = try_out(setting, PLAIN)
    assert tried[:2] == (Length(2 * EPOCH, EPOCH, 2, -1), ["val/loss"])
    others = [
        try_out(setting, CLOSENESS),
        try_out(Setting(Tiny, wrapped, {**CPU, "gradient_clip_val": 1.0}), PLAIN),
        try_out(Setting(lambda: Tiny(lr=0.2), wrapped, CPU), PLAIN),
        try_out(Setting(Tiny, lambda: AdaptiveDataModule(TinyData(), batch_size=8), CPU), PLAIN),
        try_out(Setting(Tiny, lambda: AdaptiveDataModule(TinyData(size=97)), CPU), PLAIN),
    ]
    assert try_out(setting, PLAIN).fingerprint == tried.fingerprint
    assert len({tried.fingerprint, *(other.fingerprint for other in others)}) == 6


class Parts(Tiny):
    """Trains its last layer alone."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[2].parameters(), lr=self.lr, momentum=0.9)


class First(Parts):
    """Trains its first layer alone."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[0].parameters(), lr=self.lr, momentum=0.9)


def test_what_an_optimizer_is_given_counts():
    one, other = (try_out(Setting(make, wrapped, CPU), PLAIN).fingerprint for make in (Parts, First))
    assert one != other


def test_a_try_out_is_short():
    class Counting(Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            Counting.batches += 1

        def on_validation_batch_end(self, *_: Any) -> None:
            Counting.batches += 100

    try_out(
        Setting(Tiny, wrapped, {**CPU, "callbacks": [*CPU["callbacks"], Counting()]}),
        CLOSENESS,
    )
    assert Counting.batches == 202  # two, and one of each validation


class Unvalidated(LightningDataModule):
    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH)


class OfStream(TinyData):
    def train_dataloader(self) -> Any:
        return loader_of(Shards())


def test_what_cannot_be_compared_is_found_by_the_try_out():
    with refused("cannot guide: return `AdaptiveDataLoader"):
        try_out(Setting(Tiny, TinyData, CPU), PLAIN)
    with refused("by their positions, which an AdaptiveIterableLoader has not: use a map-style"):
        try_out(Setting(Tiny, OfStream, CPU), PLAIN)
    with refused("has no end: give the Trainer `max_epochs` or `max_steps`"):
        try_out(Setting(Tiny, wrapped, {"accelerator": "cpu", "max_epochs": -1}), PLAIN)
    with refused("2 processes, but rivals are compared in one: give it `devices=1`"):
        try_out(Setting(Tiny, wrapped, {**CPU, "devices": 2, "strategy": "ddp"}), PLAIN)
    with refused("`val_dataloader"):
        try_out(Setting(Tiny, Unvalidated, CPU), PLAIN)
    assert try_out(Setting(Tiny, wrapped, {**CPU, "limit_val_batches": 0}), PLAIN).metrics == []
    with refused("trained on no batch"):
        run_one(Setting(Tiny, wrapped, CPU), limit_train_batches=0)


@pytest.fixture
def heard() -> Iterator[None]:
    """Python's own answer to an interruption, which it has not where it was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interruption_is_one_and_the_next_is_heard():
    class Interrupted(Tiny):
        def on_train_batch_end(self, *_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_one(Setting(Interrupted, wrapped, CPU))
    assert signal.getsignal(signal.SIGINT) is before

    class Exits(Tiny):
        def on_train_batch_end(self, *_: Any) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        run_one(Setting(Exits, wrapped, CPU))


def test_the_rest_of_the_program_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    level, state = logging.getLogger("lightning.pytorch").level, torch.get_rng_state()
    with undisturbed():
        seed_everything(3, workers=True, verbose=False)
        assert os.environ["PL_SEED_WORKERS"] == "1"
    assert os.environ["PL_GLOBAL_SEED"] == "17"
    assert "PL_SEED_WORKERS" not in os.environ
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("lightning.pytorch").level == level
