"""Whether bins that are no classes help: adaptive sampling over labels, one bin, entropies, losses and features.

A small network on the package's MNIST, with its labels and with a tenth of them wrong; with ``--fashion FOLDER`` on
Fashion-MNIST as well, whose four files as they are distributed are in the folder. Adam, a learning rate that goes to
zero within the training (OneCycle), batch 256, one thread. Bins that are made anew begin with a single one, and are ten
after each epoch; all else is the default. Training cost, the mean cross-entropy over the training set as it is, and
test accuracy are taken after each epoch, in evaluation mode and float64, and those of the last one count. The
clock is the processor time of the training, with the forward passes that the bins need.

Of each kind of data it prints the differences from bins by label, seed by seed: their mean and its standard error. A
finished run is appended to the CSV and not repeated; one that was interrupted starts anew. All bins come in turn, so
that whatever is stopped is balanced.

    python benchmarks/bins.py [--quick] [--epochs 6] [--seeds 0 1 2 3 4] [--fashion FOLDER] [--output FILE.csv]
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, MNISTDataModule, RebinnedSampling, Strategy
from lightning_as.models.evaluation import evaluate

RESULTS = Path(__file__).parent / "results" / "bins.csv"
FIELDS = ("data", "bins", "seed", "epochs", "epoch", "training_cost", "test_accuracy", "seconds")
BINS = ("label", "single", "entropy", "loss", "features", "uniform")
_QUICK = 2  # batches that are evaluated with `--quick`


class SmallNet(LightningModule):
    """Two strided convolutions with batch normalisation and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        losses = cross_entropy(logits, batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses, "logits": logits}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Record(Callback):
    """A row per epoch; the evaluation's time is not counted."""

    def __init__(self, data: MNISTDataModule, batches: int | None) -> None:
        self.data = data
        self.batches = batches  # that are evaluated, of either set; None for all
        self.rows: list[tuple[int, float, float, float]] = []
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.process_time() - self.start
        loaders = (self.data.train_evaluation_dataloader(), self.data.test_dataloader())
        training, test = (evaluate(pl_module, islice(loader, self.batches)) for loader in loaders)
        self.rows.append((trainer.current_epoch + 1, training.cost, test.accuracy, round(self.seconds, 2)))


def strategy_of(bins: str) -> Strategy | None:
    """What samples over these bins; None for uniform sampling."""
    if bins == "uniform":
        return None
    return AdaptiveSampling() if bins in ("label", "single") else RebinnedSampling(by=bins)  # pyright: ignore


def data_of(kind: str, folder: Path | None, bins: str, batches: int | None) -> MNISTDataModule:
    """The data of a kind, in one bin where labels are not what it is for."""
    return MNISTDataModule(
        data_dir=folder if kind.startswith("fashion") else None,
        bins="label" if bins == "label" else "single",
        batches_per_epoch=batches,
        label_noise=0.1 if kind.endswith("_wrong") else 0.0,
    )


def run(
    kind: str, folder: Path | None, bins: str, seed: int, epochs: int, batches: int | None
) -> list[tuple[Any, ...]]:
    """Rows of one run."""
    seed_everything(seed, verbose=False)
    data, strategy = data_of(kind, folder, bins, batches), strategy_of(bins)
    record = Record(data, None if batches is None else _QUICK)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[record] if strategy is None else [AdaptiveSamplingCallback(strategy), record],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallNet(), datamodule=data)
    _, cost, accuracy, seconds = record.rows[-1]
    print(f"{kind}, {bins}, seed {seed}: cost {cost:.2e}, accuracy {accuracy:.2%}, {seconds:.0f} s", flush=True)
    return [(kind, bins, seed, epochs, *row) for row in record.rows]


def summary(rows: list[dict[str, str]], epochs: int) -> list[dict[str, Any]]:
    """Of each data and bins: means over the seeds at the end, and what they are above bins by label, seed by seed."""
    last = [row for row in rows if int(row["epochs"]) == int(row["epoch"]) == epochs]
    ends = {(row["data"], row["bins"], row["seed"]): row for row in last}
    found = []
    for kind in sorted({kind for kind, _, _ in ends}):
        for bins in BINS:
            own = {seed: row for (data, name, seed), row in ends.items() if (data, name) == (kind, bins)}
            pairs = [(row, ends[kind, "label", seed]) for seed, row in own.items() if (kind, "label", seed) in ends]
            if not pairs:
                continue
            accuracy, error = mean_and_error([100 * (_accuracy(one) - _accuracy(label)) for one, label in pairs])
            cost, cost_error = mean_and_error([_log(one) - _log(label) for one, label in pairs])
            found.append(
                {
                    "data": kind,
                    "bins": bins,
                    "seeds": len(pairs),
                    "accuracy": statistics.fmean(map(_accuracy, own.values())),
                    "points": accuracy,
                    "points_error": error,
                    "cost": 10 ** statistics.fmean(map(_log, own.values())),
                    "decades": cost,
                    "decades_error": cost_error,
                    "time": statistics.median(float(one["seconds"]) / float(label["seconds"]) for one, label in pairs),
                }
            )
    return found


def mean_and_error(differences: list[float]) -> tuple[float, float]:
    """Their mean and its standard error, NaN for a single one."""
    size = len(differences)
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(size) if size > 1 else math.nan


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: differences are from bins by label, ± their standard error."""
    lines = [
        "| data | bins | seeds | test accuracy | points | training cost | decades | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['data']} | {row['bins']} | {row['seeds']} | {row['accuracy']:.2%} "
            f"| {row['points']:+.2f} ± {row['points_error']:.2f} | {row['cost']:.1e} "
            f"| {row['decades']:+.2f} ± {row['decades_error']:.2f} | {row['time']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: 2 epochs of 30 batches, a seed, no CSV")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fashion", type=Path, help="folder with the four files of Fashion-MNIST; default: without it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if options.quick:
        rows = [row for bins in BINS for row in run("mnist", None, bins, 0, 2, 30)]
        report(summary([dict(zip(FIELDS, map(str, row), strict=True)) for row in rows], 2))
        return
    kinds = ["mnist", "mnist_wrong", *(("fashion", "fashion_wrong") if options.fashion else ())]
    with tempfile.TemporaryDirectory() as folder:
        if options.fashion:  # as torchvision would lay out MNIST
            (Path(folder) / "MNIST").mkdir()
            (Path(folder) / "MNIST" / "raw").symlink_to(options.fashion.resolve())
        for seed in options.seeds:
            for kind in kinds:
                for bins in BINS:
                    done = {tuple(row[name] for name in FIELDS[:4]) for row in read(options.output)}
                    if (kind, bins, str(seed), str(options.epochs)) not in done:
                        append(options.output, run(kind, Path(folder), bins, seed, options.epochs, None))
    report(summary(read(options.output), options.epochs))


def report(found: list[dict[str, Any]]) -> None:
    """The table, and as the last line the figures."""
    print(f"\n{table(found)}\n")
    names = ("accuracy", "points", "points_error", "cost", "decades", "decades_error", "time")
    figures = {f"{row['data']}_{row['bins']}_{name}": round(row[name], 6) for row in found for name in names}
    print(json.dumps({"benchmark": "bins", "figures": {name: x for name, x in figures.items() if not math.isnan(x)}}))


def _accuracy(row: dict[str, str]) -> float:
    return float(row["test_accuracy"])


def _log(row: dict[str, str]) -> float:
    return math.log10(float(row["training_cost"]))


def read(path: Path) -> list[dict[str, str]]:
    """All rows so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """A run's rows, all at once, so that the file never has half a run."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(FIELDS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
