"""How fast training batches are loaded: this package's MNISTDataModule against torchvision's data set.

Batches of 256 of the full MNIST training set, shuffled, without loader processes: ours over whole epochs; torchvision's
`MNIST` with `ToTensor` and `Normalize` through a DataLoader, over a few batches; and the bare gather of the same
batches from tensors, which is what no loader can beat. They take turns, and a figure is the median over the rounds.

    python benchmarks/loading.py [--quick]
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from lightning_as import MNISTDataModule
from lightning_as.data import mnist as our_mnist

BATCH = 256
TORCHVISION_BATCHES = 20
LEAST_TIMES_TORCHVISION, MOST_TIMES_GATHER, MOST_SECONDS = 40, 2, 1


def lay_out(root: Path) -> None:
    """The package's copy of MNIST, unpacked to where torchvision looks for it."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in our_mnist._BUNDLED.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def torchvision_loader(root: Path) -> DataLoader[Any]:
    transform = Compose([ToTensor(), Normalize((our_mnist.MEAN,), (our_mnist.STD,))])
    return DataLoader(MNIST(str(root), train=True, transform=transform), BATCH, shuffle=True, num_workers=0)


def seconds_per_sample(batches: Iterable[Any], count: int | None = None) -> float:
    """Time to go through some or all of the batches, including the start of an epoch, over the samples in them."""
    start = time.perf_counter()
    samples = sum(len(labels) for _, labels in islice(batches, count))
    return (time.perf_counter() - start) / samples


def gather(images: Tensor, labels: Tensor, batches: list[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    return ((images.index_select(0, indices), labels.index_select(0, indices)) for indices in batches)


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds per sample of each way of loading, one per round."""
    data = MNISTDataModule(batch_size=BATCH, seed=0)
    data.setup("fit")
    train = data.dataset("train")
    images, labels = train.images, train.labels
    assert labels is not None
    ours = data.train_dataloader()
    seconds: dict[str, list[float]] = {"ours": [], "torchvision": [], "gather": []}
    with tempfile.TemporaryDirectory() as root:
        lay_out(Path(root))
        theirs = torchvision_loader(Path(root))
        for _ in range(1 + rounds):
            indices = list(torch.randperm(len(train)).split(BATCH))[: len(ours)]
            seconds["gather"].append(seconds_per_sample(gather(images, labels, indices)))
            seconds["ours"].append(seconds_per_sample(ours))
            seconds["torchvision"].append(seconds_per_sample(theirs, TORCHVISION_BATCHES))
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


def seconds_to_load() -> float:
    """Time to read and normalise the training part, from the packed files in the package."""
    start = time.perf_counter()
    our_mnist.load_mnist("train")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    options = parser.parse_args()
    torch.manual_seed(0)
    load = statistics.median(seconds_to_load() for _ in range(3))
    seconds = measure(rounds=5 if options.quick else 15)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    # Ratios are taken within a round, where both had the same machine.
    faster = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["torchvision"], strict=True))
    slower = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["gather"], strict=True))
    print(f"{'':>12}{'samples/s':>12}{'ms/batch':>10}   ({torch.get_num_threads()} thread(s), batch {BATCH})")
    for name, median in medians.items():
        print(f"{name:>12}{1 / median:>12,.0f}{median * BATCH * 1e3:>10.3f}")
    print(
        f"ours over torchvision: {faster:.1f} times the samples per second (target: {LEAST_TIMES_TORCHVISION} or more)"
    )
    print(f"ours over the bare gather: {slower:.2f} times the time (target: {MOST_TIMES_GATHER} or less)")
    print(f"loading the training part: {load:.2f} s (target: less than {MOST_SECONDS} s)")
    figures = {f"samples_per_second_{name}": round(1 / median) for name, median in medians.items()} | {
        "times_torchvision": round(faster, 2),
        "times_gather_time": round(slower, 3),
        "seconds_to_load_train": round(load, 3),
    }
    print(json.dumps({"benchmark": "loading", "figures": figures}))


if __name__ == "__main__":
    main()
