"""The evidence page, ``docs/evidence.md``, from ``thesis/evidence.md``: each of its numbers is taken from the results.

In the source ``{name}`` or ``{name:digits}`` stands for a number, with two significant digits unless it says otherwise.
A name is a path, and the end of it the part that is meant:

* ``claims/SETTING/AGAINST/STATISTIC``: a ratio of costs of Tables 3 and 4, ``…/low`` and ``…/high`` its interval;
* ``arms/QUESTION/SETTING/DATA/ARM/COLUMN``: what stands in the tables of questions 2 to 4, likewise;
* ``times/QUESTION/TARGET/SETTING/ARM/COLUMN``: of questions 5 and 6; the target is ``1e-2``, ``1e-3`` or ``99.3``;
* ``collapse/SETTING/ARM/SEED/COLUMN``: the long trainings of question 3;
* ``long/SETTING/ARM/SEED/cost``: where any training on the full data ends that goes on beyond epoch 15, over its last
  three epochs;
* ``theirs/SETTING/ARM/cost``, ``…/accuracy``, ``…/over_OBS``: where the trainings in the set-up of OBS's authors end,
  the median over the seeds and its interval, and the ratio of the costs, paired over the seeds;
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
from pathlib import Path
from typing import NamedTuple

from thesis.claims import RULE, claims, claims_table
from thesis.comparison import Estimate, Ratio, as_text, median, ratio
from thesis.evidence import Evidence, late_accuracy, late_cost
from thesis.grid import APART
from thesis.printed import EPOCH
from thesis.results import Run
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
        found |= _columns(f"collapse/{row.optimizer}_{row.batch_size}/{row.arm}/{row.seed}", row)
    for run in tables.runs:
        cell, end = run.cell, int(run.epochs[-1])
        path = f"{cell.optimizer}_{cell.batch_size}/{cell.arm}/{cell.seed}"
        if cell.experiment not in APART and end > EPOCH and cell.data == "full":
            found[f"long/{path}/cost"] = late_cost(run, end)
    found |= _theirs(tables.runs)
    for row in evidence.defaults:
        found |= _columns(f"default/{row.arm}", row)
    minutes = {(row.optimizer, row.batch_size, row.arm): row.minutes.value for row in tables.cells}
    pairs = [
        (value, minutes[optimizer, size, "AS"]) for (optimizer, size, arm), value in minutes.items() if arm == "OBS"
    ]
    longer = [obs / own for obs, own in pairs if obs and own]
    if longer:
        found |= {"time/obs_low": min(longer), "time/obs_high": max(longer)}
    return found


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
