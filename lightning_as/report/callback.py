"""The callback that writes the report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.plugin.examples import columns_of, known_of
from lightning_as.plugin.wiring import logs_now
from lightning_as.report.drawings import as_picture, styled
from lightning_as.report.page import hardest, render, suspected
from lightning_as.report.samples import View, class_names, read
from lightning_as.report.sections import Facts, Plot, plots, times_as_often
from lightning_as.report.series import Series
from lightning_as.strategies import Strategy
from lightning_as.strategies.stream_filter import StreamFilter

PAUSE = 20.0
"""How many times as long as it took to write a page is trained before the next."""


class SamplingReport(Callback):
    """Writes a page about what was drawn, what that is worth, and which examples are hard or look wrongly labelled.

    It tells of the :class:`AdaptiveSamplingCallback` before it in the Trainer. The page is one file of HTML that needs
    nothing else, of 3 MB at most, written after an epoch, at the end, and when a fit breaks off; after short epochs now
    and then, for a twentieth of the time at most; and not under `fast_dev_run`. Its figures also go to loggers that
    have `log_image`, such as W&B's, or whose `experiment` has `add_figure`, such as TensorBoard's. What fails in all
    that is warned of, and ends no training.

    Examples are shown as pictures or texts, if the data set's samples have any: of each page those that the last one
    has not shown are read from it, 72 at most, as the loader reads them, for ten seconds at most.

    Needs matplotlib, which the extra ``plots`` has. Of several processes the first writes.

    Args:
        path: The file, which ends in .html.

    Raises:
        TypeError: If it is no path.
        ValueError: If it ends in something else.
        ModuleNotFoundError: If there is no matplotlib.
        OSError: Before training, if it cannot be written.
        MisconfigurationException: Before training, if there is no such callback, or one without a record.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_as import AdaptiveSamplingCallback
        >>> trainer = Trainer(callbacks=[AdaptiveSamplingCallback(), SamplingReport("report.html")])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"`path` must be the path of a file, got {path!r}.")
        self.path = Path(path)
        """Where the page is."""
        if self.path.suffix not in (".html", ".htm"):
            raise ValueError(f"`path={str(path)!r}` must end in .html.")
        if find_spec("matplotlib") is None:
            raise ModuleNotFoundError(
                "SamplingReport draws with matplotlib, which is not there: `pip install matplotlib`, or lightning_as "
                "with the extra `plots`."
            )
        self._series = Series()
        self._views: dict[int, View] = {}  # of the examples that the last page lists
        self._fitting = False
        self._next = 0.0  # time before which no page is written after an epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work before training."""
        self._fitting = stage == "fit"
        if not self._fitting:
            return
        self._views, self._next = {}, time.monotonic()
        adaptive = find_adaptive(trainer, self)
        if isinstance(adaptive.strategy, StreamFilter):
            raise MisconfigurationException(
                "SamplingReport tells of examples by their positions, which those of a stream have not: leave it out."
            )
        if not adaptive.keeps_record:
            raise MisconfigurationException(
                "SamplingReport tells what the record of the examples has, which `AdaptiveSamplingCallback("
                "examples=False)` does not keep: leave that argument out."
            )
        folder = self.path.resolve().parent
        if trainer.is_global_zero and (self.path.is_dir() or not os.access(folder, os.W_OK)):
            raise OSError(
                f"`path={str(self.path)!r}` of SamplingReport cannot be written: give a file in a folder that is there "
                "and yours."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what is known of a part of the data alone."""
        shard = find_adaptive(trainer, self).strategy.bins.shard
        if shard is not None and shard.shards > 1:
            raise MisconfigurationException(
                "SamplingReport tells of all examples, but with `sharded=True` each process knows its own alone: leave "
                "one of them out; `AdaptiveSamplingCallback(examples='….csv')` writes the table of each process."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the figures, when they are logged."""
        if logs_now(trainer, batch_idx):
            figures = trainer.callback_metrics
            found = {name.removeprefix("adaptive/"): float(figures[name]) for name in figures if "adaptive/" in name}
            self._note(trainer, found)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page about the epochs so far, after all that belongs to the last of them, if it is time to."""
        if time.monotonic() >= self._next:
            self._write(trainer, f"In training, after {_epochs(trainer)}.")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the distribution over the bins."""
        self._note(trainer, {})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page about all of the training."""
        if self._write(trainer, f"Training has ended, after {_epochs(trainer)}."):
            rank_zero_info(f"What was drawn, and which examples are hard: {self.path}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the page about what there is."""
        if self._fitting:
            self._write(trainer, f"Broken off by {type(exception).__name__}, after {_epochs(trainer)}.")

    def state_dict(self) -> dict[str, Any]:
        """What was noted in time; all else is the record's."""
        return self._series.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was noted, in a fit."""
        if self._fitting:
            self._series.load_state_dict(state_dict)

    def _note(self, trainer: Trainer, figures: dict[str, float]) -> None:
        strategy = find_adaptive(trainer, self).strategy
        if strategy.record is not None:
            self._series.note(strategy.record.batches, figures, lambda: times_as_often(strategy))

    def _write(self, trainer: Trainer, status: str) -> bool:
        """Write the page, if there is anything to tell, and say whether that was done."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return False
        begin, written = time.monotonic(), False
        try:
            strategy = find_adaptive(trainer, self).strategy
            if strategy.record is None or not strategy.record.batches:
                return False
            self._tell(trainer, strategy, status)
            written = True
        except Exception as error:  # a full disk, say, or of a user's data set: no training should end for a page
            rank_zero_warn(f"SamplingReport could not write {self.path}: {type(error).__name__}: {error}")
        now = time.monotonic()
        self._next = now + PAUSE * (now - begin)
        return written

    def _tell(self, trainer: Trainer, strategy: Strategy, status: str) -> None:
        """Write the page, and send its figures to the loggers."""
        loader = trainer.train_dataloader
        dataset = loader.dataset if isinstance(loader, DataLoader) else None
        columns = columns_of(strategy)
        hard, suspects = hardest(columns), suspected(known_of(strategy))
        if isinstance(loader, DataLoader):
            self._read(loader, [*hard, *suspects])
        facts = Facts(strategy, columns, self._series, class_names(dataset), hard, suspects)
        drawn = plots(facts)
        page = render(facts, drawn, self._views, status)
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(page, encoding="utf-8", errors="replace")  # of half a surrogate pair, as broken JSON has
        part.replace(self.path)
        _send(trainer, drawn)

    def _read(self, loader: DataLoader[Any], indices: Sequence[int]) -> None:
        """Have what there is to be seen of these examples, and of no others."""
        known = {index: self._views[index] for index in indices if index in self._views}
        self._views = known | read(loader, [index for index in dict.fromkeys(indices) if index not in known])


def find_adaptive(trainer: Trainer, report: SamplingReport) -> AdaptiveSamplingCallback:
    """The callback that the report is about.

    Raises:
        MisconfigurationException: If there is none before the report.
    """
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks[: callbacks.index(report)]:
        if isinstance(callback, AdaptiveSamplingCallback):
            return callback
    raise MisconfigurationException(
        "SamplingReport needs an AdaptiveSamplingCallback before it in the Trainer, of whose draws it tells: "
        "`callbacks=[AdaptiveSamplingCallback(), SamplingReport(path)]`."
    )


def _epochs(trainer: Trainer) -> str:
    epochs = trainer.current_epoch
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _send(trainer: Trainer, drawn: Sequence[Plot]) -> None:
    """Give the figures to the loggers that take any."""
    figures = {f"sampling/{plot.key}": plot.figure for plot in drawn if plot.figure is not None}
    for logger in trainer.loggers:
        try:
            _log(logger, figures, trainer.global_step)
        except Exception as error:  # each has ways of its own, and may have lost its server
            said = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"SamplingReport could not send its figures to {type(logger).__name__}: {said}")


def _log(logger: Logger, figures: Mapping[str, Any], step: int) -> None:
    if (log_image := getattr(logger, "log_image", None)) is not None:
        for name, figure in figures.items():
            log_image(key=name, images=[as_picture(figure)], step=step)
    elif (add_figure := getattr(getattr(logger, "experiment", None), "add_figure", None)) is not None:
        with styled():  # which draws them, too
            for name, figure in figures.items():
                add_figure(name, figure, step)
