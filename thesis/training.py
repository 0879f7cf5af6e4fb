"""One cell as an ordinary `Trainer.fit`, measured after each epoch, which goes on from its last checkpoint.

It is measured before the first step and after each epoch, outside the clock and without a trace in the training. With
z_i the logits of training instance i in evaluation mode and float64, l_i their cross-entropy in nats,
d_i = softmax(z_i) − y_i the gradient with respect to them, g_i = ‖d_i‖, and r the distribution that the sampler draws
from:

* the training cost, mean and median of l over the whole training set; the same mean and the accuracy on the test set;
* the effective sample size of the distribution, 1 / Σ r_i²;
* the trace of the covariance of a one-draw estimate of the mean gradient with respect to the logits: of a uniform draw,
  (1/N) Σ g_i² − ‖d̄‖²; of one from r with unbiased weights, (1/N²) Σ g_i²/r_i − ‖d̄‖²; and of one from r without
  weights, which estimates Σ r_i d_i instead of d̄, Σ r_i g_i² − ‖Σ r_i d_i‖². The probe set is the training set;
* P: the distribution summed over each label.

One pass over the training set and one over the test set find all of them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_as.data.image_data import ImageDataModule
from lightning_as.data.mnist import MNISTDataModule
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.models.evaluation import Instances, evaluate, evaluate_each, evaluating
from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.strategies import Strategy
from thesis.gradients import SAMPLE, inputs_of, probe, whole_gradients
from thesis.grid import ARMS, DATA
from thesis.loshchilov import LoshchilovMNIST, LoshchilovNet
from thesis.results import PROBED, ROW, Cell, Row

Report = Callable[[list[Row]], None]


def train(cell: Cell, epochs: int, checkpoint: Path, device: str, report: Report) -> list[Row]:
    """Train and measure a cell.

    Args:
        cell: What is trained.
        epochs: How long.
        checkpoint: File that is written after each epoch. If it is there, the training goes on from it, on a CPU to the
            last bit as it would have without the interruption.
        device: The Trainer's accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``. One device is used.
        report: Called after each epoch with all rows so far.

    Returns:
        The rows of epoch 0 to the last.

    Raises:
        KeyboardInterrupt: If the user interrupts it.
    """
    seed_everything(cell.seed, verbose=False)
    arm = ARMS[cell.arm]
    theirs = cell.experiment == "loshchilov"
    make_data = LoshchilovMNIST if theirs else MNISTDataModule
    data = make_data(cell.batch_size, bins=arm.bins, device="auto", **DATA[cell.data])
    strategy, clock = arm.make(cell), Clock()
    probed = cell.batch_size if cell.experiment == "variance" else 0
    measurements = Measurements(data, strategy, clock, report, probed)
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_epochs=epochs,
        limit_val_batches=0,
        callbacks=[
            clock,
            AdaptiveSamplingCallback(strategy, weights=arm.weights),
            measurements,
            EpochCheckpoint(checkpoint),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = LoshchilovNet(cell.optimizer) if theirs else ConvNetClassifier(optimizer=cell.optimizer)
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    if trainer.interrupted:  # older Lightnings end the fit, and no more
        raise KeyboardInterrupt
    return measurements.rows


def measure(
    module: nn.Module, data: ImageDataModule, strategy: Strategy, probed: int = 0
) -> dict[str, float | list[float]]:
    """Everything that a row has but the epoch and the seconds.

    Neither the module nor any random state is changed.

    Args:
        module: Gives logits (B, C) for images, from its last linear layer.
        data: The training set, whose labels are 0 … C − 1, and the test set.
        strategy: What samples the training set.
        probed: The batch size, to measure :data:`thesis.results.PROBED` as well, but for what batches say. Default: 0,
            not to.
    """
    layer = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    with isolate_rng():  # a loader takes a number from the global generator
        with inputs_of(layer) if probed else nullcontext() as features:
            found = evaluate_each(module, data.train_evaluation_dataloader())
        test = evaluate(module, data.test_dataloader())
    r = strategy.probabilities().cpu()
    labels = data.dataset("train").labels
    assert labels is not None
    more = {} if features is None else _probe(module, data, found, torch.cat(features), r, labels.cpu(), probed)
    p = torch.zeros(found.gradients.shape[1], dtype=torch.float64).index_add_(0, labels.cpu(), r)
    return {
        "training_cost_mean": float(found.losses.mean()),
        "training_cost_median": float(found.losses.quantile(0.5)),
        "test_cost": test.cost,
        "test_accuracy": test.accuracy,
        "ess": float(1 / r.square().sum()),
        **variances(found.gradients, r),
        **more,
        "p": p.tolist(),
    }


def _probe(
    module: nn.Module,
    data: ImageDataModule,
    found: Instances,
    features: Tensor,
    r: Tensor,
    labels: Tensor,
    batch_size: int,
) -> dict[str, float]:
    """What :mod:`thesis.gradients` measures."""
    images = data.dataset("train").images
    sample = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    inputs = data.dataset("train")[sample.to(images.device)][0].to(next(module.parameters()).device)
    with evaluating(module):
        whole = whole_gradients(module, inputs, found.losses[sample], found.gradients[sample])
    return probe(found, features, r, labels, batch_size) | whole


def variances(gradients: Tensor, probabilities: Tensor) -> dict[str, float]:
    """The traces of the covariances of three one-draw estimates of a mean gradient.

    Args:
        gradients: d, (N, C) float64.
        probabilities: r, (N,) float64, which sum to 1.

    Returns:
        ``variance_uniform``, ``variance_weighted`` (infinite if what has a gradient is never drawn) and
        ``variance_drawn``; see the module.
    """
    squares, size = gradients.square().sum(dim=1), len(gradients)
    mean = gradients.mean(dim=0).square().sum()
    ratios = torch.where(squares == 0, 0.0, squares / probabilities)  # no gradient adds nothing, drawn or not
    return {
        "variance_uniform": float(squares.mean() - mean),
        "variance_weighted": float(ratios.sum() / size**2 - mean),
        "variance_drawn": float(probabilities @ squares - (probabilities @ gradients).square().sum()),
    }


class Clock(Callback):
    """Seconds that the epochs have taken, without what other callbacks do after them; goes on in a resumed fit.

    Put it before all other callbacks. On a CPU these are processor seconds of this process, so that others on
    the machine do not count; on an accelerator, which works by itself, they are those of the wall.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """So far."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go."""
        self._begun = _now(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds += _now(pl_module.device) - self._begun

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


class Measurements(Callback):
    """Measures before the first step and after each epoch; its rows are part of the checkpoints.

    Put it after the :class:`lightning_as.AdaptiveSamplingCallback`.

    Args:
        data: What is trained and tested on.
        strategy: What samples it.
        clock: Says how long the training has taken.
        report: Called after each epoch with all rows so far.
        probed: As in :func:`measure`. Default: 0.
    """

    def __init__(
        self, data: ImageDataModule, strategy: Strategy, clock: Clock, report: Report, probed: int = 0
    ) -> None:
        self.probed = probed
        self.data = data
        self.strategy = strategy
        self.clock = clock
        self.report = report
        self.rows: list[Row] = []
        """One for each epoch from 0 on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first step."""
        if not self.rows:
            self._measure(pl_module, {})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure after an epoch, and report."""
        self._measure(pl_module, trainer.callback_metrics)
        self.report(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]

    def _measure(self, module: LightningModule, logged: Mapping[str, Tensor]) -> None:
        found = measure(module, self.data, self.strategy, self.probed)
        found |= {"epoch": float(len(self.rows)), "seconds": self.clock.seconds}
        if self.probed:
            found["moment_batch"] = float(logged.get("adaptive/variance_ratio", math.nan))
        self.rows.append({name: _written(found[name]) for name in (*ROW, *(PROBED if self.probed else ()))})


class EpochCheckpoint(Checkpoint):
    """Saves a checkpoint after each epoch, with the random state that dropout draws from, and brings that back.

    A file is replaced in one step, so that whenever the process is killed there is a whole one.

    Args:
        path: The file, in a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restored: dict[str, Any] | None = None
        self._device = torch.device("cpu")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the random state back: the last moment before it matters, after all that a new fit makes."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"])
            if self._restored["cuda"] is not None and pl_module.device.type == "cuda":
                torch.cuda.set_rng_state(self._restored["cuda"], pl_module.device)
            self._restored = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after all callbacks of other kinds."""
        self._device = pl_module.device
        unfinished = self.path.with_suffix(".unfinished")
        trainer.save_checkpoint(unfinished)
        os.replace(unfinished, self.path)

    def state_dict(self) -> dict[str, Any]:
        # Of the one GPU that trains: who goes on may see more of them, or fewer.
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A checkpoint may be loaded onto an accelerator, but generators take their states from the CPU.
        self._restored = {name: None if state is None else state.cpu() for name, state in state_dict.items()}


def _written(value: float | list[float]) -> str:
    return ";".join(f"{number:.6g}" for number in (value if isinstance(value, list) else [value]))


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
