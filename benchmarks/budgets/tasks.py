"""What is trained: data sets and their variants, each with network, converged budget and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from benchmarks.budgets import networks
from benchmarks.budgets.data import Data, human_labels, load
from benchmarks.budgets.variants import long_tail, mislabel

Kind = Literal["clean", "wrong labels", "imbalanced"]
Figure = Literal["clean images", "wrong labels", "imbalanced", "text and tables"]


class Task(NamedTuple):
    """A training, all of it but how its batches are drawn, for how long, and the seed."""

    name: str
    """In the table of results."""
    data: str
    """A key of :data:`benchmarks.budgets.data.SETS`."""
    network: Callable[[int, int], nn.Module]
    """Makes the network, of the number of classes and the size of an input."""
    epochs: float
    """The converged budget: epochs after which uniform sampling gains nothing by more of them; of CIFAR-10 fewer than
    that, as many as two cores have time for."""
    batch_size: int
    """Instances per batch."""
    learning_rate: float
    """The largest, of Adam."""
    kind: Kind = "clean"
    """Which of the goals it counts for."""
    figure: Figure = "clean images"
    """In which it is drawn."""
    metrics: tuple[str, ...] = ("accuracy",)
    """What it is judged by, the first of which is drawn."""
    wrong: float = 0.0
    """Share of wrong labels."""
    human: str = ""
    """The set of human labels, see :func:`benchmarks.budgets.data.human_labels`."""
    tail: float = 1.0
    """How many times larger the first class is than the last."""
    augmented: bool = False
    """Whether images are mirrored and cropped at random."""
    seeds: int = 5
    """As many of the seeds asked for are run."""
    most: int | None = None
    """Training instances that are kept, the first. Default: all."""


def _tasks() -> list[Task]:
    """In the order in which they are run."""
    grey = networks.convolutional
    text, table = (partial(dict, figure="text and tables") for _ in range(2))
    plain = [
        Task("mnist", "mnist", grey, 6, 256, 3e-3),
        Task("fashion-mnist", "fashion-mnist", grey, 10, 256, 3e-3),
        Task("trec6", "trec6", networks.bag_of_words, 12, 64, 2e-3, **text()),
        Task("sst2", "sst2", networks.bag_of_words, 6, 64, 2e-3, **text()),
        Task("adult", "adult", networks.perceptron, 3, 256, 2e-3, **table(), metrics=("accuracy", "balanced_accuracy")),
    ]
    wrong = [
        task._replace(
            name=f"{task.name}-wrong{round(100 * share)}",
            kind="wrong labels",
            wrong=share,
            figure="wrong labels" if task.figure == "clean images" else task.figure,
        )
        for task in plain
        for share in (0.1, 0.4)
    ]
    tails = [
        task._replace(
            name=f"{task.name}-tail{ratio}",
            kind="imbalanced",
            figure="imbalanced",
            metrics=("balanced_accuracy",),
            tail=float(ratio),
            epochs=task.epochs * longer,  # as there are fewer instances
        )
        for task in plain[:2]
        for ratio, longer in ((10, 1.5), (100, 2))
    ]
    covertype = Task(
        "covertype", "covertype", networks.perceptron, 20, 256, 3e-3,
        "imbalanced", "imbalanced", ("average_precision", "balanced_accuracy"),
    )  # fmt: skip
    cifar10 = Task("cifar10", "cifar10", networks.residual, 10, 128, 5e-3, augmented=True, seeds=2)
    human = [
        cifar10._replace(name=f"cifar10n-{labels}", kind="wrong labels", figure="wrong labels", human=labels)
        for labels in ("aggre", "random1", "worse")
    ]
    return [*plain, *wrong, *tails, covertype, cifar10, *human]


TASKS = {task.name: task for task in _tasks()}
_DATA_SEED = 1_000_000
"""Added to the seed of wrong labels and tails: with one and the same, the sampler's first permutation would be the one
that chose the wrong labels, and an epoch would begin with all of them."""
QUICK = Task("quick", "mnist", networks.convolutional, 4, 128, 3e-3, most=3000)


def select(patterns: Sequence[str]) -> list[Task]:
    """The tasks with names that one of the patterns fits, such as ``mnist*``.

    Raises:
        ValueError: If one fits none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in TASKS):
            raise ValueError(f"`--tasks {pattern}` fits none of {', '.join(TASKS)}.")
    return [task for name, task in TASKS.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


@lru_cache(maxsize=1)  # the cells of a group, and groups of one seed, share it
def made(task: Task, seed: int, folder: Path, cache: Path) -> Data:
    """The data of a task: its wrong labels and its tail depend on the seed; the test set stays what it is."""
    data = _loaded(task.data, folder, cache)
    inputs, labels = data.inputs[: task.most], data.labels[: task.most]
    if task.human:
        labels = human_labels(task.human, folder)
    if task.tail > 1:
        kept = long_tail(labels, task.tail, _DATA_SEED + seed)
        inputs, labels = inputs[kept], labels[kept]
    if task.wrong:
        labels = mislabel(labels, task.wrong, _DATA_SEED + seed)
    return data._replace(inputs=inputs, labels=labels)


_loaded = lru_cache(maxsize=1)(load)
