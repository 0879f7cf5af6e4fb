"""What all rivals have in common: how the module, the data and the Trainer of a run are made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakSet

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from lightning_as.comparison.rivals import Rival

Data: TypeAlias = "LightningDataModule | tuple[DataLoader[Any], DataLoader[Any]]"
"""A DataModule; or a train and a validation loader."""

_SILENT = {
    "logger": False,
    "default_root_dir": None,
    "profiler": None,
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
}


class Setting:
    """Makes the parts of each run anew.

    Args:
        module: Makes a module.
        data: Makes its data.
        trainer: Options of the Trainer.

    Raises:
        TypeError: If one of the first two is no function, or the third no mapping.
        ValueError: If the Trainer is to end by time, or after a batch.
    """

    def __init__(
        self, module: Callable[[], LightningModule], data: Callable[[], Data], trainer: Mapping[str, Any]
    ) -> None:
        for name, value, example in (("module", module, "lambda: Net()"), ("data", data, "lambda: MNISTDataModule()")):
            if isinstance(value, LightningModule) or not callable(value):
                raise TypeError(
                    f"`{name}` must be a function that makes a new one for each run, such as `{example}`, got "
                    f"{type(value).__name__}."
                )
        if not isinstance(trainer, Mapping):
            raise TypeError(
                "`trainer` must be a dict of the Trainer's options, such as `{'max_epochs': 5}`, since each run has a "
                f"Trainer of its own, got {type(trainer).__name__}."
            )
        for name in ("max_time", "fast_dev_run"):
            if trainer.get(name):
                raise ValueError(
                    f"`trainer` has `{name}={trainer[name]!r}`, but runs of equal length are compared: leave it out, "
                    "and give `max_epochs` or `max_steps`."
                )
        self._module = module
        self._data = data
        self.options = {name: value for name, value in trainer.items() if name not in ("callbacks", *_SILENT)}
        """Those of the Trainer that hold, without the callbacks."""
        callbacks = trainer.get("callbacks") or []
        self.callbacks: list[Callback] = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
        self._made: WeakSet[Any] = WeakSet()

    def parts(self, seed: int) -> tuple[LightningModule, Data]:
        """A module and its data, of a seed that all rivals share, and with it the initial weights.

        Raises:
            TypeError: If one is none.
            ValueError: If one is what was made before.
        """
        seed_everything(seed, workers=True, verbose=False)
        module, data = self._module(), self._data()
        if not isinstance(module, LightningModule):
            raise TypeError(f"`module` must make a LightningModule, got {type(module).__name__}.")
        pair = isinstance(data, Sequence) and len(data) == 2 and all(isinstance(one, DataLoader) for one in data)
        if not (pair or isinstance(data, LightningDataModule)):
            raise TypeError(
                f"`data` must make a DataModule, or a train and a validation loader, got {type(data).__name__}."
            )
        for name, part in (("module", module), ("data", data[0] if isinstance(data, Sequence) else data)):
            if part in self._made:
                raise ValueError(
                    f"`{name}` gave the same object as before, which has been trained with: have it make a new one."
                )
            self._made.add(part)
        return module, data

    def trainer(
        self, rival: Rival, folder: str, first: Callback, last: Callback, overrides: Mapping[str, Any]
    ) -> Trainer:
        """A Trainer that says nothing and writes nothing.

        Loggers are there for modules that talk to them, and keep nothing; there are no checkpoints, bars, summaries
        and profiles.

        Args:
            rival: By whose callback it samples.
            folder: What it takes for the place of its files.
            first: A callback to stand before all others.
            last: A callback to stand behind all others.
            overrides: Further options, over those that were given.
        """
        own = {"logger": DummyLogger(), "default_root_dir": folder}
        callbacks = [first, *rival.callbacks(self.callbacks), last]
        options = copy.deepcopy(self.options)
        return Trainer(**{**options, **_SILENT, **own, **overrides, "callbacks": callbacks})
