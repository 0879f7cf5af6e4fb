"""What the thesis prints: the numbers of its Tables 2, 3 and 4, and what its Figures 13 to 19 search.

Avalos, *Muestreo adaptativo para el entrenamiento de redes neuronales profundas*, 2021, chapter 4. "Default Random" is
the arm ``uniform`` here.
"""

from __future__ import annotations

from typing import NamedTuple

OPTIMIZERS = {"adadelta": "Adadelta", "adam": "Adam"}
"""Names of the optimizers, as text writes them."""
BATCH_SIZES = (64, 256, 1024)
ARMS = ("AS", "OBS", "uniform")
EPOCH = 15
"""The epoch after which Tables 3 and 4 compare."""
LAST_VALUES = 15
"""How many of the last values of an averaged accuracy curve enter one t test of Table 2."""
CHOSEN_DELTAS = (0.9, 0.1)
"""The thesis's choice of (δp, δq)."""


class CostRatios(NamedTuple):
    """One line of Table 3 or 4: training costs after epoch 15 over each other, and minutes until then."""

    uniform: float
    """Cost of AS over that of uniform sampling."""
    OBS: float
    """Cost of AS over that of OBS."""
    minutes: dict[str, float]
    """Minutes of computation by arm."""


TABLES = {
    "adadelta": {
        64: CostRatios(3.8e-5, 0.78, {"AS": 1.47, "OBS": 1.01, "uniform": 0.98}),
        256: CostRatios(9.02e-5, 0.2, {"AS": 0.66, "OBS": 0.51, "uniform": 0.29}),
        1024: CostRatios(0.83e-3, 0.92, {"AS": 0.41, "OBS": 0.42, "uniform": 0.33}),
    },
    "adam": {
        64: CostRatios(1.12, 17e2, {"AS": 1.44, "OBS": 0.92, "uniform": 0.98}),
        256: CostRatios(2.95e-3, 0.334, {"AS": 0.69, "OBS": 0.52, "uniform": 0.44}),
        1024: CostRatios(0.065, 0.48, {"AS": 0.47, "OBS": 0.49, "uniform": 0.42}),
    },
}
"""Table 3 (Adadelta) and Table 4 (Adam), by optimizer and batch size."""


class AccuracyPValue(NamedTuple):
    """One line of Table 2: a t test of the test accuracies of AS and another arm."""

    equation: int
    """The thesis's number of the hypothesis."""
    optimizer: str
    batch_size: int
    against: str
    """The other arm."""
    p_value: float


ACCURACY_TESTS = (
    AccuracyPValue(90, "adadelta", 256, "uniform", 0.6803),
    AccuracyPValue(89, "adadelta", 256, "OBS", 0.05557),
    AccuracyPValue(90, "adam", 1024, "uniform", 0.07226),
    AccuracyPValue(89, "adam", 1024, "OBS", 0.03716),
)
"""Table 2. The thesis concludes from each line that the accuracies are alike, the last one's 0.037 notwithstanding."""


class DeltaGrid(NamedTuple):
    """One of Figures 13 to 19: a search over the smoothings δp and δq."""

    figure: int
    optimizer: str
    batch_size: int
    claim: str
    """What the thesis sees in it (section 4.3.1): its choice is ``among the best``, all costs are ``alike``, or most
    ``diverge``."""
    delta_p: tuple[float, ...]
    delta_q: tuple[float, ...]


_COARSE = ((0.3, 0.6, 0.9), (0.1, 0.4, 0.7))
DELTA_GRIDS = (
    DeltaGrid(13, "adadelta", 64, "among the best", *_COARSE),
    DeltaGrid(14, "adadelta", 64, "alike", (0.902, 0.91, 0.93), (0.059, 0.089, 0.09)),
    DeltaGrid(15, "adadelta", 256, "among the best", *_COARSE),
    DeltaGrid(16, "adadelta", 1024, "among the best", *_COARSE),
    DeltaGrid(17, "adam", 64, "diverge", *_COARSE),
    DeltaGrid(18, "adam", 256, "among the best", *_COARSE),
    DeltaGrid(19, "adam", 1024, "among the best", *_COARSE),
)

ACCURACY_FIGURES = {22: ("adadelta", 256), 23: ("adam", 1024)}
"""Figures 22 and 23, test accuracy: optimizer and batch size."""
DISTRIBUTION_FIGURES = {24: ("adam", 64), 25: ("adam", 1024), 26: ("adadelta", 64)}
"""Figures 24 to 26, the distribution P at the beginning of some epochs: optimizer and batch size."""
DISTRIBUTION_EPOCHS = (0, 5, 10, 15, 20, 25)
