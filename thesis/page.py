"""The evidence page, ``docs/evidence.md``, from ``thesis/evidence.md``: each of its numbers is taken from the results.

In the source ``{name}`` or ``{name:digits}`` stands for a number, with two significant digits unless it says otherwise.
A name is a path, and the end of it the part that is meant:

* ``claims/SETTING/AGAINST/STATISTIC``: a ratio of costs of Tables 3 and 4, ``…/low`` and ``…/high`` its interval;
* ``arms/QUESTION/SETTING/DATA/ARM/COLUMN``: what stands in the tables of questions 2 to 4, likewise;
* ``times/QUESTION/TARGET/SETTING/ARM/COLUMN``: of questions 5 and 6; the target is ``1e-2``, ``1e-3`` or ``99.3``;
* ``collapse/SETTING/ARM/SEED/COLUMN``: the long trainings of question 3, and ``collapse/SETTING/ARM/smallest_p`` the
  smallest of all of them;
* ``long/SETTING/ARM/SEED/cost``: where any training on the full data ends that goes on beyond epoch 15, over its last
  three epochs, and ``long/SETTING/ARM/SEED/EPOCH`` its cost after an epoch;
* ``theirs/SETTING/ARM/cost``, ``…/accuracy``, ``…/over_OBS``: where the trainings in the set-up of OBS's authors end,
  the median over the seeds and its interval, and the ratio of the costs, paired over the seeds;
* ``jumps/ARM``: in how many of the epochs 6 to 15 of the thesis's cells the mean training cost is more than ten times
  that of the epoch before, and ``jumps/ARM/epochs`` of how many;
* ``default/ARM/COLUMN``: the choice of the default;
* ``time/obs_low``, ``time/obs_high``: of OBS over that of AS, in the settings with the smallest and the largest;
* ``noise/…`` and ``layer/…``: see :func:`thesis.variance.numbers`.

``{table claims}`` is the table of the thesis's claims, and ``{rule}`` how they are judged. A setting is such as
``adam_64``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

from thesis.claims import RULE, claims, claims_table
from thesis.comparison import Estimate, Ratio, as_text, median, ratio
from thesis.evidence import Evidence, late_accuracy, late_cost, of
from thesis.grid import APART
from thesis.printed import ARMS, BATCH_SIZES, EPOCH, OPTIMIZERS
from thesis.results import Run, timed
from thesis.tables import Tables
from thesis.variance import layer_rows, noise_rows
from thesis.variance import numbers as variance_numbers

SOURCE = Path(__file__).parent / "evidence.md"
_PLACE = re.compile(r"\{([^{}:\s]+)(?::(\d))?\}")
_TARGETS = {"training cost 1e-2": "1e-2", "training cost 1e-3": "1e-3", "test accuracy 99.3 %": "99.3"}


def page(tables: Tables, source: str | None = None) -> str:
    """The page, with a dash for each number that the results do not give.

    Args:
        tables: Of all runs.
        source: Default: the text of :data:`SOURCE`.
    """
    evidence = Evidence(tables)
    noise, layer = noise_rows(evidence.runs), layer_rows(tables.runs)
    known = numbers(tables, evidence) | variance_numbers(noise, layer)

    def filled(found: re.Match[str]) -> str:
        return as_text(known.get(found[1]), int(found[2] or 2))

    text = SOURCE.read_text() if source is None else source
    text = text.replace("{table claims}", claims_table(claims(tables, evidence, noise, layer))).replace("{rule}", RULE)
    return _PLACE.sub(filled, text)


def numbers(tables: Tables, evidence: Evidence) -> dict[str, float | None]:
    """The numbers of questions 1 to 6."""
    found: dict[str, float | None] = {}
    for row in evidence.claims:
        found |= _parts(f"claims/{row.optimizer}_{row.batch_size}/{row.against}/{row.statistic}", row.ours)
    for question, rows in evidence.arms.items():
        for row in rows:
            found |= _columns(f"arms/{question}/{row.optimizer}_{row.batch_size}/{row.data}/{row.arm}", row)
    for question, rows in evidence.times.items():
        for row in rows:
            target = _TARGETS[row.target]
            found |= _columns(f"times/{question}/{target}/{row.optimizer}_{row.batch_size}/{row.arm}", row)
    for row in evidence.collapses:
        path = f"collapse/{row.optimizer}_{row.batch_size}/{row.arm}"
        found |= _columns(f"{path}/{row.seed}", row)
        least = found.get(f"{path}/smallest_p")
        found[f"{path}/smallest_p"] = row.smallest_p if least is None else min(row.smallest_p, least)
    for run in tables.runs:
        cell, end = run.cell, int(run.epochs[-1])
        path = f"{cell.optimizer}_{cell.batch_size}/{cell.arm}/{cell.seed}"
        if cell.experiment not in APART and end > EPOCH and cell.data == "full":
            found[f"long/{path}/cost"] = late_cost(run, end)
            found |= {f"long/{path}/{epoch}": run.at("training_cost_mean", epoch) for epoch in run.epochs.tolist()}
    found |= _theirs(tables.runs)
    for row in evidence.defaults:
        found |= _columns(f"default/{row.arm}", row)
    return found | _jumps(evidence) | _longer(evidence)


def _jumps(evidence: Evidence) -> dict[str, float | None]:
    """How often the training cost jumps within an epoch."""
    found: dict[str, float | None] = {}
    for arm in ARMS:
        settings = product(OPTIMIZERS, BATCH_SIZES)
        runs = [run for optimizer, size in settings for run in of(evidence.runs, arm, optimizer, size)]
        costs = [run.measured["training_cost_mean"][(run.epochs >= 5) & (run.epochs <= EPOCH)] for run in runs]
        steps = [after > 10 * before for row in costs for before, after in pairwise(row)]
        found |= {f"jumps/{arm}": float(sum(steps)), f"jumps/{arm}/epochs": float(len(steps))}
    return found


def _longer(evidence: Evidence) -> dict[str, float | None]:
    """How much longer OBS trains than AS, paired over the seeds."""
    found: list[float] = []
    for optimizer, size in product(OPTIMIZERS, BATCH_SIZES):
        obs, own = (
            {run.cell.seed: run.at("seconds", min(int(run.epochs[-1]), EPOCH)) for run in timed(runs)}
            for runs in (of(evidence.runs, arm, optimizer, size) for arm in ("OBS", "AS"))
        )
        value = ratio(obs, own).value
        found += [] if value is None else [value]
    return {"time/obs_low": min(found), "time/obs_high": max(found)} if found else {}


def _theirs(runs: Sequence[Run]) -> dict[str, float | None]:
    """The numbers of question 8."""
    found: dict[str, float | None] = {}
    costs, accuracies = defaultdict[str, dict[int, float]](dict), defaultdict[str, dict[int, float]](dict)
    for run in runs:
        cell = run.cell
        if cell.experiment == "loshchilov":
            path, end = f"theirs/{cell.optimizer}_{cell.batch_size}/{cell.arm}", int(run.epochs[-1])
            costs[path][cell.seed] = late_cost(run, end)
            accuracies[path][cell.seed] = late_accuracy(run, end)
    for path, own in costs.items():
        found |= _parts(f"{path}/cost", median(list(own.values())))
        found |= _parts(f"{path}/accuracy", median(list(accuracies[path].values())))
        found |= _parts(f"{path}/over_OBS", ratio(own, costs.get(f"{path.rpartition('/')[0]}/OBS", {})))
    return found


def _columns(path: str, row: NamedTuple) -> dict[str, float | None]:
    """The numbers of a row."""
    found: dict[str, float | None] = {}
    for name, value in row._asdict().items():
        if isinstance(value, Estimate | Ratio):
            found |= _parts(f"{path}/{name}", value)
        elif value is None or isinstance(value, int | float):
            found[f"{path}/{name}"] = value
    return found


def _parts(path: str, value: Estimate | Ratio) -> dict[str, float | None]:
    return {path: value.value, f"{path}/low": value.low, f"{path}/high": value.high, f"{path}/runs": float(value.runs)}
