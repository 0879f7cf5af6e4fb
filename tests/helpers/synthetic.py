"""Results made by hand, for the tests of what is made of results."""

import csv
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from thesis.evidence import Evidence
from thesis.results import COLUMNS, Run, read
from thesis.tables import Tables

# Mean training cost after epoch 15 by arm and seed; the costs of the epochs before are ten times as large.
COSTS = {"AS": [2e-6, 4e-6, 3e-6], "OBS": [4e-6, 16e-6, 6e-6], "uniform": [2e-2, 1e-2, 6e-2]}
ACCURACIES = {"AS": [0.9940, 0.9942, 0.9944], "OBS": [0.9939, 0.9943, 0.9941], "uniform": [0.9930, 0.9932, 0.9931]}
SECONDS = {"AS": 6.0, "OBS": 5.0, "uniform": 4.0}

Rows = list[dict[str, object]]


def row(**changes: object) -> dict[str, object]:
    """A row of epochs.csv."""
    values = ("thesis", "AS", "adadelta", 256, "full", 0, 15, 1e-3, 1e-5, 0.02, 0.99, 60, 900, 0.1, 0.05, 0.2, "", "")
    return dict(zip(COLUMNS, (*values, ";".join(["0.1"] * 10)), strict=True)) | changes


def cell(optimizer="adadelta", batch_size=256, arms=("AS", "OBS", "uniform"), seeds=3, epochs=15) -> Rows:
    """The runs of one setting, with known values after epoch 15."""
    return [
        row(
            arm=arm,
            optimizer=optimizer,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            training_cost_mean=COSTS[arm][seed] * (1 if epoch == 15 else 10),
            training_cost_median=COSTS[arm][seed] / 1000,
            test_accuracy=0.1 if epoch == 0 else ACCURACIES[arm][seed] + (epoch - 15) * 1e-4,
            seconds=SECONDS[arm] * epoch,
        )
        for arm in arms
        for seed in range(seeds)
        for epoch in range(epochs + 1)
    ]


def training(costs: list[float], **changes: object) -> Rows:
    """The rows of one run with these costs after epochs 1, 2, …, a minute each."""
    return [row(epoch=at, training_cost_mean=cost, seconds=60 * at, **changes) for at, cost in enumerate([1.0, *costs])]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def runs_of(rows: Rows) -> list[Run]:
    with tempfile.TemporaryDirectory() as folder:
        return read([write(Path(folder) / "epochs.csv", rows)])


def tables(rows: Rows) -> Tables:
    return Tables(runs_of(rows))


def evidence(rows: Rows) -> Evidence:
    return Evidence(tables(rows))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]
