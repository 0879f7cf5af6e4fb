"""One cell: a fit that is timed by the processor's clock, and an evaluation that is not."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Container, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import binary_average_precision, multiclass_accuracy

from benchmarks.budgets.data import Data
from benchmarks.budgets.networks import Classifier
from benchmarks.budgets.rivals import make
from benchmarks.budgets.table import Cell, append, cell_of, version
from benchmarks.budgets.tasks import Task, made
from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback
from lightning_as.data.augmentation import flip_and_crop
from lightning_as.data.dataloader import as_it_is
from lightning_as.data.image_data import ImageDataset

WARM_UP = 3
"""Steps that are trained before a cell and thrown away, so that nothing is loaded or compiled within it."""
_EVALUATION_BATCH = 500


class Group(NamedTuple):
    """Cells that are compared with each other, also in time: one process runs them one after the other."""

    task: Task
    budget: float
    seed: int
    rivals: tuple[str, ...]
    """Which are left to do."""


class GradientNorm(Callback):
    """The mean over the steps of the norm of a batch's gradient."""

    def __init__(self) -> None:
        self._sum = torch.zeros(())
        self._steps = 0

    @property
    def mean(self) -> float:
        """NaN before the first step."""
        return float(self._sum) / self._steps if self._steps else float("nan")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self._sum += torch.stack([gradient.norm() for gradient in gradients]).norm()
        self._steps += 1


def run(group: Group, data: Path, cache: Path, results: Path) -> list[str]:
    """Run a group, and add a line for each of its cells to the table.

    Args:
        group: The cells.
        data: Folder of the data sets.
        cache: Folder of parsed data sets.
        results: The table.

    Returns:
        What went wrong with the cells that failed.
    """
    of_all = {"session": uuid.uuid4().hex[:8], "version": version()}
    failures = []
    for rival in group.rivals:
        try:
            row = measure(group.task, group.budget, group.seed, rival, made(group.task, group.seed, data, cache))
        except Exception:
            failures.append(f"{group.task.name}, budget {group.budget:g}, seed {group.seed}, {rival}: {_last_error()}")
            continue
        append(results, [{**row, **of_all}])
    return failures


def prepare() -> None:
    """Make a process one of one thread that says nothing."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def measure(task: Task, budget: float, seed: int, rival: str, data: Data) -> dict[str, object]:
    """The line of one cell, but for its session and version."""
    steps = steps_of(task, budget, data)
    fit(task, WARM_UP, seed, rival, data)
    module, seconds = fit(task, steps, seed, rival, data)
    figures = {name: f"{value:.6f}" for name, value in evaluate(module, data).items()}
    return {
        **cell_of(task, budget, seed, rival)._asdict(),
        "steps": steps,
        "seconds": f"{seconds:.3f}",
        **figures,
    }


def steps_of(task: Task, budget: float, data: Data) -> int:
    """Training steps in a share of the converged budget."""
    return max(1, round(budget * task.epochs * (len(data.labels) // task.batch_size)))


def fit(
    task: Task,
    steps: int,
    seed: int,
    rival: str,
    data: Data,
    callbacks: Sequence[Callback] = (),
    classifier: Callable[..., Classifier] = Classifier,
) -> tuple[Classifier, float]:
    """A trained module, and the processor's seconds that its fit took, with those of other callbacks.

    Args:
        task: What is trained.
        steps: For how long.
        seed: Of the initial weights, the draws and the augmentation.
        rival: How batches are drawn.
        data: The task's.
        callbacks: Others beside the one that draws. Default: none.
        classifier: The module's class. Default: the one that Adam trains.
    """
    classes, dims = int(data.labels.max()) + 1, data.inputs[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the initial weights, which are the same for all rivals
        network = task.network(classes, dims)
    augment = partial(flip_and_crop, generator=torch.Generator().manual_seed(seed)) if task.augmented else None
    module = classifier(network, task.learning_rate, steps, augment)
    dataset = ImageDataset(data.inputs, data.labels)
    loader = AdaptiveDataLoader(dataset, task.batch_size, seed=seed, collate_fn=as_it_is)
    strategy = make(rival)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[*callbacks, *([] if strategy is None else [AdaptiveSamplingCallback(strategy)])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.process_time()
    trainer.fit(module, loader)
    return module, time.process_time() - start


@torch.inference_mode()
def evaluate(module: Classifier, data: Data) -> dict[str, float]:
    """The figures of :data:`benchmarks.budgets.table.METRICS` on the test set; NaN for what is not defined."""
    module.eval()
    logits = torch.cat([module(inputs) for inputs in data.test_inputs.split(_EVALUATION_BATCH)])
    labels, classes = data.test_labels, logits.shape[1]

    def accuracy(average: str) -> Tensor:
        return multiclass_accuracy(logits, labels, classes, average=average)  # pyright: ignore[reportArgumentType]

    precision = torch.tensor(float("nan"))
    if classes == 2:
        precision = binary_average_precision(logits.double().softmax(1)[:, 1], labels)
    figures = accuracy("micro"), accuracy("macro"), precision, cross_entropy(logits.double(), labels)
    return dict(zip(("accuracy", "balanced_accuracy", "average_precision", "cost"), map(float, figures), strict=True))


def left(task: Task, budgets: Sequence[float], seed: int, rivals: Sequence[str], done: Container[Cell]) -> list[Group]:
    """The groups of a task and a seed that have cells to be done, with these alone, and with uniform sampling.

    Uniform sampling is run again where others are left: times are compared within a group's session.
    """
    groups = []
    for budget in budgets:
        missing = [rival for rival in rivals if cell_of(task, budget, seed, rival) not in done]
        if missing:
            groups.append(Group(task, budget, seed, tuple(dict.fromkeys(["uniform", *missing]))))
    return groups


def _end_with_parent() -> None:
    """Leave no worker behind when who started it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _last_error() -> str:
    return traceback.format_exc().strip().splitlines()[-1]
