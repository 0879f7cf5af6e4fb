"""The part of the callback that a user asks about the examples."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_as.plugin.examples import Table, as_table, can_write, check_path, columns_of, known_of, write
from lightning_as.plugin.suspects import suspects_of
from lightning_as.strategies import Strategy
from lightning_as.strategies.stream_filter import StreamFilter


class Recorded(Callback):
    """A callback whose strategy keeps a record of each instance.

    Args:
        examples: As in :class:`AdaptiveSamplingCallback`.

    Raises:
        TypeError: If it is neither a bool nor a path.
        ValueError: If it is a path to no table.
    """

    _strategy: Strategy

    def __init__(self, examples: bool | str) -> None:
        self.keeps_record = examples is not False
        """Whether there is, or will be, something to tell of the examples."""
        self.examples_path: Path | None = None if isinstance(examples, bool) else check_path(examples)
        """Where the table is written at the end of a fit; None for nowhere."""

    def examples(self) -> Table:
        """What training has shown of each instance, one row of each in the data set's order, amid a fit or after it.

        Returns:
            A `pandas.DataFrame` where pandas is installed, else a dict of arrays (N,), with the columns that
            `lightning_as.plugin.examples.COLUMNS` explains: integers where all are known, else with NaN. What goes by
            logits is known where they are at hand and each sample has one label.

        Raises:
            RuntimeError: Before anything was trained on, and with ``examples=False``.
        """
        return as_table(columns_of(self._strategy))

    def suspects(self) -> Table:
        """The examples whose labels look wrong: a list to check by eye, the most suspected first.

        What is hard and right is on it, too: see `docs/suspects.md` for how much of it is wrong.

        Returns:
            A `pandas.DataFrame` where pandas is installed, else a dict of arrays (M,), with the columns that
            `lightning_as.plugin.suspects.COLUMNS` explains: a row for each of the M examples that were trained on with
            logits at hand, of which those are ``suspected`` that are above a threshold. Equal scores are in the data
            set's order.

        Raises:
            RuntimeError: Before anything was trained on, and with ``examples=False``.
            MisconfigurationException: If there are no logits at hand, or not one class of each example.
        """
        return as_table(suspects_of(known_of(self._strategy)))

    def _begin_record(self, trainer: Trainer) -> None:
        """Have the strategy keep the record; refuse, in all processes, a file that the first one cannot write.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the examples are of a stream, of which there is no record.
        """
        self._strategy.keep_record(self.keeps_record)
        if (path := self.examples_path) is None:
            return
        if isinstance(self._strategy, StreamFilter):
            raise ValueError(
                f"`examples={str(path)!r}` is a table by positions, which the examples of a stream have not, so that "
                f"{type(self._strategy).__name__} keeps no record of them: leave it out."
            )
        if not trainer.strategy.broadcast(not trainer.is_global_zero or can_write(path)):
            raise OSError(
                f"`examples={str(path)!r}` cannot be written: give a file in a folder that is there and yours."
            )

    def _write_examples(self, trainer: Trainer) -> None:
        """Write the table, if that was asked for, and there is one. A full disk, say, ends no training.

        That of the few batches of a `fast_dev_run` would take the place of a real one.
        """
        record, trial = self._strategy.record, trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        if (path := self.examples_path) is None or record is None or not record.batches or trial:
            return
        if self._strategy.bins.shard is not None:  # each process has rows of its own
            path = path.with_suffix(f".{trainer.global_rank}{path.suffix}")
        elif not trainer.is_global_zero:
            return
        try:
            write(columns_of(self._strategy), path)
        except Exception as error:  # which must not hide one that ends the fit
            said = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"The table of the examples could not be written: {said}. `callback.examples()` has it.")
