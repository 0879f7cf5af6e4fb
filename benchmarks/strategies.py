"""All strategies against each other: training cost, test accuracy and time, on the full and on the imbalanced MNIST.

The thesis's CNN, Adadelta, batch 256, each strategy as its preset has it. Twice per epoch the clock stands still
and two figures are taken in evaluation mode and float64: the training cost, the mean cross-entropy over the whole
training set, and the accuracy on the test set. The imbalanced training set is that of Schaul et al.: of the digits 0 to
4 one image in a hundred is kept; the test set is the full one.

Compared are equal steps, and equal time: what a strategy has reached when its clock shows what uniform sampling took
for all its epochs. The clock is the processor time of one thread, so that runs may share a machine. With
alternate, the median over the pairs.

A finished run is appended to the CSV and not repeated; one that was interrupted starts anew.

    python benchmarks/strategies.py [--quick] [--epochs 3] [--seeds 0 1] [--data full imbalanced] [--only NAME …]
    python benchmarks/strategies.py --times [--only NAME …]
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from lightning_as import ConvNetClassifier, MNISTDataModule
from lightning_as.cli import PRESETS, AdaptiveSamplingCLI
from lightning_as.data.dataloader import as_it_is
from lightning_as.models.evaluation import evaluate
from lightning_as.plugin.irreducible import irreducible_losses
from lightning_as.strategies.cards import cards

RESULTS = Path(__file__).parent / "results" / "strategies.csv"
FIELDS = ("data", "strategy", "seed", "step", "seconds", "training_cost", "test_accuracy")
TIMES = ("strategy", "ratio", "uniform_ms")
IMBALANCE = [0.01] * 5 + [1.0] * 5
CHECKS = 2  # evaluations per epoch
STUDIES = Path(__file__).parent.parent / "thesis" / "configs"


def presets() -> dict[str, Path]:
    """Presets by the name of what they train with; "UniformWithReplacement" takes an option beside."""
    methods = {card.name: PRESETS / f"{card.preset}.yaml" for card in cards() if card.preset}
    variants = {name: STUDIES / f"{name}.yaml" for name in ("annex", "robust")}
    return methods | {"UniformWithReplacement": methods["Uniform"]} | variants


def made(name: str, seed: int, imbalanced: bool, **options: int) -> tuple[Trainer, LightningModule, MNISTDataModule]:
    """A training with the strategy of a preset; all else is the same for all."""
    config, preset = (yaml.safe_load(path.read_text()) for path in (PRESETS / "default.yaml", presets()[name]))
    callbacks = preset["trainer"]["callbacks"]
    strategy = callbacks[0]["init_args"]["strategy"]
    if name == "RHOLoss":
        strategy["init_args"]["irreducible_losses"] = irreducible(imbalanced)
    if name == "UniformWithReplacement":
        strategy["init_args"] = {"replacement": True}
    config["data"]["init_args"]["imbalance"] = IMBALANCE if imbalanced else None
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    config["trainer"] |= {"callbacks": callbacks, "limit_val_batches": 0, **quiet, **options}
    built = AdaptiveSamplingCLI(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=seed,
        save_config_callback=None,
        run=False,
        args=config,
    )
    return built.trainer, built.model, built.datamodule  # pyright: ignore[reportReturnType]


def irreducible(imbalanced: bool) -> str:
    """The file that RHO-LOSS needs, made if it is not there; the time for that is not counted."""
    path = Path(tempfile.gettempdir()) / f"irreducible_losses_{'imbalanced' if imbalanced else 'full'}.pt"
    if not path.exists():
        dataset = MNISTDataModule(imbalance=IMBALANCE if imbalanced else None).dataset("train")
        torch.save(irreducible_losses(ConvNetClassifier, DataLoader(dataset, 256, collate_fn=as_it_is)), path)
    return str(path)


class Checks(Callback):
    """Evaluates so many times per epoch."""

    def __init__(self, data: MNISTDataModule) -> None:
        self.data = data
        self.rows: list[tuple[int, float, float, float]] = []
        self.aside = 0.0  # seconds that the evaluations took

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches, step = int(trainer.num_training_batches), trainer.global_step
        if step % batches in {batches * part // CHECKS for part in range(1, CHECKS)} | {0}:
            paused = time.process_time()
            seconds = paused - self.start - self.aside
            cost = evaluate(pl_module, self.data.train_evaluation_dataloader()).cost
            accuracy = evaluate(pl_module, self.data.test_dataloader()).accuracy
            self.rows.append((step, round(seconds, 2), cost, accuracy))
            self.aside += time.process_time() - paused
            print(f"  step {step}: training cost {cost:.2e}, test accuracy {accuracy:.2%}", flush=True)


def run(name: str, seed: int, imbalanced: bool, epochs: int) -> list[tuple[Any, ...]]:
    """Rows of one run."""
    kind = "imbalanced" if imbalanced else "full"
    print(f"{name}, {kind}, seed {seed}", flush=True)
    torch.set_num_threads(1)
    seed_everything(seed, verbose=False)
    trainer, module, data = made(name, seed, imbalanced, max_epochs=epochs)
    checks = Checks(data)
    trainer.callbacks.append(checks)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(module, datamodule=data)
    return [(kind, name, seed, *row) for row in checks.rows]


def times(name: str, pairs: int, steps: int) -> tuple[str, float, float]:
    """The step's time over that of uniform sampling, and that in ms."""

    def per_step(name: str) -> float:
        trainer, module, data = made(name, 0, False, max_epochs=1, limit_train_batches=steps)
        clock = Clock()
        trainer.callbacks.append(clock)  # pyright: ignore[reportAttributeAccessIssue]
        trainer.fit(module, datamodule=data)
        return clock.seconds / steps

    ratios, uniforms = [], []
    for pair in range(pairs):
        order = (name, "Uniform") if pair % 2 else ("Uniform", name)
        seconds = [per_step(one) for one in order][:: 1 if pair % 2 else -1]  # the strategy's first
        ratios.append(seconds[0] / seconds[1])
        uniforms.append(seconds[1] * 1e3)
    row = name, round(statistics.median(ratios), 3), round(statistics.median(uniforms), 2)
    print(f"{name}: {row[1]} of a uniform step", flush=True)
    return row


class Clock(Callback):
    """Seconds of training after the first batch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


def summary(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Of each data and strategy, medians over the seeds: at the end, and when uniform sampling has ended."""
    found = []
    for data in sorted({row["data"] for row in rows}):
        of_data = [row for row in rows if row["data"] == data]
        ends = {
            row["seed"]: float(row["seconds"]) for row in of_data if row["strategy"] == "Uniform"
        }  # the last counts
        for strategy in sorted({row["strategy"] for row in of_data}):
            own = [row for row in of_data if row["strategy"] == strategy]
            runs = [[row for row in own if row["seed"] == seed] for seed in sorted({row["seed"] for row in own})]
            last = [run[-1] for run in runs]
            in_time = [at_time(run, ends.get(run[0]["seed"], 0.0)) for run in runs]
            ratios = [float(run[-1]["seconds"]) / ends.get(run[0]["seed"], float("nan")) for run in runs]
            found.append(
                {
                    "data": data,
                    "strategy": strategy,
                    "seeds": len(runs),
                    "cost": statistics.median(float(row["training_cost"]) for row in last),
                    "accuracy": statistics.median(float(row["test_accuracy"]) for row in last),
                    "cost_in_time": statistics.median(cost for cost, _ in in_time),
                    "accuracy_in_time": statistics.median(accuracy for _, accuracy in in_time),
                    "time": statistics.median(ratios),
                }
            )
    return found


def at_time(run: list[dict[str, str]], seconds: float) -> tuple[float, float]:
    """Training cost and test accuracy of a run at some time, interpolated between two checks, the cost on a log scale.

    NaN before the first check; those of the end after it.
    """
    times = [float(row["seconds"]) for row in run]
    if seconds < times[0]:
        return float("nan"), float("nan")
    logs = np.log([float(row["training_cost"]) for row in run])
    accuracies = [float(row["test_accuracy"]) for row in run]
    return float(np.exp(np.interp(seconds, times, logs))), float(np.interp(seconds, times, accuracies))


def table(rows: list[dict[str, str]], kind: str) -> str:
    """Markdown: the strategies on one kind of data, the best training cost first."""
    lines = [
        "| strategy | training cost | in uniform's time | test accuracy | in uniform's time | time / uniform |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in summary(rows) if row["data"] == kind), key=lambda row: row["cost"]):
        late = np.isnan(row["cost_in_time"])
        lines.append(
            f"| {row['strategy']} | {_cost(row['cost'])} | {'–' if late else _cost(row['cost_in_time'])} | "
            f"{row['accuracy']:.2%} | {'–' if late else format(row['accuracy_in_time'], '.2%')} | {row['time']:.2f} |"
        )
    return "\n".join(lines)


def _cost(nats: float) -> str:
    return f"{nats:.1e}".replace("e-0", "e-")


def figures(rows: list[dict[str, str]]) -> dict[str, float]:
    """The last line's figures."""
    return {
        f"{row['data']}_{row['strategy']}_{key}": row[key]
        for row in summary(rows)
        for key in ("cost", "accuracy", "cost_in_time", "accuracy_in_time", "time")
    }


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Training cost and test accuracy of each strategy, at equal steps and at equal time."""
    import matplotlib.pyplot as plt  # late: an extra that nothing else here needs

    found = summary(rows)
    kinds = [kind for kind in ("full", "imbalanced") if any(row["data"] == kind for row in found)]
    figure, grid = plt.subplots(
        len(kinds), 2, figsize=(11, 0.5 + 0.27 * len(found)), layout="constrained", squeeze=False
    )
    for kind, (left, right) in zip(kinds, grid, strict=True):
        of_kind = sorted((row for row in found if row["data"] == kind), key=lambda row: -row["cost"])
        places = range(len(of_kind))
        for axes, key, scale in ((left, "cost", 1.0), (right, "accuracy", 100.0)):
            ends = [row[key] * scale for row in of_kind]
            in_time = [row[f"{key}_in_time"] * scale for row in of_kind]
            axes.hlines(places, ends, in_time, color="#BBBBBB", linewidth=1.5, zorder=1)
            axes.scatter(in_time, places, color="#D55E00", label="in the time of uniform sampling", zorder=2)
            axes.scatter(ends, places, color="#0072B2", label="after as many steps", zorder=3, s=22)
            base = next(row for row in of_kind if row["strategy"] == "Uniform")
            axes.axvline(base[key] * scale, color="#555555", linewidth=0.8, linestyle=":")
            axes.set_yticks(places, [row["strategy"] for row in of_kind] if axes is left else [])
            axes.spines[["top", "right"]].set_visible(False)
        left.set_xscale("log")
        left.set_xlabel("training cost (nats); the dotted line is uniform sampling")
        right.set_xlabel("test accuracy (%)")
        left.set_title(f"{'MNIST' if kind == 'full' else 'Imbalanced MNIST'}", loc="left", fontsize=11)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="end within 50 s: uniform and adaptive, 40 batches, no CSV"
    )
    parser.add_argument("--times", action="store_true", help="measure the time of a step instead")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", nargs="+", choices=["full", "imbalanced"], default=["full", "imbalanced"])
    parser.add_argument(
        "--only", nargs="+", choices=sorted(presets()), default=sorted(presets(), key=lambda n: n != "Uniform")
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.quick:
        rows = [times(name, 3, 30) for name in ("AdaptiveSampling", "OnlineBatchSelection")]
        print(json.dumps({"benchmark": "strategies", "figures": {f"ratio_{row[0]}": row[1] for row in rows}}))
        return
    if options.times:
        path = options.output.with_name("strategies_times.csv")
        for name in options.only:
            if name not in {row["strategy"] for row in read(path)}:
                append(path, TIMES, [times(name, 7, 40)])
        print(
            json.dumps(
                {
                    "benchmark": "strategies",
                    "figures": {f"ratio_{r['strategy']}": float(r["ratio"]) for r in read(path)},
                }
            )
        )
        return
    for seed in options.seeds:
        for kind in options.data:
            for name in options.only:
                if (kind, name, str(seed)) not in {(r["data"], r["strategy"], r["seed"]) for r in read(options.output)}:
                    append(options.output, FIELDS, run(name, seed, kind == "imbalanced", options.epochs))
    plot(read(options.output), options.output.with_suffix(".png"))
    for kind in options.data:
        print(f"\n{kind}\n\n{table(read(options.output), kind)}\n")
    print(json.dumps({"benchmark": "strategies", "figures": figures(read(options.output))}))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, none if it is not there yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, fields: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A run's rows, all at once, so that the file never has half a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(fields)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
