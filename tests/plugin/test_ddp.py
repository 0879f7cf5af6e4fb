"""Several processes draw one global batch, share it, and keep one law between them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback
from tests.helpers.processes import Report, within
from tests.helpers.tiny import (
    BATCH,
    EPOCH,
    Recording,
    Tiny,
    TinyData,
    Watch,
    differences,
    tell,
    tiny_dataset,
    tiny_trainer,
)
from tests.helpers.versions import counted

SHARE = BATCH // 2  # of a process


def fit(
    folder: Path,
    processes: int,
    make: Callable[[], LightningModule] = Tiny,
    num_workers: int = 0,
    seed: int = 0,
    callbacks: tuple[Callback, ...] = (),
    ckpt_path: Any = None,
    max_epochs: int = 2,
    **options: Any,
) -> list[dict[str, Any]]:
    """A fit in so many processes, with batches of the same size in all.

    Returns:
        The report of each.
    """
    folder.mkdir(exist_ok=True)

    def run() -> None:
        seed_everything(seed, verbose=False)
        strategy, module = Recording(), make()
        data = AdaptiveDataModule(TinyData(batch_size=BATCH // processes, num_workers=num_workers))
        trainer = tiny_trainer(
            folder,
            callbacks=[
                AdaptiveSamplingCallback(strategy, logits_from="net", **options),
                Report(folder, strategy),
                *callbacks,
            ],
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            limit_val_batches=0,
            max_epochs=max_epochs,
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)

    assert within(60, run) == ""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


def frozen() -> Tiny:
    """A module whose losses are a function of the instance alone.

    It never moves, and its weights are, like the features, multiples of 1/16: its sums are exact in any order.
    """
    module = Tiny(lr=0.0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.mul(16).round() / 16)
    return module


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_draw_and_learn_what_one_with_twice_the_batch_does(tmp_path: Path, num_workers: int):
    (alone,) = fit(tmp_path / "one", 1, frozen, num_workers)
    both = fit(tmp_path / "two", 2, frozen, num_workers)
    assert len(alone["batches"]) == 2 * EPOCH
    for rank, report in enumerate(both):
        assert differences(report["states"], alone["states"]) == []
        assert len(report["batches"]) == 2 * EPOCH
        for (x, y), (all_x, all_y) in zip(report["batches"], alone["batches"], strict=True):
            assert torch.equal(x, all_x[rank::2])
            assert torch.equal(y, all_y[rank::2])
        assert torch.equal(torch.stack(report["drawn"]), torch.stack(alone["drawn"]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [7, pytest.param(12, marks=counted)])
def test_a_fit_in_two_processes_is_resumed_exactly(tmp_path: Path, num_workers: int, step: int):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole = fit(tmp_path / "whole", 2, num_workers=num_workers, callbacks=(saving,), max_epochs=3)
    rest = fit(
        tmp_path / "rest", 2, num_workers=num_workers, seed=1, ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=3
    )
    assert torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["global_step"] == step
    for report, expected in zip(rest, whole, strict=True):
        assert len(report["batches"]) == 3 * EPOCH - step
        for name in ("batches", "drawn", "states"):
            assert differences(report[name], expected[name][step:]) == []
        assert differences(report["weights"], expected["weights"]) == []
    assert not torch.equal(rest[0]["batches"][0][0], rest[1]["batches"][0][0])


def test_a_checkpoint_of_two_processes_goes_on_in_one_with_twice_the_batch(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    both = fit(tmp_path / "two", 2, frozen, callbacks=(saving,))
    (alone,) = fit(tmp_path / "one", 1, frozen, seed=1, ckpt_path=tmp_path / "step=7.ckpt")
    assert len(alone["drawn"]) == 2 * EPOCH - 7
    assert differences(alone["drawn"], both[0]["drawn"][7:]) == []
    assert differences(alone["states"], both[0]["states"][7:]) == []


def weighted_gradients(report: dict[str, Any]) -> list[list[Tensor]]:
    """The gradient of the weighted mean loss of each global batch, by means of its own."""
    seed_everything(0, verbose=False)
    module, (features, labels) = frozen(), tiny_dataset().tensors
    gradients = []
    for indices, probabilities in zip(report["drawn"], report["probabilities"], strict=True):
        losses = cross_entropy(module.net(features[indices]), labels[indices], reduction="none")
        weighted = (losses / (probabilities * len(features))).mean()
        gradients.append([part.float() for part in torch.autograd.grad(weighted, list(module.parameters()))])
    return gradients


def test_unbiased_weights_give_every_process_the_weighted_gradient_of_the_global_batch(tmp_path: Path):
    (alone,) = fit(tmp_path / "one", 1, frozen, weights="unbiased")
    both = fit(tmp_path / "two", 2, frozen, weights="unbiased")
    weights = 1 / (torch.stack(alone["probabilities"]) * BATCH * EPOCH)
    assert float(weights.std()) > 0.1
    expected = weighted_gradients(alone)
    for report in (alone, *both):
        assert len(report["gradients"]) == 2 * EPOCH
        torch.testing.assert_close(report["gradients"], expected, rtol=0, atol=1e-6)


class Counting(Callback):
    """Counts the collectives between two batches, and says how many."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: Counter[str] = Counter()
        self.per_batch: list[dict[str, int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ("all_gather", "reduce", "broadcast", "barrier"):
            setattr(trainer.strategy, name, self._counted(name, getattr(trainer.strategy, name)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.per_batch.append(dict(self.calls))
        self.calls.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(self.per_batch, self.folder / f"calls{trainer.global_rank}.pt")

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return method(*arguments, **options)

        return counted


def test_a_step_costs_one_collective_and_none_in_a_single_process(tmp_path: Path):
    fit(tmp_path, 2, callbacks=(Counting(tmp_path),), weights="unbiased")
    for rank in range(2):
        assert torch.load(tmp_path / f"calls{rank}.pt") == [{"all_gather": 1}] * 2 * EPOCH
    fit(tmp_path, 1, callbacks=(Counting(tmp_path),), weights="unbiased")
    assert torch.load(tmp_path / "calls0.pt") == [{}] * 2 * EPOCH


class Differing(Tiny):
    """Its second process has other options of the loader."""

    def __init__(self, all_have: dict[str, Any] | None = None, **second_has: Any) -> None:
        super().__init__()
        self.all_have = all_have or {}
        self.second_has = second_has

    def train_dataloader(self) -> AdaptiveDataLoader:
        options: dict[str, Any] = {"size": BATCH * EPOCH, "batch_size": SHARE, "seed": 0, **self.all_have}
        options |= self.second_has if self.global_rank == 1 else {}
        return AdaptiveDataLoader(tiny_dataset(options.pop("size")), **options)


def failure_of(folder: Path, make: Callable[[], LightningModule], seconds: float = 30) -> str:
    """The traceback that a fit of a module in two processes ends with, within so many seconds."""

    def run() -> None:
        seed_everything(0, verbose=False)
        callback = AdaptiveSamplingCallback(logits_from="net")
        tiny_trainer(folder, callbacks=[callback], devices=2, strategy="ddp_fork").fit(make())

    return within(seconds, run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 80}, "number of instances: 96, 80"),
        ({"bins": tiny_dataset().tensors[1].flip(0)}, "bins (a checksum): "),
        ({"batch_size": 4}, "batch size: 8, 4"),
        ({"batches_per_epoch": 5}, "batches per epoch: 6, 5"),
        ({"seed": 1}, "seed (a checksum of the generator): "),
        ({"num_workers": 1}, "`num_workers`: 0, 1"),
        ({"all_have": {"num_workers": 2}, "prefetch_factor": 1}, "`prefetch_factor`: 2, 1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_processes_that_disagree_are_told_what_about(tmp_path: Path, options: dict[str, Any], message: str):
    failure = failure_of(tmp_path, lambda: Differing(**options))
    assert f"The processes do not agree on the {message}" in failure


class FailingInOneProcess(Differing):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == 1 and batch_idx == 3:
            raise ValueError("a user's bug")
        return super().training_step(batch, batch_idx)


def test_a_process_that_fails_ends_the_run_with_its_error(tmp_path: Path):
    assert "a user's bug" in failure_of(tmp_path, FailingInOneProcess)


def test_processes_that_agree_do_not_fail(tmp_path: Path):
    assert failure_of(tmp_path, Differing) == ""


def test_ddp_with_one_device_leaves_the_sampler_in_place(tmp_path: Path):
    def run() -> None:
        samplers: list[AdaptiveBatchSampler] = []

        class Made(AdaptiveDataModule):
            def train_dataloader(self) -> AdaptiveDataLoader:
                loader = super().train_dataloader()
                assert isinstance(loader.sampler, AdaptiveBatchSampler)
                samplers.append(loader.sampler)
                return loader

        strategy, watch, module = Recording(), Watch(), Tiny()
        callbacks = [AdaptiveSamplingCallback(strategy, logits_from="net"), watch]
        trainer = tiny_trainer(tmp_path, callbacks=callbacks, strategy="ddp", devices=1, max_epochs=2)
        trainer.fit(module, datamodule=Made(TinyData()))
        assert torch.distributed.is_initialized()
        assert trainer.train_dataloader.sampler is samplers[0]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        assert samplers[0].strategy is strategy
        assert len(samplers) == 1
        tell(2 * EPOCH, strategy, watch)

    # Its process group has threads, which would stop every process that is forked from this one later on.
    assert within(60, run) == ""


SCRIPT = """
import sys
from pathlib import Path

from lightning.pytorch import seed_everything

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback
from tests.helpers.processes import Report
from tests.helpers.tiny import Recording, Tiny, TinyData, tiny_trainer

if __name__ == "__main__":
    seed_everything(0)
    folder, strategy = Path(sys.argv[1]), Recording()
    callbacks = [AdaptiveSamplingCallback(strategy, logits_from="net"), Report(folder, strategy)]
    trainer = tiny_trainer(folder, callbacks=callbacks, num_nodes=2, devices=1, strategy="ddp", limit_val_batches=0)
    trainer.fit(Tiny(), datamodule=AdaptiveDataModule(TinyData(batch_size=8)))
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_nodes_started_by_torchrun_share_the_batches(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    launcher += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*launcher, f"--node_rank={rank}", str(script), str(tmp_path)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in range(2)
    ]
    try:
        for node in nodes:
            output, _ = node.communicate(timeout=120)
            assert node.returncode == 0, output
    finally:
        for node in nodes:
            node.kill()
    features, _ = tiny_dataset().tensors
    reports = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for rank, report in enumerate(reports):
        assert len(report["batches"]) == EPOCH
        assert differences(report["states"], reports[0]["states"]) == []
        for drawn, (x, _) in zip(reports[0]["drawn"], report["batches"], strict=True):
            assert torch.equal(x, features[drawn[rank::2]])
