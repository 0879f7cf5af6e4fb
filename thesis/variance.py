"""Question 7: the variance of the gradient estimate, of all trainings from what every study measures, and why.

Every ``epochs.csv`` has the variance of the estimate of the mean gradient with respect to the logits, of one draw with
unbiased weights and of a uniform one; the study ``variance`` has that of the last layer, and for other distributions
than the sampler's own, see :mod:`thesis.gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thesis.comparison import Estimate, median
from thesis.evidence import of
from thesis.grid import GRIDS, VARIED
from thesis.printed import BATCH_SIZES, EPOCH, OPTIMIZERS
from thesis.results import PROBED, Run

STUDY = "variance"
EARLY = 3
"""Epochs that count as the beginning."""
MEASURED_ARMS = ("AS", "AS_floor", "AS_second_moment", "AS_weighted", "gopal", "OBS", "InfoBatch")
"""Those whose variance the other studies have, in the order of the table."""


class NoiseRow(NamedTuple):
    """How the variance of the weighted estimate compares with uniform sampling's, in one setting: logits' gradients."""

    optimizer: str
    batch_size: int
    arm: str
    epochs: int
    """Those compared: the last is at most 15."""
    middle: Estimate
    """Of V(r) / V(1/N): the median over the epochs, over the runs."""
    early: Estimate
    """The median over the first three epochs."""
    below: int
    """Epochs of all runs in which it is below 1."""
    of: int
    """Epochs of all runs."""


class LayerRow(NamedTuple):
    """One figure of :mod:`thesis.gradients`, of the trainings of one arm."""

    optimizer: str
    batch_size: int
    arm: str
    quantity: str
    untrained: Estimate
    """Before the first step."""
    trained: Estimate
    """The median over the epochs after it, over the runs."""
    last: Estimate
    """After the last epoch."""


def noise_rows(runs: Sequence[Run]) -> list[NoiseRow]:
    """One for each setting and arm that has runs on the full data.

    Args:
        runs: Pooled ones, see :func:`thesis.evidence.pool`.
    """
    settings = [(optimizer, size, arm) for optimizer in OPTIMIZERS for size in BATCH_SIZES for arm in MEASURED_ARMS]
    return [row for setting in settings if (row := _noise(runs, *setting))]


def layer_rows(runs: Sequence[Run]) -> list[LayerRow]:
    """One for each arm of the study and each figure.

    Args:
        runs: Of any studies.
    """
    settings = dict.fromkeys((cell.optimizer, cell.batch_size) for cell in GRIDS[STUDY])
    found = []
    for optimizer, size in settings:
        for arm in VARIED:
            own = [run for run in runs if run.cell[:5] == (STUDY, arm, optimizer, size, "full")]
            found += [_layer(own, quantity) for quantity in PROBED if own]
    return found


def numbers(noise: Sequence[NoiseRow], layer: Sequence[LayerRow]) -> dict[str, float | None]:
    """What the page may name.

    ``noise/SETTING/ARM/middle``, ``early`` and their ``low`` and ``high``, ``below``, ``of``; and of the study
    ``layer/SETTING/ARM/QUANTITY``, which is that of the trained epochs, or ``…/untrained`` or ``…/last``.
    """
    found: dict[str, float | None] = {}
    for row in noise:
        path = f"noise/{row.optimizer}_{row.batch_size}/{row.arm}"
        found |= {f"{path}/below": row.below, f"{path}/of": row.of}
        found |= _ends(f"{path}/middle", row.middle) | _ends(f"{path}/early", row.early)
    for row in layer:
        path = f"layer/{row.optimizer}_{row.batch_size}/{row.arm}/{row.quantity}"
        found |= _ends(path, row.trained) | _ends(f"{path}/untrained", row.untrained) | _ends(f"{path}/last", row.last)
    return found


def ratios(run: Run) -> NDArray[np.float64]:
    """V(r) / V(1/N) of the logits' gradients after each epoch but the start, at most 15."""
    some = (run.epochs > 0) & (run.epochs <= EPOCH)
    return run.measured["variance_weighted"][some] / run.measured["variance_uniform"][some]


def _noise(runs: Sequence[Run], optimizer: str, batch_size: int, arm: str) -> NoiseRow | None:
    own = of(runs, arm, optimizer, batch_size)
    if not own:
        return None
    found = [ratios(run) for run in own]
    middle, early = (
        median([float(np.median(part)) for part in parts]) for parts in (found, [r[:EARLY] for r in found])
    )
    joined = np.concatenate(found)
    epochs = min(len(part) for part in found)
    return NoiseRow(optimizer, batch_size, arm, epochs, middle, early, int((joined < 1).sum()), len(joined))


def _layer(runs: Sequence[Run], quantity: str) -> LayerRow:
    values = [run.measured[quantity] for run in runs]
    trained = [run.measured[quantity][run.epochs > 0] for run in runs]
    cell = runs[0].cell
    return LayerRow(
        cell.optimizer,
        cell.batch_size,
        cell.arm,
        quantity,
        median([float(part[0]) for part in values]),
        median([float(np.median(part)) for part in trained]),
        median([float(part[-1]) for part in values]),
    )


def _ends(path: str, value: Estimate) -> dict[str, float | None]:
    return {path: value.value, f"{path}/low": value.low, f"{path}/high": value.high, f"{path}/runs": float(value.runs)}
