"""Data in chunks: how fast an AdaptiveDataLoader reads a litdata stream, and how much, beside litdata's own loader.

MNIST and synthetic rows are written by `litdata.optimize`, once. Then our loader, drawing by adaptive sampling with
the chunks as its bins and P from means, and litdata's `StreamingDataLoader`, shuffling, take turns on the same chunks:
batches of 256, with as many loader processes. Ours commits each batch and learns from losses that are made up, as a fit
does. A ratio is of the medians over the rounds.

For the bytes, the chunks are fetched from another folder into an empty cache, in which four fifths of them fit, which
is more than are open at a time; each fetch of one epoch is counted, without loader processes.

    python benchmarks/streaming.py [--quick] [--rows 2000000] [--rounds 5] [--workers 0 2] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from litdata.streaming.downloader import LocalDownloaderWithCache, register_downloader

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, AdaptiveSampling, MNISTDataModule

BATCH, DIMS, ROWS_AT_ONCE, MOST_BATCHES = 256, 256, 1000, 1000
LEAST_SPEED, MOST_BYTES = 0.9, 1.2
LEDGER = "LIGHTNING_AS_FETCHED"
"""The variable with the file that fetched bytes are noted in, for loader processes as well."""


class Counted(LocalDownloaderWithCache):
    """Fetches from a folder of this machine, and notes how much."""

    def download_file(self, remote_filepath: str, local_filepath: str) -> None:
        source = Path(remote_filepath.replace("local:", ""))
        if source.suffix == ".bin" and not Path(local_filepath).exists():
            with open(os.environ[LEDGER], "a") as ledger:
                ledger.write(f"{source.stat().st_size}\n")
        super().download_file(remote_filepath, local_filepath)


def rows(start: int) -> Iterator[dict[str, Any]]:
    """Some rows of numbers with a label each."""
    source = np.random.default_rng(start)
    for row in source.standard_normal((ROWS_AT_ONCE, DIMS), dtype=np.float32):
        yield {"x": row, "y": int(row[0] > 0)}


def images(start: int) -> Iterator[dict[str, Any]]:
    """Some images of MNIST."""
    data = MNISTDataModule(batch_size=BATCH, seed=0)
    data.setup("fit")
    train = data.dataset("train")
    assert train.labels is not None
    for index in range(start, min(start + ROWS_AT_ONCE, len(train))):
        image = (train.images[index] * 255).clamp(0, 255).to(torch.uint8).numpy()
        yield {"x": image, "y": int(train.labels[index])}


def write(folder: Path, count: int, chunk_bytes: str, make: Any) -> Path:
    """A data set of litdata's, made anew unless it is there."""
    if not (folder / "index.json").exists():
        starts = list(range(0, count, ROWS_AT_ONCE))
        optimize(make, starts, str(folder), chunk_bytes=chunk_bytes, num_workers=1, verbose=False)
    return folder


def ours(source: str, workers: int, **options: Any) -> AdaptiveDataLoader:
    """Our loader, with adaptive sampling attached."""
    stream = StreamingDataset(source, **options)
    loader = AdaptiveDataLoader(stream, BATCH, "chunk", seed=0, num_workers=workers)  # pyright: ignore[reportArgumentType]
    assert isinstance(loader.sampler, AdaptiveBatchSampler)
    loader.sampler.attach(AdaptiveSampling(bin_statistic="mean"))
    return loader


def theirs(source: str, workers: int, **options: Any) -> StreamingDataLoader:
    """Litdata's own loader."""
    return StreamingDataLoader(
        StreamingDataset(source, shuffle=True, **options), batch_size=BATCH, num_workers=workers, drop_last=True
    )


def go_through(loader: Any, most: int | None = None) -> tuple[int, float]:
    """Samples of an epoch, or of its first batches, and the seconds that they take from the second batch on."""
    sampler, samples, start = getattr(loader, "sampler", None), 0, 0.0
    for batch in islice(loader, most):
        if isinstance(sampler, AdaptiveBatchSampler):
            draw = sampler.commit()
            losses = torch.rand(len(draw.indices), dtype=torch.float64)
            sampler.strategy.update(draw, losses, losses)
        if start:
            samples += len(batch["y"])
        start = start or time.perf_counter()
    return samples, time.perf_counter() - start


def speeds(folder: Path, workers: int, rounds: int, most: int) -> dict[str, list[float]]:
    """Samples per second of both, one figure per round; the first round, which warms up, is left out."""
    loaders = {"ours": ours(str(folder), workers), "litdata": theirs(str(folder), workers)}
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(1 + rounds):
        for name, loader in loaders.items():
            samples, seconds = go_through(loader, most)
            found[name].append(samples / seconds)
    return {name: values[1:] for name, values in found.items()}


def fetched(folder: Path, make: Any, share: float) -> float:
    """Bytes that are fetched per sample of an epoch, into a cache that holds a share of the data."""
    size = sum(file.stat().st_size for file in folder.glob("*.bin"))
    with tempfile.TemporaryDirectory() as cache:
        os.environ[LEDGER] = str(Path(cache) / "fetched.txt")
        loader = make(f"local:{folder}", 0, cache_dir=cache, max_cache_size=int(share * size))
        samples, _ = go_through(loader)
        ledger = Path(os.environ[LEDGER])
        return sum(map(int, ledger.read_text().split())) / (samples + BATCH)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All figures."""
    register_downloader("local:", Counted, overwrite=True)
    sets = {
        "mnist": write(options.data / "mnist", 60_000, "2MB", images),
        "rows": write(options.data / f"rows{options.rows}", options.rows, "512KB" if options.quick else "64MB", rows),
    }
    figures: dict[str, float] = {}
    for name, folder in sets.items():
        for workers in options.workers:
            found = speeds(folder, workers, options.rounds, options.batches)
            medians = {loader: statistics.median(values) for loader, values in found.items()}
            print(name, workers, {loader: [round(value) for value in values] for loader, values in found.items()})
            figures[f"samples_per_second_{name}_{workers}"] = round(medians["ours"])
            figures[f"speed_{name}_{workers}"] = round(medians["ours"] / medians["litdata"], 3)
        share = 0.8
        both = [fetched(folder, make, share) for make in (ours, theirs)]
        figures[f"bytes_per_sample_{name}"] = round(both[0], 1)
        figures[f"bytes_{name}"] = round(both[0] / both[1], 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: few rows and rounds")
    parser.add_argument("--rows", type=int, default=2_000_000, help="synthetic rows of 1 KB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=MOST_BATCHES, help="of a round, at most")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loader processes")
    cache = Path.home() / ".cache" / "lightning_as_streaming"
    parser.add_argument("--data", type=Path, default=cache, help="where the data are written")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds, options.batches, options.workers = 20_000, 1, 40, [0]
    figures = measure(options)
    goals = {"speed": lambda value: value >= LEAST_SPEED, "bytes": lambda value: value <= MOST_BYTES}
    for key, value in figures.items():
        if (goal := goals.get(key.split("_")[0])) and not key.startswith("bytes_per"):
            print(f"{key} = {value}: {'reached' if goal(value) else 'missed'}")
    print(json.dumps({"benchmark": "streaming", "figures": figures}))


if __name__ == "__main__":
    main()
