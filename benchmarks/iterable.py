"""Keep or skip: what thinning a stream gains over training on all of it, at equal numbers of training steps.

Fashion-MNIST, whose four files as they are distributed are in the folder ``--fashion``, with its labels and with a
tenth of them wrong; without a folder the package's MNIST. It is read as a stream, as webdataset would have it: shards
of 1000 images in random order, a shuffle buffer of 5000. The network, the optimizer and the schedule are those of
``bins.py``, batch 256, an epoch N / 256 steps, one thread.

- ``plain``: all that comes, by the same loader without the callback.
- ``keep_or_skip``: `KeepOrSkip()`.
- ``closeness``: `ClosenessSampling` on the same data by their positions, in one bin: what a stream cannot have.

Printed are test accuracies after the last step, in evaluation mode and float64, the differences from ``plain`` seed by
seed with their standard errors, the share of what was read that was trained on, and the processor time of the training
over that of ``plain``, with all that it reads. A run is appended to the CSV and not repeated.

    python benchmarks/iterable.py [--quick] [--epochs 6] [--seeds 100 101 102 103 104] [--fashion FOLDER] [--output F]
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

sys.path.insert(0, str(Path(__file__).parent.parent))  # where this folder is a package, beside ours

from benchmarks.bins import SmallNet, append, data_of, mean_and_error, read
from lightning_as import AdaptiveDataLoader, AdaptiveIterableLoader, AdaptiveSamplingCallback, KeepOrSkip
from lightning_as.models.evaluation import evaluate

RESULTS = Path(__file__).parent / "results" / "iterable.csv"
FIELDS = ("data", "method", "seed", "epochs", "test_accuracy", "kept", "seconds")
METHODS = ("plain", "keep_or_skip", "closeness")
BATCH, SHARD, BUFFER = 256, 1000, 5000


class Shards(IterableDataset[Any]):
    """Images with their labels and keys, as of tar files; another order in each pass."""

    def __init__(self, images: Tensor, labels: Tensor, seed: int) -> None:
        self.images, self.labels = images, labels
        self.came = 0
        self._chance = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Any]:
        buffer: list[int] = []
        shards = torch.arange(len(self.images)).split(SHARD)
        for shard in torch.randperm(len(shards), generator=self._chance).tolist():
            for i in shards[shard].tolist():
                buffer.append(i)
                if len(buffer) > BUFFER:
                    yield self._sample(buffer, int(torch.randint(len(buffer), (), generator=self._chance)))
        while buffer:
            yield self._sample(buffer, int(torch.randint(len(buffer), (), generator=self._chance)))

    def _sample(self, buffer: list[int], at: int) -> Any:
        buffer[at], buffer[-1] = buffer[-1], buffer[at]
        i = buffer.pop()
        self.came += 1
        return self.images[i], self.labels[i], i


class Clock(Callback):
    """The processor time of a training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.process_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.process_time() - self.start


def run(kind: str, folder: Path | None, method: str, seed: int, epochs: int, batches: int | None) -> tuple[Any, ...]:
    """The row of one run, of so many batches in an epoch, None for all."""
    seed_everything(seed, verbose=False)
    data, clock = data_of(kind, folder, "single", None), Clock()
    images, labels = data.dataset("train").images, data.dataset("train").labels
    assert labels is not None
    if batches is not None:
        images, labels = images[: batches * BATCH], labels[: batches * BATCH]
    stream, batches_per_epoch = Shards(images, labels, seed), batches or len(images) // BATCH
    callbacks: list[Callback] = [clock]
    if method == "closeness":
        whole = TensorDataset(images, labels)
        loader: Any = AdaptiveDataLoader(whole, BATCH, None, batches_per_epoch)
        callbacks.insert(0, AdaptiveSamplingCallback(examples=False))
    else:
        loader = AdaptiveIterableLoader(stream, BATCH, 2, batches_per_epoch)
    if method == "keep_or_skip":
        callbacks.insert(0, AdaptiveSamplingCallback(KeepOrSkip()))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    module = SmallNet()
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=callbacks, limit_val_batches=0, **quiet)
    trainer.fit(module, loader)
    accuracy = evaluate(module, islice(data.test_dataloader(), None if batches is None else 2)).accuracy
    kept = trainer.global_step * BATCH / max(stream.came, 1) if method != "closeness" else math.nan
    print(f"{kind}, {method}, seed {seed}: {accuracy:.2%}, kept {kept:.0%}, {clock.seconds:.0f} s", flush=True)
    return kind, method, seed, epochs, accuracy, round(kept, 4), round(clock.seconds, 2)


def summary(rows: list[dict[str, str]], epochs: int) -> list[dict[str, Any]]:
    """Of each data and method: means over the seeds, and what they are above plain streaming, seed by seed."""
    ends = {(row["data"], row["method"], row["seed"]): row for row in rows if int(row["epochs"]) == epochs}
    found = []
    for kind in sorted({kind for kind, _, _ in ends}):
        for method in METHODS:
            own = [
                (row, ends[kind, "plain", seed])
                for (data, name, seed), row in ends.items()
                if (data, name) == (kind, method) and (kind, "plain", seed) in ends
            ]
            if not own:
                continue
            points, error = mean_and_error(
                [100 * (float(one["test_accuracy"]) - float(plain["test_accuracy"])) for one, plain in own]
            )
            found.append(
                {
                    "data": kind,
                    "method": method,
                    "seeds": len(own),
                    "accuracy": statistics.fmean(float(one["test_accuracy"]) for one, _ in own),
                    "points": points,
                    "points_error": error,
                    "kept": statistics.fmean(float(one["kept"]) for one, _ in own),
                    "time": statistics.median(float(one["seconds"]) / float(plain["seconds"]) for one, plain in own),
                }
            )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: differences are from plain streaming, ± their standard error."""
    lines = [
        "| data | method | seeds | test accuracy | points over plain | kept | processor time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        points = "" if row["method"] == "plain" else f"{row['points']:+.2f} ± {row['points_error']:.2f}"
        kept = "" if math.isnan(row["kept"]) else f"{row['kept']:.0%}"
        lines.append(
            f"| {row['data']} | {row['method']} | {row['seeds']} | {row['accuracy']:.2%} | {points} | {kept} "
            f"| {row['time']:.2f} |"
        )
    return "\n".join(lines)


def report(found: list[dict[str, Any]]) -> None:
    """The table, and as the last line the figures."""
    print(f"\n{table(found)}\n")
    names = ("accuracy", "points", "points_error", "kept", "time")
    figures = {f"{row['data']}_{row['method']}_{name}": round(row[name], 6) for row in found for name in names}
    print(json.dumps({"benchmark": "iterable", "figures": {n: x for n, x in figures.items() if not math.isnan(x)}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: 3 epochs of 30 batches, no CSV")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--fashion", type=Path, help="folder with the four files of Fashion-MNIST; default: MNIST")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if options.quick:
        rows = [run("mnist", None, method, 100, 3, 30) for method in METHODS]
        report(summary([dict(zip(FIELDS, map(str, row), strict=True)) for row in rows], 3))
        return
    kinds = ["fashion", "fashion_wrong"] if options.fashion else ["mnist", "mnist_wrong"]
    with tempfile.TemporaryDirectory() as folder:
        if options.fashion:  # as torchvision would lay out MNIST
            (Path(folder) / "MNIST").mkdir()
            (Path(folder) / "MNIST" / "raw").symlink_to(options.fashion.resolve())
        for seed in options.seeds:
            for kind in kinds:
                for method in METHODS:
                    done = {tuple(row[name] for name in FIELDS[:4]) for row in read(options.output)}
                    if (kind, method, str(seed), str(options.epochs)) not in done:
                        row = run(kind, Path(folder), method, seed, options.epochs, None)
                        _append(options.output, row)
    report(summary(read(options.output), options.epochs))


def _append(path: Path, row: tuple[Any, ...]) -> None:
    if not path.exists():
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(FIELDS)
    append(path, [row])


if __name__ == "__main__":
    main()
