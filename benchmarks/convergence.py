"""How far training gets: the training cost of adaptive and of uniform sampling, epoch by epoch.

Full MNIST, the thesis's CNN, Adadelta, batch 256. Adaptive sampling is the thesis's, without floor and strata, and
the same by the other reading of the thesis's lines 21 and 22, which moves all of Q after each batch. The training cost
is the mean cross-entropy over the whole training set after the epoch, in evaluation mode, in float64. A finished run is
appended to the CSV and not repeated; one that was interrupted starts anew. A figure is drawn beside the CSV.

    python benchmarks/convergence.py [--quick] [--epochs 5] [--seeds 0 1] [--output benchmarks/results/convergence.csv]
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import statistics
import sys
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the thesis's studies are, beside the package

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, ConvNetClassifier, MNISTDataModule
from lightning_as.models.evaluation import evaluate
from thesis.everywhere import EverywhereSampling

FIELDS = ("sampling", "seed", "epoch", "training_cost", "test_accuracy", "training_seconds")
SAMPLINGS = {
    "uniform": None,
    "adaptive": AdaptiveSampling(floor=0.0, points="independent"),  # the thesis's settings
    "adaptive_all": EverywhereSampling(floor=0.0),
}
RESULTS = Path(__file__).parent / "results" / "convergence.csv"
_QUICK = 2  # batches that are evaluated with `--quick`


class Record(Callback):
    """One row per epoch; the evaluation's time is not counted."""

    def __init__(self, data: MNISTDataModule, batches: int | None = None) -> None:
        self.data = data
        self.batches = batches  # that are evaluated, of either set; None for all
        self.rows: list[tuple[int, float, float, float]] = []
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self.start
        loaders = (self.data.train_evaluation_dataloader(), self.data.test_dataloader())
        training, test = (evaluate(pl_module, islice(loader, self.batches)) for loader in loaders)
        cost, accuracy = training.cost, test.accuracy
        self.rows.append((trainer.current_epoch + 1, cost, accuracy, self.seconds))
        print(f"epoch {self.rows[-1][0]}: training cost {cost:.2e}, test accuracy {accuracy:.2%}", flush=True)


def run(sampling: str, seed: int, epochs: int, batches: int | None) -> list[tuple[Any, ...]]:
    """Rows of one run."""
    print(f"{sampling}, seed {seed}", flush=True)
    seed_everything(seed, verbose=False)
    data = MNISTDataModule(batch_size=256, batches_per_epoch=batches)
    record = Record(data, None if batches is None else _QUICK)
    strategy = SAMPLINGS[sampling]
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[record] if strategy is None else [AdaptiveSamplingCallback(strategy), record],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ConvNetClassifier(), datamodule=data)
    return [(sampling, seed, *row) for row in record.rows]


def figures(rows: list[dict[str, str]], epochs: int) -> dict[str, float]:
    """Medians over the seeds and the last two epochs."""
    last = [row for row in rows if epochs - 2 < int(row["epoch"]) <= epochs]

    def median(sampling: str, field: str) -> float:
        return statistics.median(float(row[field]) for row in last if row["sampling"] == sampling)

    costs = {sampling: median(sampling, "training_cost") for sampling in SAMPLINGS}
    return {
        **{f"training_cost_{sampling}": cost for sampling, cost in costs.items()},
        "training_cost_ratio": costs["adaptive"] / costs["uniform"],
        "training_cost_ratio_all": costs["adaptive_all"] / costs["uniform"],
        **{f"test_accuracy_{sampling}": median(sampling, "test_accuracy") for sampling in SAMPLINGS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="end within 50 s: one epoch of 30 batches, one seed, evaluated in part, no CSV",
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.quick:
        rows = [row for sampling in SAMPLINGS for row in run(sampling, 0, 1, 30)]
        print(json.dumps({"benchmark": "convergence", "figures": figures(_as_text(rows), 1)}))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = _read(options.output)
    for seed in options.seeds:
        for sampling in SAMPLINGS:
            if max((int(r["epoch"]) for r in done if (r["sampling"], r["seed"]) == (sampling, str(seed))), default=0):
                continue
            _append(options.output, run(sampling, seed, options.epochs, None))
    rows_read = [row for row in _read(options.output) if int(row["seed"]) in options.seeds]
    plot(rows_read, options.output.with_suffix(".png"))
    print(json.dumps({"benchmark": "convergence", "figures": figures(rows_read, options.epochs)}))


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """The training cost by epoch: a thin line per seed, a thick one for their median."""
    import matplotlib.pyplot as plt  # late: an extra that nothing else here needs

    seeds = len({row["seed"] for row in rows})
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    styles = {
        "uniform": ("uniform", "#555555"),
        "adaptive": ("adaptive", "#0072B2"),
        "adaptive_all": ("adaptive,\nall of Q moves", "#D55E00"),
    }
    for sampling, (label, colour) in styles.items():
        runs: dict[str, list[float]] = {}  # seed -> costs
        for row in rows:
            if row["sampling"] == sampling:
                runs.setdefault(row["seed"], []).append(float(row["training_cost"]))
        medians = [statistics.median(costs) for costs in zip(*runs.values(), strict=True)]
        epochs = range(1, len(medians) + 1)
        for costs in runs.values():
            axes.semilogy(epochs, costs, color=colour, linewidth=0.7, alpha=0.45)
        axes.semilogy(epochs, medians, "o-", color=colour, linewidth=2.5)
        axes.annotate(
            label, (epochs[-1], medians[-1]), xytext=(9, 0), textcoords="offset points", color=colour, va="center"
        )
        axes.set_xticks(epochs)
    axes.set(xlabel="epoch", ylabel="training cost (nats)")
    axes.set_title(f"Training cost on MNIST: median of {seeds} seeds, and each of them", loc="left", fontsize=11)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _as_text(rows: list[tuple[Any, ...]]) -> list[dict[str, str]]:
    return [dict(zip(FIELDS, map(str, row), strict=True)) for row in rows]


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """A run's rows, all at once, so that the file never has half a run."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(FIELDS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
