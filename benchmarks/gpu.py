"""What adaptive sampling costs on a GPU, where its state and draws live there, and what one GPU can do.

The thesis's CNN on the full MNIST, all images on the GPU (``MNISTDataModule(device="auto")``). Short runs alternate
in changing order; a ratio is that of the times per step of two runs of one round, and the figure is the median over
the rounds, with its quartiles beside it. A run is timed from its tenth step to its last, and waits for the GPU at
both ends. In between uniform sampling never does, and AS on the GPU with every 50th step, for the log.

on_host_<batch>     AS as it is, over uniform sampling: its state and draws are on the CPU, which waits for the losses
                    of each step (goal: at most 1.05)
on_device_<batch>   AS with its state and draws on the GPU as well, by ``sampler.to("cuda")``, over the same
default_on_device_<batch>, default_on_host_<batch>   the same of the callback's default, ClosenessSampling
epochs_per_minute_<batch>   of AS on the CPU
parallel_<k>        epochs of AS per minute of k processes that share the GPU, each with a seed of its own, batch 256

    python benchmarks/gpu.py [--quick] [--accelerator auto cuda cpu] [--batch-sizes 64 256 1024] [--processes 1 2 4]

Without a GPU it runs, and says so (``cuda`` is 0 then): what "the device" is then is the CPU, and the first two figures
compare the same thing, so that it only shows that the benchmark works.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_as import (
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    ClosenessSampling,
    ConvNetClassifier,
    MNISTDataModule,
)

ARMS = ("uniform", "on_device", "on_host", "default_on_device", "default_on_host")
WARM_UP = 10  # steps that are not timed
IMAGES = 60_000


class Stopwatch(Callback):
    """Seconds per step of a fit, without its first steps."""

    def __init__(self) -> None:
        self.begun = self.seconds = 0.0
        self.steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == WARM_UP:
            self.begun = _now(pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps = trainer.global_step - WARM_UP
        self.seconds = (_now(pl_module.device) - self.begun) / self.steps


class Setting:
    """A batch size: how to run some steps of each arm."""

    def __init__(self, batch_size: int, accelerator: str, seed: int = 0) -> None:
        self.data = MNISTDataModule(batch_size, device="auto", seed=seed)
        self.data.setup("fit")
        self.accelerator = accelerator
        self.sampling = {
            arm: AdaptiveSamplingCallback(ClosenessSampling() if "default" in arm else AdaptiveSampling())
            for arm in ARMS[1:]
        }

    def run(self, arm: str, steps: int) -> float:
        """Seconds per step."""
        there = "on_device" in arm and torch.cuda.is_available() and self.accelerator != "cpu"
        assert self.data.sampler is not None
        self.data.sampler.to("cuda" if there else "cpu")
        watch = Stopwatch()
        trainer = Trainer(
            accelerator=self.accelerator,
            devices=1,
            max_epochs=-1,
            max_steps=WARM_UP + steps,
            limit_val_batches=0,
            callbacks=[watch] if arm == "uniform" else [self.sampling[arm], watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(ConvNetClassifier(), datamodule=self.data)
        return watch.seconds


def overheads(setting: Setting, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per step of each arm in each round."""
    steps = max(10 if seconds < 0.5 else 20, round(seconds / setting.run("uniform", 20)))
    for arm in ARMS[1:]:
        setting.run(arm, 20)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        first = number % len(ARMS)
        for arm in ARMS[first:] + ARMS[:first]:
            found[arm].append(setting.run(arm, steps))
    return found


def alone(seed: int, accelerator: str, steps: int, ready: Any, times: Any) -> None:
    """One of several processes: train for so many steps, beginning when all are ready; tell the seconds per step."""
    _quiet()
    torch.set_num_threads(1)
    setting = Setting(256, accelerator, seed)
    setting.run("on_host", 20)
    ready.wait(timeout=300)
    times.put(setting.run("on_host", steps))


def parallel(processes: int, accelerator: str, steps: int) -> float:
    """Steps per second of all processes together, which do equally many, by the slowest of them."""
    spawning = multiprocessing.get_context("spawn")
    ready, times = spawning.Barrier(processes), spawning.Queue()
    workers = [
        spawning.Process(target=alone, args=(seed, accelerator, steps, ready, times), daemon=True)
        for seed in range(processes)
    ]
    for worker in workers:
        worker.start()
    slowest = max(times.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    return processes / slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    parser.add_argument("--accelerator", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=None, help="default: 64 256 1024; quick: 256")
    parser.add_argument("--processes", type=int, nargs="+", default=None, help="default: 1 2 4; quick: 2")
    options = parser.parse_args()
    _quiet()
    quick: bool = options.quick
    cuda = torch.cuda.is_available() and options.accelerator != "cpu"
    print(torch.cuda.get_device_name() if cuda else "no GPU: the CPU stands for it, and the figures say nothing of one")
    figures: dict[str, float] = {"cuda": int(cuda)}
    for size in options.batch_sizes or ([256] if quick else [64, 256, 1024]):
        found = overheads(Setting(size, options.accelerator), 2 if quick else 12, 0.3 if quick else 0.8)
        for arm in ARMS[1:]:
            ratios = [ours / plain for ours, plain in zip(found[arm], found["uniform"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            figures[f"{arm}_{size}"] = round(middle, 4)
            print(f"batch {size}, {arm} / uniform {middle:.3f} (quartiles {low:.3f} to {high:.3f})", flush=True)
        figures[f"uniform_ms_{size}"] = round(1e3 * statistics.median(found["uniform"]), 3)
        figures[f"epochs_per_minute_{size}"] = round(60 * size / IMAGES / statistics.median(found["on_host"]), 2)
    setting = Setting(256, options.accelerator)
    setting.run("on_host", 20)
    steps = max(10, round((0.5 if quick else 6.0) / setting.run("on_host", 20)))
    for processes in options.processes or ([2] if quick else [1, 2, 4]):
        rate = parallel(processes, options.accelerator, steps)
        figures[f"parallel_{processes}"] = round(60 * 256 / IMAGES * rate, 2)
        print(f"{processes} in parallel: {figures[f'parallel_{processes}']} epochs per minute", flush=True)
    print(json.dumps({"benchmark": "gpu", "figures": figures}))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
