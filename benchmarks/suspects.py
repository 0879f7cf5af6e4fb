"""Whether wrong labels are found: `suspects()` and other scores of one training, beside cleanlab.

MNIST with 10 and 40 % of the labels flipped: the thesis's network, Adadelta, batches of 256; and 4,800 of its images,
by Adam and without dropout, so long that the wrong labels are learnt by heart. CIFAR-10N "worse", where people gave the
labels: the first 15,000 images, the residual network of the budgets' benchmark, by Adam in one cycle.
Each is trained by some strategies; after each epoch the examples are ranked by each score, and compared with the labels
that are known to be wrong: the average precision, and the precision and recall of what is suspected. cleanlab (which
must be installed, or its part is left out) gets the out-of-sample probabilities of the same network by
cross-validation, shuffled epochs and as many of them, on CIFAR-10N: its scores of labels, and what its filters find.

A finished run is appended to the table and not repeated. `--report` writes the figures beside it and runs nothing.

    python benchmarks/suspects.py [--quick] [--report] [--sets mnist-10 mnist-40 …] [--seeds 0 1]
        [--methods ClosenessSampling Uniform AdaptiveSampling cleanlab] [--data ../shared/data]
        [--results benchmarks/results/suspects]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where this folder is a package, beside ours

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from benchmarks.budgets.data import Data, human_labels, load
from benchmarks.budgets.rivals import UNIFORM, make
from benchmarks.budgets.table import append, version
from benchmarks.budgets.tasks import TASKS
from benchmarks.budgets.training import fit, prepare
from benchmarks.wrong_labels.report import figures, markdown, summed
from benchmarks.wrong_labels.scores import Row, judged, judged_by_cleanlab
from lightning_as import AdaptiveSamplingCallback, ConvNetClassifier, MNISTDataModule
from lightning_as.plugin.examples import known_of

FIELDS = (
    "set", "method", "seed", "epoch", "score", "examples", "wrong", "average_precision", "suspected", "precision",
    "recall", "seconds", "version",
)  # fmt: skip
METHODS = ("ClosenessSampling", "Uniform", "AdaptiveSampling", "cleanlab")
FOLDS = 3
_HELD_OUT_BATCH = 500
_CIFAR, _IMAGES = "cifar10n-worse", 15_000
_CACHE = Path.home() / ".cache" / "lightning_as_budget"


class OnMNIST(NamedTuple):
    """A training of the thesis's network."""

    noise: float
    """Share of wrong labels."""
    epochs: int
    batch_size: int = 256
    share: float = 1.0
    """Of the images, those that are kept."""
    optimizer: Literal["adadelta", "adam"] = "adadelta"
    dropout: float = 0.5


MNIST = {
    "mnist-10": OnMNIST(0.1, 2),
    "mnist-40": OnMNIST(0.4, 2),
    "mnist-40-by-heart": OnMNIST(0.4, 25, 64, 0.08, "adam", 0.0),
}
EPOCHS = {**{name: of.epochs for name, of in MNIST.items()}, _CIFAR: 8}


class Run(NamedTuple):
    """One training, or the trainings of all folds."""

    set: str
    method: str
    seed: int


class Judge(Callback):
    """After each epoch, rows of how well each score finds the labels that are wrong, (N,) bool."""

    def __init__(self, wrong: np.ndarray, labels: np.ndarray) -> None:
        self.wrong, self.labels = wrong, labels
        self.rows = list[Row]()
        self._start, self._aside = time.process_time(), 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        paused = time.process_time()
        ours = next(one for one in trainer.callbacks if isinstance(one, AdaptiveSamplingCallback))  # pyright: ignore[reportAttributeAccessIssue]
        known, suspects = known_of(ours.strategy), ours.suspects()
        places, score = np.asarray(suspects["index"]), np.full(len(self.wrong), np.nan)
        score[places] = suspects["score"]
        flagged = np.zeros(len(self.wrong), bool)
        flagged[places] = suspects["suspected"]
        common = {"epoch": trainer.current_epoch + 1, "seconds": f"{paused - self._start - self._aside:.1f}"}
        self.rows += [{**common, **row} for row in judged(known, score, flagged, self.labels, self.wrong)]
        self._aside += time.process_time() - paused


def measure(run: Run, options: argparse.Namespace) -> list[Row]:
    """The rows of a run."""
    if run.set == _CIFAR:
        data, clean = cifar(options.data, options.most)
        wrong = (data.labels != clean).numpy()
        rows = (cross_validated if run.method == "cleanlab" else on_cifar)(run, data, wrong, options)
    else:
        rows, wrong = on_mnist(run, options)
    common = {**run._asdict(), "examples": len(wrong), "wrong": f"{wrong.mean():.4f}", "version": version()}
    blank = dict.fromkeys(FIELDS, "")
    return [{**blank, **common, **row} for row in rows]


def on_mnist(run: Run, options: argparse.Namespace) -> tuple[list[Row], np.ndarray]:
    """The rows of a training on MNIST, and which labels are wrong."""
    of, seed = MNIST[run.set], run.seed
    share = of.share if options.most is None else options.most / 60_000
    seed_everything(seed, verbose=False)
    data = MNISTDataModule(of.batch_size, seed=seed, imbalance=[share] * 10, label_noise=of.noise)
    labels, clean = (_labels(one) for one in (data, MNISTDataModule(imbalance=[share] * 10)))
    judge = Judge(labels != clean, labels)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=min(of.epochs, options.epochs),
        callbacks=[AdaptiveSamplingCallback(make(f"{run.method}()")), judge],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ConvNetClassifier(optimizer=of.optimizer, dropout=of.dropout), datamodule=data)
    return judge.rows, judge.wrong


def _labels(data: MNISTDataModule) -> np.ndarray:
    labels = data.dataset("train").labels
    assert labels is not None
    return labels.numpy()


@lru_cache(maxsize=1)
def cifar(folder: Path, most: int | None) -> tuple[Data, Tensor]:
    """CIFAR-10 with people's labels, the first images of it, and its true labels."""
    whole, size = load("cifar10", folder, _CACHE), most or _IMAGES
    labels = human_labels("worse", folder)[:size]
    return whole._replace(inputs=whole.inputs[:size], labels=labels), whole.labels[:size]


def on_cifar(run: Run, data: Data, wrong: np.ndarray, options: argparse.Namespace) -> list[Row]:
    """The rows of a training on CIFAR-10N."""
    judge = Judge(wrong, data.labels.numpy())
    fit(TASKS[_CIFAR], _steps(data, options), run.seed, f"{run.method}()", data, [judge])
    return judge.rows


def cross_validated(run: Run, data: Data, wrong: np.ndarray, options: argparse.Namespace) -> list[Row]:
    """The rows of cleanlab."""
    start = time.process_time()
    probabilities = out_of_sample(data, run.seed, options)
    common = {"epoch": min(EPOCHS[_CIFAR], options.epochs), "seconds": f"{time.process_time() - start:.1f}"}
    return [{**common, **row} for row in judged_by_cleanlab(probabilities, data.labels.numpy(), wrong)]


def out_of_sample(data: Data, seed: int, options: argparse.Namespace) -> np.ndarray:
    """(N, C): of each example by a network that was trained on the folds that it is not in."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    found = np.zeros((len(order), int(data.labels.max()) + 1), np.float32)
    for number in range(FOLDS):
        held = order[number::FOLDS]
        kept = np.setdiff1d(order, held)
        part = data._replace(inputs=data.inputs[kept], labels=data.labels[kept])
        module, _ = fit(TASKS[_CIFAR], _steps(part, options), seed, UNIFORM, part)
        module.eval()
        with torch.inference_mode():
            logits = torch.cat([module(images) for images in data.inputs[held].split(_HELD_OUT_BATCH)])
        found[held] = logits.softmax(1).numpy()
    return found


def _steps(data: Data, options: argparse.Namespace) -> int:
    return min(EPOCHS[_CIFAR], options.epochs) * (len(data.labels) // TASKS[_CIFAR].batch_size)


def read(path: Path) -> list[dict[str, str]]:
    """The lines of the table, none if there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def fill(options: argparse.Namespace, table: Path) -> None:
    """Run what is not in the table, all methods of a seed before the next one."""
    done = {(row["set"], row["method"], row["seed"]) for row in read(table)}
    for seed, name, method in product(options.seeds, options.sets, options.methods):
        run = Run(name, method, seed)
        if (name, method, str(seed)) in done or (method == "cleanlab" and (name != _CIFAR or not has_cleanlab())):
            continue
        append(table, measure(run, options), FIELDS)
        print(*run, "is done", flush=True)


def has_cleanlab() -> bool:
    if find_spec("cleanlab") is None:
        print("cleanlab is not installed, and left out: `pip install cleanlab`.", flush=True)
        return False
    return True


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: a part of MNIST, a seed, no table")
    parser.add_argument("--report", action="store_true", help="say what the table has, and run nothing")
    parser.add_argument("--sets", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "suspects")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.set_defaults(epochs=max(EPOCHS.values()), most=None)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    prepare()
    table = options.results / "runs.csv"
    if options.quick:
        options.most, options.epochs = 3000, 2
        rows = [row for method in METHODS[:3] for row in measure(Run("mnist-10", method, 0), options)]
    else:
        if not options.report:
            fill(options, table)
        rows = read(table)
    found = summed(rows)
    if not options.quick:
        (options.results / "report.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    print(json.dumps({"benchmark": "suspects", "figures": figures(found)}))


if __name__ == "__main__":
    main()
