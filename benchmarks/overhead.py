"""What adaptive sampling costs: time per training step with the callback over plain uniform sampling.

Both train the thesis's CNN on the full MNIST through the same DataModule. Short runs of the two alternate, each
pair in the other order than the one before; a ratio is that of the two median steps of a pair, and the figure
is the median over the pairs, with its quartiles beside it.

    python benchmarks/overhead.py [--quick] [--batch-sizes 64 256 1024]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_as import AdaptiveSamplingCallback, ConvNetClassifier, MNISTDataModule, Strategy


class StepTimes(Callback):
    """Seconds from the start of one training step to the start of the next: the draw lies in between."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.starts.append(time.perf_counter())

    def median(self) -> float:
        steps = [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]
        return statistics.median(steps[3:])


def run(data: MNISTDataModule, steps: int, sampling: AdaptiveSamplingCallback | None) -> float:
    """Median seconds per step of a short run."""
    times = StepTimes()
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        callbacks=[times] if sampling is None else [sampling, times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ConvNetClassifier(), datamodule=data)
    return times.median()


def see_everything(strategy: Strategy, batch_size: int) -> None:
    """Bring the strategy to where it is for all but the first of many epochs: every instance has a score."""
    generator = torch.Generator().manual_seed(0)
    while strategy.metrics()["seen"] < 1:
        draw = strategy.draw(batch_size, generator)
        losses = torch.rand(batch_size, dtype=torch.float64, generator=generator).pow(8)
        strategy.update(draw, losses, losses)


def measure(batch_size: int, pairs: int, seconds: float) -> tuple[list[float], list[float]]:
    """Ratios adaptive over uniform, and the uniform step times, of each pair of runs."""
    data = MNISTDataModule(batch_size=batch_size, seed=0)
    sampling = AdaptiveSamplingCallback()
    once = run(data, 10, None)
    steps = max(12, round(seconds / once))
    run(data, steps, sampling)  # warm-up of both paths
    see_everything(sampling.strategy, batch_size)
    ratios, uniforms = [], []
    for pair in range(pairs):
        order = (None, sampling) if pair % 2 else (sampling, None)
        times = {used is not None: run(data, steps, used) for used in order}
        ratios.append(times[True] / times[False])
        uniforms.append(times[False])
    return ratios, uniforms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256, 1024])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    figures: dict[str, float] = {}
    for batch_size in options.batch_sizes:
        ratios, uniforms = measure(batch_size, pairs=4 if options.quick else 24, seconds=0.8 if options.quick else 2.0)
        low, middle, high = statistics.quantiles(ratios, n=4)
        uniform = statistics.median(uniforms)
        figures[f"ratio_{batch_size}"] = round(middle, 4)
        figures[f"uniform_ms_{batch_size}"] = round(uniform * 1e3, 3)
        print(
            f"batch {batch_size}: adaptive / uniform {middle:.3f} "
            f"(quartiles {low:.3f} to {high:.3f} of {len(ratios)} pairs), "
            f"uniform step {uniform * 1e3:.1f} ms",
            flush=True,
        )
    print(json.dumps({"benchmark": "overhead", "figures": figures}))


if __name__ == "__main__":
    main()
