"""Whether a strategy is better than shuffled epochs, on a module and data of one's own: several seeds, two budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule
from tqdm.auto import tqdm

from lightning_as.comparison.budget import Budget, equal_time_share
from lightning_as.comparison.monitor import Mode, choose_monitor
from lightning_as.comparison.outcome import Metric, Outcome, as_metric, check_installed, outcomes, verdict
from lightning_as.comparison.report import table, write_report
from lightning_as.comparison.results import Results, Run
from lightning_as.comparison.rivals import UNIFORM, Rival, make_rivals
from lightning_as.comparison.setting import Data, Setting
from lightning_as.comparison.trial import TryOut, run, try_out, undisturbed
from lightning_as.core.arguments import check_choice, check_integer
from lightning_as.strategies import Strategy


class Comparison(NamedTuple):
    """What came out of :func:`compare`."""

    rows: list[Outcome]
    """Uniform sampling, and each strategy at equal steps and at equal time."""
    verdict: str
    """Whether each strategy is better at equal time, in a sentence, a line for each."""
    metric: Metric
    """What decided."""
    runs: list[Run]
    """All runs that count, as in `results.csv`."""
    notes: list[str]
    """What else there is to know, such as that there is no figure."""

    def table(self) -> str:
        """The rows as a table in Markdown, which can be read as text, too."""
        return table(self.rows, self.metric)


def compare(
    module: Callable[[], LightningModule],
    data: Callable[[], Data],
    trainer: Mapping[str, Any],
    strategies: Mapping[str, Strategy] | Sequence[Strategy] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    monitor: str | None = None,
    mode: Mode | None = None,
    out: str | Path = "compare",
) -> Comparison:
    """Compare strategies with uniform sampling: plain shuffled epochs, without the callback.

    For each seed all rivals train from the same initial weights: for the same number of steps, and each strategy once
    more for as many steps as fit into the time that uniform sampling took, by the time of a step, in the median over
    the seeds; where that is more than 99 % of the steps, the first run serves for both.
    Schedules see the length of each run: `max_epochs` stays, with shorter epochs, `max_steps` and
    `estimated_stepping_batches` become less. Numbers of steps that the module has by heart cannot follow.

    Every run is written to `results.csv` in the folder `out` when it is done, and is not run again by the next call;
    those of another setting are left alone. Where more seeds tell another share of the steps for equal time, runs at
    equal time are made anew. `report.md` has the table, the figure `compare.png` the differences.

    All that writes is off: loggers, checkpoints, bars, summaries, profilers, and the callbacks of this package but
    :class:`AdaptiveSamplingCallback`. Your own callbacks stay. The global random state stays as it was.

    Args:
        module: Makes a module; called anew for each run, right after the seed is set.
        data: Makes its data, after the module: a DataModule of the package, an :class:`AdaptiveDataModule`, one with an
            :class:`AdaptiveDataLoader`; or such a loader and a validation loader.
        trainer: Options of the Trainer. An :class:`AdaptiveSamplingCallback` among the ``callbacks`` tells its own,
            such as `logits_from`; without one they are the defaults.
        strategies: What is compared, new objects, named by their classes and options, or by a dict. Default: the
            strategy of that callback.
        seeds: A run of each rival and budget for each; one alone says little. Default: 0, 1 and 2.
        monitor: What decides, of what validation logs, as it is after a run. Default: the only figure of which more is
            better by its name, such as ``val/accuracy``; or else the only one of which less is.
        mode: ``"max"`` if more of it is better, ``"min"`` if less is. Default: by its name.
        out: Folder of the results. Default: ``"compare"``, in the working directory.

    Returns:
        The rows of the table, the verdict, and the runs.

    Raises:
        TypeError: If an argument is not what it must be.
        ValueError: If an argument is out of its range; `monitor` is not logged, or cannot be chosen; `out` cannot be
            written.
        ModuleNotFoundError: If SciPy is not installed: ``pip install "lightning-as[compare]"``.
        MisconfigurationException: If a rival cannot train, which is tried on two batches before all else.
        KeyboardInterrupt: If it is broken off. The runs that were done are kept.

    Example:
        >>> found = compare(  # doctest: +SKIP
        ...     lambda: Net(), lambda: AdaptiveDataModule(MyData()), {"max_epochs": 5}, [ClosenessSampling()]
        ... )
        >>> print(found.verdict)  # doctest: +SKIP
    """
    check_installed()
    _check(seeds, mode)
    setting = Setting(module, data, trainer)
    rivals = make_rivals(strategies, setting.callbacks)
    results = Results(out)
    with undisturbed():
        tried = {rival: try_out(setting, rival) for rival in rivals}
        monitor, mode = choose_monitor(tried[rivals[0]].metrics, monitor, mode)
        try:
            runs = _Schedule(setting, tried, seeds, results).run()
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"Broken off. {len(results.runs)} runs are in {results.path}: the same call goes on from there."
            ) from error
    metric = as_metric(monitor, mode, runs)
    rows = outcomes(runs, metric, UNIFORM)
    said = "\n".join(verdict(row, metric) for row in rows if row.budget == "time")
    of_all = [one for own in runs.values() for one in own]
    notes = _notes(of_all, results)
    missing = write_report(results.folder, rows, said, metric, runs, notes)
    return Comparison(rows, said, metric, of_all, [*notes, *([missing] if missing else [])])


class _Schedule:
    """Runs what is missing: all at equal steps, from which it is known how many are to be made in equal time."""

    def __init__(self, setting: Setting, tried: dict[Rival, TryOut], seeds: Sequence[int], results: Results) -> None:
        self._setting = setting
        self._tried = tried
        self._seeds = seeds
        self._results = results
        self._bar: tqdm[Any]

    def run(self) -> dict[tuple[str, Budget], list[Run]]:
        """All runs, by rival and budget, seed by seed."""
        found: dict[tuple[str, Budget], list[Run]] = {(rival.name, "steps"): [] for rival in self._tried}
        left = self._left()
        with tqdm(total=left, unit="step", smoothing=0, disable=left == 0) as self._bar:
            for seed in self._seeds:
                for rival in self._tried:
                    found[rival.name, "steps"].append(self._one(rival, seed, "steps", 1.0))
            uniform, *others = self._tried
            for rival in others:
                own = found[rival.name, "steps"]
                found[rival.name, "time"] = self._in_time(rival, found[uniform.name, "steps"], own)
        return found

    def _in_time(self, rival: Rival, uniform: list[Run], own: list[Run]) -> list[Run]:
        """The runs of a strategy in uniform sampling's time, which may be those of the same number of steps."""
        tried = self._tried[rival]
        times = [
            [(one.trial.start_seconds, one.trial.steps * one.trial.step_seconds) for one in of] for of in (uniform, own)
        ]
        share = equal_time_share(*times, steps=tried.length.total)
        counted, needed = (
            sum(self._results.find(tried.fingerprint, run.seed, "time", one) is None for run in own)
            for one in (None, share)
        )
        steps = tried.length.total
        self._bar.total += (0 if share == 1 else needed * round(share * steps)) - counted * steps
        return [run if share == 1 else self._one(rival, run.seed, "time", share) for run in own]

    def _one(self, rival: Rival, seed: int, budget: Budget, share: float) -> Run:
        """A run, from the table if it is there."""
        tried = self._tried[rival]
        there = self._results.find(tried.fingerprint, seed, budget, share)
        if there is not None:
            return there
        self._bar.set_description(f"seed {seed}, {rival.name}, equal {budget}")
        overrides = {} if share == 1 else tried.length.scaled(share)
        trial = run(self._setting, rival, seed, overrides, self._bar.update)
        self._results.add(Run(rival.name, seed, budget, trial, tried.fingerprint, share))
        return self._results.runs[-1]

    def _left(self) -> int:
        """Steps that are left to be trained, where runs at equal time count as those at equal steps."""
        return sum(
            tried.length.total
            for rival, tried in self._tried.items()
            for budget in (("steps",) if rival.strategy is None else ("steps", "time"))
            for seed in self._seeds
            if self._results.find(tried.fingerprint, seed, budget) is None
        )


def _check(seeds: Sequence[int], mode: Mode | None) -> None:
    """Raise if the seeds are none, or the mode is."""
    if isinstance(seeds, (str, int)) or not isinstance(seeds, Sequence) or len(seeds) == 0:
        raise ValueError(f"`seeds` must be a list of at least one, such as `[0, 1, 2]`, got {seeds!r}.")
    for seed in seeds:
        check_integer("seeds", seed, least=0)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` has one twice, which would count one run as two: {list(seeds)}.")
    if mode is not None:
        check_choice("mode", mode, ("max", "min"))


def _notes(runs: Sequence[Run], results: Results) -> list[str]:
    """What a reader of the table is to know beside it."""
    notes = []
    strange = len(results.runs) - len({id(one) for one in runs})
    if strange > 0:
        notes.append(
            f"{strange} runs in {results.path.name} are of other settings, seeds or shares, and do not count here."
        )
    steps = {one.trial.steps for one in runs if one.budget == "steps"}
    if len(steps) > 1:
        notes.append(
            f"Runs at equal steps have from {min(steps)} to {max(steps)} steps: something ended them early, such as an "
            "early stopping, and they are not what their name says."
        )
    return notes
