"""One run: a fit that is timed, and a validation of what came out of it; and a try-out of a few batches before."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_as.comparison.budget import Length
from lightning_as.comparison.clock import Clock
from lightning_as.comparison.fingerprint import describe, describe_dataset, fingerprint
from lightning_as.comparison.rivals import Rival
from lightning_as.comparison.setting import Data, Setting
from lightning_as.data.iterable import AdaptiveIterableLoader
from lightning_as.plugin.wiring import find_loader, length_of_training

_TRIED_BATCHES = 2


class Trial(NamedTuple):
    """What came out of a run."""

    steps: int
    start_seconds: float
    """Before the first step."""
    step_seconds: float
    """For each step."""
    metrics: dict[str, float]
    """What validation logged at the end, by name."""


class TryOut(NamedTuple):
    """What a few batches tell."""

    length: Length
    metrics: list[str]
    """Names of what validation logs."""
    fingerprint: str
    """Of the setting and the rival."""


def run(setting: Setting, rival: Rival, seed: int, overrides: Mapping[str, Any], on_step: Callable[[], Any]) -> Trial:
    """Train, and validate the module as it is then.

    Args:
        setting: What is trained.
        rival: How it is sampled.
        seed: Of the run.
        overrides: Options of the Trainer that make its length.
        on_step: Called after each step.

    Raises:
        KeyboardInterrupt: If it is broken off.
    """
    clock = Clock(on_step)
    module, data = setting.parts(seed)
    options = {**_validation(setting.options, overrides), **overrides}
    with tempfile.TemporaryDirectory() as folder:
        trainer = setting.trainer(rival, folder, clock.beginning, clock, options)
        metrics = _fit(trainer, module, data)
    if clock.steps == 0:
        raise MisconfigurationException("The Trainer trained on no batch: leave out `limit_train_batches=0`.")
    return Trial(clock.steps, clock.start_seconds, clock.step_seconds(), metrics)


def try_out(setting: Setting, rival: Rival) -> TryOut:
    """Train on two batches and validate on one, with the schedules and the length of the whole run in view.

    Raises:
        MisconfigurationException: If the training has no end, or is one of several processes.
    """
    look = _Look()
    module, data = setting.parts(seed=0)
    limit = {} if setting.options.get("limit_val_batches") == 0 else {"limit_val_batches": 1}
    with tempfile.TemporaryDirectory() as folder:
        never = {"min_epochs": None, "min_steps": None, "num_sanity_val_steps": 0}
        trainer = setting.trainer(rival, folder, look, Callback(), {**limit, **never})
        if trainer.world_size > 1:
            raise MisconfigurationException(
                f"The Trainer has {trainer.world_size} processes, but rivals are compared in one: give it `devices=1`."
            )
        metrics = _fit(trainer, module, data)
        loaders = trainer.val_dataloaders
    assert look.length is not None
    loaders = [loaders] if isinstance(loaders, DataLoader) else loaders or []
    validated = [
        (describe_dataset(loader.dataset), loader.batch_size, loader.collate_fn)
        for loader in loaders
        if isinstance(loader, DataLoader)
    ]
    seen = (setting.options, rival.callbacks(setting.callbacks), rival.strategy, look.seen, validated)
    return TryOut(look.length, sorted(metrics), fingerprint(*seen))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves the global random state, and what `seed_everything` sets, as they were; Lightning says only warnings."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        for logger in loggers:
            logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        with isolate_rng():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _Look(Callback):
    """Notes what a run is made of before its first batch, and ends it after a few."""

    length: Length | None = None
    seen: str = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader, sampler = find_loader(trainer)
        total, epoch = length_of_training(trainer)
        if total is None:
            raise MisconfigurationException("The training has no end: give the Trainer `max_epochs` or `max_steps`.")
        self.length = Length(total, epoch, -1 if trainer.max_epochs is None else trainer.max_epochs, trainer.max_steps)
        if isinstance(loader, AdaptiveIterableLoader):
            raise MisconfigurationException(
                "`compare` trains several times on the same instances, by their positions, which an "
                "AdaptiveIterableLoader has not: use a map-style data set."
            )
        batches: Any = loader.dataset
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        groups = [group["params"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        parts = (
            self.length,
            pl_module,
            dict(pl_module.hparams),
            [str(optimizer) for optimizer in trainer.optimizers],
            [[names.get(id(parameter)) for parameter in group] for group in groups],
            [(type(schedule), schedule.state_dict()) for schedule in schedules],
            (sampler.data, sampler.batch_size, sampler.bins.tags, loader.num_workers),
            describe_dataset(batches),
            dict(getattr(getattr(trainer, "datamodule", None), "hparams", {})),
        )
        self.seen = describe(parts)  # now, before training changes any of them

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready >= _TRIED_BATCHES:
            trainer.should_stop = True


def _fit(trainer: Trainer, module: LightningModule, data: Data) -> dict[str, float]:
    """Fit and validate, and give what validation logged."""
    with _interruptible():
        if isinstance(data, tuple | list):
            _until_interrupted(trainer, lambda: trainer.fit(module, *data))
            _until_interrupted(trainer, lambda: trainer.validate(module, data[1], verbose=False))
        else:
            _until_interrupted(trainer, lambda: trainer.fit(module, datamodule=data))
            _until_interrupted(trainer, lambda: trainer.validate(module, datamodule=data, verbose=False))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _until_interrupted(trainer: Trainer, work: Callable[[], object]) -> None:
    """Do something; an interruption, which Lightning makes an exit or keeps to itself, is one again."""
    try:
        work()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    if trainer.state.status == TrainerStatus.INTERRUPTED:
        raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning ignores further interruptions once there was one; they are heard again."""
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if on_main and before is not None:
            signal.signal(signal.SIGINT, before)


def _validation(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Validations after as many batches as were given, or after all of an epoch that is shorter."""
    every, longest = options.get("val_check_interval"), overrides.get("limit_train_batches")
    per_epoch = options.get("check_val_every_n_epoch", 1) is not None
    if per_epoch and longest is not None and isinstance(every, int) and every > longest:
        return {"val_check_interval": longest}
    return {}
