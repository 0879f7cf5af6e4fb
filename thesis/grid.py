"""What the studies vary: sampling arms, optimizers, batch sizes, data, the smoothing constants, and seeds.

A cell is one training. The arms are made of the package's strategies, as their presets have them.

* ``thesis``: {uniform, AS, OBS} × {Adadelta, Adam} × {64, 256, 1024}; thesis, section 4.3.2.
* ``grid-search``: δp × δq of AS; thesis, section 4.3.1, Figures 13 and 15 to 19, and for Adadelta at batch 64 the
  finer one of Figure 14, with the values that the text states.
* ``weights``: AS with and without the weights of eq. (65), and uniform.
* ``mends``: remedies for a collapse of P, with Adam and with Adadelta; the name is that of the committed record.
* ``ablation``: which part of AS the gain comes from, on clean, imbalanced and noisy MNIST.
* ``time``: how soon a training cost or an accuracy is reached, against other methods.
* ``loshchilov``: the thesis's arms in the set-up of online batch selection's authors, see :mod:`thesis.loshchilov`.
* ``variance``: how much less variance the gradient estimate has, see :mod:`thesis.gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_as.core.draw import Weighting
from lightning_as.strategies import (
    AdaptiveSampling,
    GopalSampling,
    GradientNormSampling,
    InfoBatch,
    OnlineBatchSelection,
    SelectiveBackprop,
    Strategy,
    Uniform,
    UpperBoundImportanceSampling,
)
from thesis.printed import BATCH_SIZES
from thesis.results import Cell, Optimizer, Run

_NEVER = 10**12  # batches, longer than any training


@dataclass(frozen=True)
class Arm:
    """A way to draw instances, and what it does about the loss."""

    strategy: Callable[..., Strategy]
    """Makes the strategy; takes `delta_p` and `delta_q` where a cell has them."""
    bins: Literal["label", "single"] = "label"
    """The partition that the strategy is given."""
    weights: Weighting | Literal["source"] = "source"
    """The weights on the losses, as in :class:`lightning_as.AdaptiveSamplingCallback`."""

    def make(self, cell: Cell) -> Strategy:
        """A new strategy for a cell."""
        return self.strategy() if cell.delta_p is None else self.strategy(delta_p=cell.delta_p, delta_q=cell.delta_q)


# The draws of the sources are independent, and so are those of the committed records.
_THESIS = partial(AdaptiveSampling, floor=0.0, points="independent")
_GOPAL = partial(GopalSampling, points="independent")
_OBS = partial(
    OnlineBatchSelection,
    s_start=1e8,
    s_end=1e8,
    recompute_every=2.0,
    points="independent",  # every 2: r = 0.5
)
_SECOND_MOMENT = partial(_THESIS, bin_statistic="second_moment")

ARMS: dict[str, Arm] = {
    "uniform": Arm(Uniform),
    "AS": Arm(_THESIS),
    "OBS": Arm(_OBS),
    "AS_weighted": Arm(_THESIS, weights="unbiased"),
    "AS_floor": Arm(partial(_THESIS, floor=0.1)),
    "AS_second_moment": Arm(_SECOND_MOMENT),
    "AS_statistic": Arm(partial(_SECOND_MOMENT, smoothing="statistic")),
    "AS_original": Arm(partial(_THESIS, smoothing="original")),
    "AS_robust": Arm(partial(_SECOND_MOMENT, smoothing="statistic", floor=0.1)),
    "AS_gradient": Arm(partial(_THESIS, score="gradient")),  # Q by the norms of the gradients instead of the losses
    "AS_one_bin": Arm(_THESIS, bins="single"),
    "AS_q_only": Arm(partial(_THESIS, beta=_NEVER)),  # P stays as it starts: the same for each bin
    "gopal": Arm(_GOPAL),
    "gopal_unweighted": Arm(_GOPAL, weights="none"),
    "InfoBatch": Arm(InfoBatch),
    "SelectiveBackprop": Arm(SelectiveBackprop),
    "upper_bound": Arm(UpperBoundImportanceSampling),
    "gradient_norm": Arm(partial(GradientNormSampling, points="independent")),
}
"""Arms by name."""

_DIGITS = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]) / 60_000


def over_bins(run: Run) -> NDArray[np.float64]:
    """P of a run's measurements, (E, K).

    A file has the sums of r over the bins, which are P where there is no floor. With one, r = (1 − ε) p q + ε/N, they
    are (1 − ε) P and ε times the bins' shares of the data, here those of MNIST; what is recorded to six digits then
    gives P to some 1e-6.
    """
    floor = getattr(ARMS[run.cell.arm].strategy, "keywords", {}).get("floor", 0.0)
    return run.p if floor == 0 else (run.p - floor * _DIGITS) / (1 - floor)


DATA: dict[str, dict[str, Any]] = {
    "full": {},
    "imbalanced": {"imbalance": [0.01] * 5 + [1.0] * 5},
    "noisy_10": {"label_noise": 0.1},
    "noisy_40": {"label_noise": 0.4},
}
"""Options of :class:`lightning_as.MNISTDataModule` by the name of the data."""

_OPTIMIZERS: tuple[Optimizer, ...] = ("adadelta", "adam")
WEIGHTS = ("uniform", "AS", "AS_weighted")
"""The arms of ``weights``."""
REMEDIES = ("AS", "AS_floor", "AS_second_moment", "AS_statistic", "AS_original", "AS_robust")
"""The arms of ``mends``."""
PARTS = ("uniform", "AS", "AS_one_bin", "AS_q_only", "gopal", "gopal_unweighted", "OBS")
"""The arms of ``ablation``."""
TIMED = ("uniform", "AS", "OBS", "InfoBatch", "SelectiveBackprop")
"""The arms of ``time``."""
THEIRS = ("uniform", "AS", "OBS")
"""The arms of ``loshchilov``."""
VARIED = (
    "uniform", "AS", "AS_gradient", "AS_second_moment", "AS_floor", "gopal", "OBS", "upper_bound", "gradient_norm",
)  # fmt: skip
"""The arms of ``variance``."""


def _cross(
    experiment: str,
    arms: Sequence[str],
    optimizers: Sequence[Optimizer] = _OPTIMIZERS,
    batch_sizes: Sequence[int] = (256,),
    data: Sequence[str] = ("full",),
    deltas: Sequence[tuple[float | None, float | None]] = ((None, None),),
) -> list[Cell]:
    """All combinations, with seed 0; the last vary fastest."""
    return [
        Cell(experiment, arm, optimizer, batch_size, kind, 0, delta_p, delta_q)
        for kind, optimizer, batch_size, arm, (delta_p, delta_q) in product(data, optimizers, batch_sizes, arms, deltas)
    ]


_COARSE = tuple(product((0.3, 0.6, 0.9), (0.1, 0.4, 0.7)))  # Figures 13 and 15 to 19
_FINE = tuple(product((0.902, 0.91, 0.93), (0.09, 0.089, 0.059)))  # Figure 14

GRIDS: dict[str, list[Cell]] = {
    "thesis": _cross("thesis", ("uniform", "AS", "OBS"), batch_sizes=BATCH_SIZES),
    "grid-search": _cross("grid-search", ("AS",), batch_sizes=BATCH_SIZES, deltas=_COARSE)
    + _cross("grid-search", ("AS",), ("adadelta",), (64,), deltas=_FINE),
    "weights": _cross("weights", WEIGHTS),
    "mends": _cross("mends", REMEDIES, batch_sizes=BATCH_SIZES),
    "ablation": _cross("ablation", PARTS, ("adadelta",), data=tuple(DATA)),
    "time": _cross("time", TIMED),
    "loshchilov": _cross("loshchilov", THEIRS, batch_sizes=(64,)),
    "variance": _cross("variance", VARIED),
}
"""The cells of each study with seed 0, in the order in which they are run."""
APART = ("loshchilov", "variance")
"""Studies whose trainings are not those of the others: another set-up, and another length."""


def cells(experiment: str, seeds: int = 3, first_seed: int = 0) -> list[Cell]:
    """The cells of a study: all with the first seed, then all with the second, and so on.

    Args:
        experiment: A key of :data:`GRIDS`.
        seeds: Number of seeds, at least 1. Default: 3.
        first_seed: The first of them, at least 0. Default: 0.

    Raises:
        ValueError: If there is no such study, or a number is out of its range.
    """
    if experiment not in GRIDS:
        raise ValueError(f"There is no study {experiment!r}: use one of {', '.join(GRIDS)}.")
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
    if first_seed < 0:
        raise ValueError(f"`first_seed` must not be negative, got {first_seed}.")
    numbers = range(first_seed, first_seed + seeds)
    return [cell._replace(seed=seed) for seed in numbers for cell in GRIDS[experiment]]


def select(candidates: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that have what is named: an arm, an optimizer, a batch size, both as in ``adam_64``, or the data.

    Names of one kind are alternatives, those of different kinds are conditions: ``AS adam_64 adam_256`` is AS in either
    of two settings. No names at all select everything.

    Raises:
        ValueError: If a name is none of the cells', or no cell fulfils all conditions.
    """
    chosen = list(candidates)
    kinds = [_names(cell) for cell in candidates]
    known = [set(column) for column in zip(*kinds, strict=True)]
    for name in only:
        if not any(name in names for names in known):
            there = ", ".join(name for names in known for name in sorted(names))
            raise ValueError(f"`only` names {name!r}, but there is: {there}.")
    for at, names in enumerate(known):
        wanted = names & set(only)
        chosen = [cell for cell in chosen if not wanted or _names(cell)[at] in wanted]
    if not chosen:
        raise ValueError(f"`only {' '.join(only)}` selects nothing: no cell has all of that.")
    return chosen


def _names(cell: Cell) -> tuple[str, ...]:
    """What a cell can be selected by, one name of each kind."""
    size = str(cell.batch_size)
    return cell.arm, cell.optimizer, size, f"{cell.optimizer}_{size}", cell.data
