"""What a sampling method costs: time per training step with the callback over plain uniform sampling.

Both train the thesis's CNN on the full MNIST through the same DataModule. Short runs of the two alternate, each
pair in the other order than the one before; a ratio is that of the two median steps of a pair, and the figure
is the median over the pairs, with its quartiles beside it. The modes:

returned  the module returns losses and logits, at each of the batch sizes
unedited  the module returns its loss alone: a hook sees the logits, the callback computes the losses
weights   as unedited, with unbiased importance weights on the logits' gradient
workers   as returned, with two loader processes
ddp       as returned, in two processes (gloo), each with half of the batch; beside it the share of the step that the
          one collective takes, waiting for the other process included

Beside each ratio stands the share of the step that the sampler's own code takes: its draw, and what the callback does.
Both are taken by one clock in one run, so that a machine whose speed drifts hardly shows in it; and as means, so that
what is done once in many steps, such as to rank all instances, counts as well, which the median step does not have. It
leaves out by what the rest of the step is slowed, such as hooks on the module, and that uniform sampling draws as well.
What of it is the look at the batch, for the figures that are logged, and the record of the examples stands apart.

    python benchmarks/overhead.py [--quick] [--modes returned unedited weights workers ddp] [--batch-sizes 64 256 1024]
        [--strategy ClosenessSampling AdaptiveSampling]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

import lightning_as.plugin.rows
from lightning_as import AdaptiveSamplingCallback, ConvNetClassifier, MNISTDataModule, Strategy, strategies
from lightning_as.core.record import Record
from lightning_as.plugin.looks import Looks
from lightning_as.plugin.wiring import gather_batch

MODES = ("returned", "unedited", "weights", "workers", "ddp")
STRATEGIES = ("ClosenessSampling", "AdaptiveSampling")  # the default, and the thesis's


class Unedited(ConvNetClassifier):
    """Returns its loss alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"]


class StepTimes(Callback):
    """Seconds from the start of one training step to the start of the next: the draw lies in between."""

    def __init__(self, report: Path | None = None) -> None:
        self.starts: list[float] = []
        self.report = report

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.report is not None and trainer.is_global_zero:  # another process cannot hand it back
            steps = [after - before for before, after in pairwise(self.starts)][3:]
            gathering = statistics.median(GATHERING[3:] or [0.0])
            self.report.write_text(json.dumps([statistics.median(steps), gathering, statistics.fmean(steps)]))
        GATHERING.clear()


GATHERING: list[float] = []
"""Seconds that each step of the present run spent on its collective."""


def timed_gather(trainer: Trainer, rows: list[Tensor], device: torch.device) -> list[Tensor]:
    """What the callback calls to put together what the processes found, with a clock."""
    start = time.perf_counter()
    gathered = gather_batch(trainer, rows, device)
    GATHERING.append(time.perf_counter() - start)
    return gathered


class Own:
    """Seconds that the sampler's own code takes in each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._spent = 0.0

    def clocked(self, function: Callable[..., Any], ends: bool = False) -> Callable[..., Any]:
        """The function with a clock; whether it `ends` a step."""

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self._spent += time.perf_counter() - start
            if ends:
                self.steps.append(self._spent)
                self._spent = 0.0
            return result

        return call

    def watch(self, sampling: AdaptiveSamplingCallback) -> None:
        """Put clocks on a callback and on the draws of its strategy."""
        for name in ("on_train_batch_start", "on_before_backward", "on_after_backward", "on_train_batch_end"):
            if hasattr(sampling, name):
                setattr(sampling, name, self.clocked(getattr(sampling, name), ends=name == "on_train_batch_end"))
        sampling.strategy.draw = self.clocked(sampling.strategy.draw)


LOOKING = Own()
"""What each step of the present run spends on the look at its batch, for the figures, and on the record of it."""


def clock_looks() -> None:
    """Put clocks on both, in all callbacks; what is logged, now and then, is not among it."""
    Looks.of = LOOKING.clocked(Looks.of)
    Record.add = LOOKING.clocked(Record.add, ends=True)


class Setting:
    """One strategy and mode at one batch size: how to run some steps, with the callback or without."""

    def __init__(self, strategy: str, mode: str, batch_size: int) -> None:
        self.processes = 2 if mode == "ddp" else 1
        self.module: Callable[[], LightningModule] = Unedited if mode in ("unedited", "weights") else ConvNetClassifier
        self.data = MNISTDataModule(batch_size // self.processes, num_workers=2 if mode == "workers" else 0, seed=0)
        self.sampling = AdaptiveSamplingCallback(
            getattr(strategies, strategy)(),
            logits_from="network" if mode in ("unedited", "weights") else None,
            weights="unbiased" if mode == "weights" else "none",
        )
        self.own = Own()
        if self.processes == 1:
            self.own.watch(self.sampling)

    def run(self, steps: int, adaptive: bool) -> tuple[float, float, float]:
        """Of a short run the median seconds per step, those of them that are the collective's, and the mean."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "median"
            times = StepTimes(report)
            trainer = Trainer(
                accelerator="cpu",
                devices=self.processes,
                strategy="ddp_fork" if self.processes > 1 else "auto",
                max_epochs=1,
                limit_train_batches=steps,
                limit_val_batches=0,
                callbacks=[self.sampling, times] if adaptive else [times],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(self.module(), datamodule=self.data)
            step, gathering, mean = json.loads(report.read_text())
            return step, gathering, mean


def see_everything(strategy: Strategy, batch_size: int) -> None:
    """Bring the strategy to where it is for all but the first of many epochs: every instance has a score."""
    generator, drawn = torch.Generator().manual_seed(0), 0
    while drawn < 2 * len(strategy.bins) or strategy.metrics().get("seen", 1.0) < 1:
        drawn += batch_size
        draw = strategy.draw(batch_size, generator)
        losses = torch.rand(batch_size, dtype=torch.float64, generator=generator).pow(8)
        strategy.update(draw, losses, losses)


def measure(setting: Setting, pairs: int, seconds: float) -> dict[str, list[float]]:
    """Of each pair the ratio, the uniform step, and the shares of the collective, of own code and of looks."""
    once, *_ = setting.run(10, adaptive=False)
    steps = max(12, round(seconds / once))
    setting.run(steps, adaptive=True)  # warm-up of both paths
    if setting.processes == 1:  # what forked processes learn stays with them
        see_everything(setting.sampling.strategy, 1024)
    found: dict[str, list[float]] = {"ratios": [], "uniforms": [], "collective": [], "own": [], "looks": []}
    for pair in range(pairs):
        setting.own.steps.clear()
        LOOKING.steps.clear()
        order = (False, True) if pair % 2 else (True, False)
        times = {adaptive: setting.run(steps, adaptive) for adaptive in order}
        step, gathering, mean = times[True]
        found["ratios"].append(step / times[False][0])
        found["uniforms"].append(times[False][0])
        found["collective"].append(gathering / step)
        found["own"].append(statistics.fmean(setting.own.steps[3:] or [0.0]) / mean)
        found["looks"].append(statistics.fmean(LOOKING.steps[3:] or [0.0]) / mean)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: the mode returned alone")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256, 1024], help="of the mode returned")
    parser.add_argument("--strategy", nargs="+", help=f"default: {' '.join(STRATEGIES)}; quick: the first of these")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning_as.plugin.rows.gather_batch = timed_gather
    clock_looks()
    figures: dict[str, float] = {}
    modes = options.modes or (["returned"] if options.quick else MODES)
    names = options.strategy or STRATEGIES[: 1 if options.quick else 2]
    cells = [(mode, size) for mode in modes for size in (options.batch_sizes if mode == "returned" else [256])]
    for (mode, size), strategy in product(cells, names):
        found = measure(Setting(strategy, mode, size), 4 if options.quick else 24, 0.8 if options.quick else 2.0)
        low, middle, high = statistics.quantiles(found["ratios"], n=4)
        uniform, shares = statistics.median(found["uniforms"]), found["collective"]
        name = f"{size}" if mode == "returned" else f"{mode}_{size}"
        name = name if strategy == names[0] else f"{strategy}_{name}"
        figures[f"ratio_{name}"] = round(middle, 4)
        figures[f"uniform_ms_{name}"] = round(uniform * 1e3, 3)
        print(
            f"{strategy}, {mode}, batch {size}: adaptive / uniform {middle:.3f} "
            f"(quartiles {low:.3f} to {high:.3f} of {len(found['ratios'])} pairs), uniform step {uniform * 1e3:.1f} ms",
            flush=True,
        )
        if mode != "ddp":  # what forked processes time stays with them
            own, looks = (statistics.median(found[part]) for part in ("own", "looks"))
            figures |= {f"own_share_{name}": round(own, 4), f"look_share_{name}": round(looks, 4)}
            print(
                f"  the sampler's own code takes {own:.1%} of an adaptive step, its look at the batch and the record "
                f"of it {looks:.1%}",
                flush=True,
            )
        if mode == "ddp":
            figures[f"collective_share_{name}"] = round(statistics.median(shares), 4)
            print(f"  the collective takes {statistics.median(shares):.1%} of an adaptive step", flush=True)
    print(json.dumps({"benchmark": "overhead", "figures": figures}))


if __name__ == "__main__":
    main()
