"""A resumed fit is the uninterrupted one, bit for bit: its batches, its law and its parameters."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback, Strategy, Uniform, cli
from tests.helpers.tiny import (
    BATCH,
    EPOCH,
    Recording,
    Tiny,
    TinyData,
    differences,
    make_data,
    tiny_dataset,
    tiny_trainer,
)
from tests.helpers.versions import counted


class Scheduled(Tiny):
    """Asks for the number of steps ahead, for which Lightning makes the train loader before it restores its loops."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithLoaders(Tiny):
    """Has its own loaders, and so no DataModule."""

    num_workers = 0

    def train_dataloader(self) -> AdaptiveDataLoader:
        return AdaptiveDataLoader(tiny_dataset(), BATCH, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny_dataset(), BATCH)


class Setting(NamedTuple):
    """What is trained, on which data, and with which options of the Trainer."""

    num_workers: int = 0
    module: type[Tiny] = Tiny
    data: str = "wrapped"
    options: tuple[tuple[str, Any], ...] = (("max_epochs", 3),)


class Outcome(NamedTuple):
    """What a fit ended with."""

    strategy: Recording
    weights: dict[str, Tensor]
    messages: list[str]


def fit(setting: Setting, folder: Path, callbacks: list[Callback], seed: int, ckpt_path: Any = None) -> Outcome:
    """A fit of its own: only the checkpoint can make it equal to one with another seed."""
    seed_everything(seed, verbose=False)
    strategy, module = Recording(), setting.module()
    data = make_data(setting.data, setting.num_workers)
    if isinstance(module, WithLoaders):
        module.num_workers, data = setting.num_workers, None
    trainer = tiny_trainer(
        folder,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), *callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        val_check_interval=3,
        limit_val_batches=1,
        **dict(setting.options),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return Outcome(strategy, module.state_dict(), [str(one.message) for one in caught])


def check(rest: Outcome, whole: Outcome, done: int) -> None:
    """Check that a resumed fit has gone on as the uninterrupted one did after the steps that were `done`."""
    assert 0 < len(rest.strategy.indices()) == len(whole.strategy.indices()) - done
    assert rest.strategy.indices() == whole.strategy.indices()[done:]
    assert torch.equal(rest.strategy.probabilities(), whole.strategy.probabilities())
    assert differences(rest.strategy.state_dict(), whole.strategy.state_dict()) == []
    assert differences(rest.weights, whole.weights) == []
    assert not [message for message in rest.messages if "resum" in message.lower() or "mid-epoch" in message]


Whole = Callable[[Setting], tuple[Outcome, Path]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The fit with a setting, without a break, and the folder with the checkpoints that it left."""
    known: dict[Setting, tuple[Outcome, Path]] = {}

    def get(setting: Setting) -> tuple[Outcome, Path]:
        if setting not in known:
            folder = tmp_path_factory.mktemp("whole")
            saving: list[Callback] = [
                ModelCheckpoint(folder, "batch-{step}", every_n_train_steps=1, save_top_k=-1),
                ModelCheckpoint(folder, "epoch-{step}", save_on_train_epoch_end=True, save_top_k=-1),
                # The mode is there because Lightning wants them to differ in something that it looks at.
                ModelCheckpoint(folder, "validation-{step}", save_on_train_epoch_end=False, save_top_k=-1, mode="max"),
            ]
            known[setting] = fit(setting, folder, saving, seed=0), folder
        return known[setting]

    return get


class At(Callback):
    """Does something when so many batches have been trained on."""

    def __init__(self, steps: int, action: Callable[[], None], hook: str) -> None:
        def act(trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == steps:
                action()

        setattr(self, hook, act)


def fail() -> None:
    raise ValueError("something broke")


def interrupted(setting: Setting, folder: Path, hook: str, steps: int = 8) -> Path:
    """The checkpoint of a fit that broke off when so many batches had been trained on."""
    with pytest.raises(ValueError, match="something broke"):
        fit(setting, folder, [At(steps, fail, hook), OnExceptionCheckpoint(folder)], seed=0)
    return folder / "on_exception.ckpt"


MOMENTS = {
    "mid-epoch": ("batch-step=7.ckpt", 7),
    "last batch of an epoch": ("batch-step=12.ckpt", 12),
    "end of an epoch": ("epoch-step=12.ckpt", 12),
    "validation in an epoch": ("validation-step=9.ckpt", 9),
    "validation at the end of an epoch": ("validation-step=12.ckpt", 12),
    "exception": ("", 8),
}
EACH_MOMENT = pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=counted) if "last batch" in name else name for name in MOMENTS]
)


def resume(moment: str, setting: Setting, folder: Path, uninterrupted: Whole) -> None:
    """Check that a fit that is resumed from a checkpoint of the moment is exact."""
    whole, saved = uninterrupted(setting)
    name, done = MOMENTS[moment]
    path = saved / name if name else interrupted(setting, folder, "on_before_backward")
    check(fit(setting, folder, [], seed=1, ckpt_path=path), whole, done)


WORKERS = pytest.mark.parametrize("num_workers", [0, 2])
# Both in the third epoch.
ENDS: dict[str, dict[str, Any]] = {
    "max_epochs": {"max_epochs": 3},
    "max_steps": {"max_epochs": -1, "max_steps": 2 * EPOCH + 4},
}


@WORKERS
@pytest.mark.parametrize("module", [Tiny, Scheduled])
@pytest.mark.parametrize("end", ENDS)
@EACH_MOMENT
def test_a_resumed_fit_is_the_uninterrupted_one(
    num_workers: int, module: type[Tiny], end: str, moment: str, tmp_path: Path, uninterrupted: Whole
):
    resume(moment, Setting(num_workers, module, options=tuple(ENDS[end].items())), tmp_path, uninterrupted)


RELOAD = (("max_epochs", 3), ("reload_dataloaders_every_n_epochs", 1))


@WORKERS
@pytest.mark.parametrize(
    "setting",
    [
        Setting(module=WithLoaders),
        Setting(options=RELOAD),
        Setting(data="ready"),
        Setting(data="ready", options=RELOAD),
    ],
    ids=["loader of the module", "reloaded", "ready", "ready, reloaded"],
)
@EACH_MOMENT
def test_wherever_the_loader_is_made_a_resumed_fit_is_the_uninterrupted_one(
    num_workers: int, setting: Setting, moment: str, tmp_path: Path, uninterrupted: Whole
):
    resume(moment, setting._replace(num_workers=num_workers), tmp_path, uninterrupted)


@WORKERS
@pytest.mark.parametrize(
    ("option", "name", "done"),
    [
        pytest.param(("limit_train_batches", 4), "batch-step=6.ckpt", 6, marks=counted),
        (("limit_train_batches", 4), "batch-step=8.ckpt", 8),
        (("limit_train_batches", 4), "epoch-step=8.ckpt", 8),
        pytest.param(("accumulate_grad_batches", 2), "batch-step=4.ckpt", 8, marks=counted),
        pytest.param(("accumulate_grad_batches", 2), "batch-step=6.ckpt", 12, marks=counted),
    ],
)
def test_epochs_cut_short_and_accumulated_gradients_are_resumed_exactly(
    num_workers: int, option: tuple[str, int], name: str, done: int, tmp_path: Path, uninterrupted: Whole
):
    setting = Setting(num_workers, options=(("max_epochs", 3), option))
    whole, saved = uninterrupted(setting)
    check(fit(setting, tmp_path, [], seed=1, ckpt_path=saved / name), whole, done)


IN_TRAINING = [
    (0, "on_train_batch_start"),
    (8, "on_train_batch_start"),
    (8, "on_after_backward"),
    (8, "on_train_batch_end"),
    (12, "on_train_epoch_end"),
]
# Without workers: Lightning would leave them running, and the next garbage collection wait 10 seconds for them.
IN_VALIDATION = [(9, "on_validation_start"), (12, "on_validation_end")]


@pytest.mark.parametrize(
    ("num_workers", "steps", "hook"),
    [(num_workers, *at) for num_workers in (0, 2) for at in IN_TRAINING]
    + [pytest.param(num_workers, 12, "on_train_batch_end", marks=counted) for num_workers in (0, 2)]
    + [(0, *at) for at in IN_VALIDATION],
)
def test_an_exception_anywhere_in_the_loop_is_resumed_exactly(
    num_workers: int, steps: int, hook: str, tmp_path: Path, uninterrupted: Whole
):
    setting = Setting(num_workers)
    path = interrupted(setting, tmp_path, hook, steps)
    check(fit(setting, tmp_path, [], seed=1, ckpt_path=path), uninterrupted(setting)[0], steps)


@WORKERS
def test_a_fit_that_is_resumed_twice_in_one_epoch_is_the_uninterrupted_one(
    num_workers: int, tmp_path: Path, uninterrupted: Whole
):
    setting = Setting(num_workers)
    whole, saved = uninterrupted(setting)
    stop = [At(10, fail, "on_before_backward"), OnExceptionCheckpoint(tmp_path)]
    with pytest.raises(ValueError, match="something broke"):
        fit(setting, tmp_path, stop, seed=1, ckpt_path=saved / "batch-step=8.ckpt")
    check(fit(setting, tmp_path, [], seed=2, ckpt_path=tmp_path / "on_exception.ckpt"), whole, 10)


@WORKERS
def test_a_checkpoint_is_plain_data_and_has_the_batches_in_flight(num_workers: int, uninterrupted: Whole):
    whole, saved = uninterrupted(Setting(num_workers))
    checkpoint = torch.load(saved / "batch-step=7.ckpt", weights_only=True)
    state = checkpoint["callbacks"]["AdaptiveSamplingCallback"]["sampler"]
    in_flight = whole.strategy.indices()[7 : 7 + 2 * num_workers]
    assert [draw["indices"].tolist() for draw in state["pending"]] == in_flight
    assert torch.load(saved / "epoch-step=12.ckpt", weights_only=True).keys() == checkpoint.keys()


def fit_until(step: int, number: int, setting: Setting, folder: Path, saving: Callback) -> None:
    """A fit that gets a signal amid a step."""
    fit(setting, folder, [At(step, lambda: os.kill(os.getpid(), number), "on_before_backward"), saving], seed=0)


def in_a_process(step: int, number: int, setting: Setting, folder: Path, saving: Callback) -> int:
    """The same in a process of its own. It is not forked from this one, whose threads it would wait for in vain.

    Returns:
        Its exit code; negative is the signal that ended it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_resume"])
    arguments = (step, number, setting, folder, saving)
    process = context.Process(target=fit_until, args=arguments)  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    end = time.monotonic() + 60
    # `join` would wait for the workers that the process leaves behind if it is killed.
    while process.exitcode is None:
        if time.monotonic() > end:
            process.kill()
            pytest.fail("The process hangs.")
        time.sleep(0.01)
    return process.exitcode


SIGNALLED = pytest.mark.parametrize("module", [Tiny, Scheduled])


@WORKERS
@SIGNALLED
def test_after_sigterm_a_resumed_fit_is_the_uninterrupted_one(
    num_workers: int, module: type[Tiny], tmp_path: Path, uninterrupted: Whole
):
    setting = Setting(num_workers, module)
    saving = OnExceptionCheckpoint(tmp_path)
    assert in_a_process(7, signal.SIGTERM, setting, tmp_path, saving) != -signal.SIGTERM
    rest = fit(setting, tmp_path, [], seed=1, ckpt_path=saving.ckpt_path)
    check(rest, uninterrupted(setting)[0], 8)  # Lightning finishes the batch


@WORKERS
@SIGNALLED
def test_after_kill_9_a_fit_that_is_resumed_from_the_last_checkpoint_is_the_uninterrupted_one(
    num_workers: int, module: type[Tiny], tmp_path: Path, uninterrupted: Whole
):
    setting = Setting(num_workers, module)
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    assert in_a_process(9, signal.SIGKILL, setting, tmp_path, saving) == -signal.SIGKILL
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=4.ckpt", "step=8.ckpt"}
    check(fit(setting, tmp_path, [], seed=1, ckpt_path=tmp_path / "step=8.ckpt"), uninterrupted(setting)[0], 8)


def another_order(dataset: Any) -> Tensor:
    return dataset.tensors[1].flip(0)


@pytest.mark.parametrize(
    ("data", "strategy", "message"),
    [
        (lambda: AdaptiveDataModule(TinyData(size=80)), Recording, "96 instances in 4 bins, here 80 in 4"),
        (lambda: AdaptiveDataModule(TinyData(), bins=None), Recording, "96 instances in 4 bins, here 96 in 1"),
        (lambda: AdaptiveDataModule(TinyData(), bins=another_order), Recording, "in another order"),
        (lambda: make_data("wrapped"), Uniform, "strategy Recording, but here it is Uniform"),
        (lambda: AdaptiveDataModule(TinyData(batch_size=8)), Recording, "`batch_size` 16, but here it is 8"),
    ],
)
@pytest.mark.filterwarnings("ignore:::lightning")
def test_a_checkpoint_of_something_else_is_refused_with_both_values(
    data: Callable[[], Any], strategy: type[Strategy], message: str, tmp_path: Path, uninterrupted: Whole
):
    _, saved = uninterrupted(Setting())
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(strategy(), logits_from="net")], max_epochs=3)
    with pytest.raises(ValueError, match=message):
        trainer.fit(Tiny(), datamodule=data(), ckpt_path=saved / "batch-step=8.ckpt")


# Without dropout: it draws from a random state that Lightning does not save.
COMMAND = """fit --model.dropout=0 --data.batch_size=64
    --trainer.max_epochs=2 --trainer.limit_train_batches=4 --trainer.limit_val_batches=2 --trainer.accelerator=cpu
    --trainer.logger=false --trainer.enable_progress_bar=false --trainer.enable_model_summary=false
    --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.every_n_train_steps=2 --trainer.callbacks.save_top_k=-1
    --trainer.callbacks.filename={step}"""


@counted
@pytest.mark.filterwarnings("ignore")
def test_a_fit_of_the_command_line_is_resumed_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist: Any):
    monkeypatch.setattr("lightning_as.data.mnist.load_mnist", lambda part, data_dir=None: mnist[part])
    monkeypatch.chdir(tmp_path)

    def last_checkpoint(folder: Path, *arguments: str) -> tuple[Any, Any]:
        flags = [*COMMAND.split(), f"--trainer.callbacks.dirpath={folder}", *arguments]
        monkeypatch.setattr(sys, "argv", ["lightning-as", *flags])
        cli.main()
        saved = torch.load(folder / "step=8.ckpt", weights_only=True)
        return saved["callbacks"]["AdaptiveSamplingCallback"], saved["state_dict"]

    state, weights = last_checkpoint(tmp_path / "whole")
    resumed = last_checkpoint(tmp_path / "rest", "--seed_everything=1", "--ckpt_path=whole/step=6.ckpt")
    assert differences(resumed[0], state) == []
    assert differences(resumed[1], weights) == []
