from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataLoader
from tests.helpers import measured
from tests.helpers.processes import within
from tests.helpers.recording import Recording
from tests.helpers.tiny import BATCH, EPOCH, Tiny, differences, tiny_dataset, tiny_fit
from tests.helpers.versions import counted

pytestmark = pytest.mark.slow


def fit(path: Path, processes: int, module: Any = Tiny, **options: Any) -> list[dict[str, Any]]:
    options = {"max_epochs": 2, "limit_val_batches": 0, **options}
    assert within(300, lambda: measured.fit(Recording, path, processes=processes, module=module, **options)) == ""
    return [torch.load(path.with_suffix(f".{rank}.pt")) for rank in range(processes)]


def frozen(make: Any = Tiny) -> Tiny:
    """A module whose losses are a function of the instance alone.

    It never moves, and its weights are, like the features, multiples of 1/16: its sums are exact in any order.
    """
    module = make(lr=0.0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.mul(16).round() / 16)
    return module


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_are_as_one_with_twice_the_batch_which_can_go_on_for_them(tmp_path: Path, num_workers: int):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    options: dict[str, Any] = {"ours": {"weights": "unbiased"}, "num_workers": num_workers}
    (alone,) = fit(tmp_path / "one", 1, frozen, **options)
    both = fit(tmp_path / "two", 2, frozen, callbacks=(saving,), **options)
    assert len(alone["batches"]) == 2 * EPOCH
    assert float((1 / torch.stack(alone["probabilities"])).std()) > 0.1 * BATCH * EPOCH
    for rank, report in enumerate(both):
        assert differences(report["states"], alone["states"]) == []
        assert differences(report["drawn"], alone["drawn"]) == []
        for (x, y), (all_x, all_y) in zip(report["batches"], alone["batches"], strict=True):
            assert torch.equal(x, all_x[rank::2])
            assert torch.equal(y, all_y[rank::2])
    for report in (alone, *both):
        torch.testing.assert_close(report["gradients"], weighted_gradients(alone), rtol=0, atol=1e-6)
    (rest,) = fit(tmp_path / "rest", 1, frozen, seed=1, ckpt_path=tmp_path / "step=7.ckpt", **options)
    assert len(rest["drawn"]) == 2 * EPOCH - 7
    for name in ("drawn", "states"):
        assert differences(rest[name], alone[name][7:]) == []


@pytest.mark.parametrize(("step", "num_workers"), [(7, 0), (7, 2), pytest.param(12, 2, marks=counted)])
def test_a_fit_in_two_processes_is_resumed_exactly(tmp_path: Path, step: int, num_workers: int):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole = fit(tmp_path / "whole", 2, num_workers=num_workers, callbacks=(saving,), max_epochs=3)
    path = tmp_path / f"step={step}.ckpt"
    rest = fit(tmp_path / "rest", 2, num_workers=num_workers, seed=1, ckpt_path=path, max_epochs=3)
    for report, expected in zip(rest, whole, strict=True):
        assert len(report["batches"]) == 3 * EPOCH - step
        for name in ("batches", "drawn", "states"):
            assert differences(report[name], expected[name][step:]) == []
        assert differences(report["weights"], expected["weights"]) == []
    assert not torch.equal(rest[0]["batches"][0][0], rest[1]["batches"][0][0])


class Differing(Tiny):
    """Its second process has other options of the loader, or a bug."""

    def __init__(self, fails: bool = False, all_have: dict[str, Any] | None = None, **second_has: Any) -> None:
        super().__init__()
        self.fails, self.all_have, self.second_has = fails, all_have or {}, second_has

    def train_dataloader(self) -> AdaptiveDataLoader:
        options: dict[str, Any] = {"batch_size": BATCH // 2, "seed": 0, **self.all_have}
        return AdaptiveDataLoader(tiny_dataset(), **options, **(self.second_has if self.global_rank == 1 else {}))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.fails and self.global_rank == 1 and batch_idx == 3:
            raise ValueError("a user's bug")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"all_have": {"num_workers": 2}, "prefetch_factor": 1}, "do not agree on the `prefetch_factor`: 2, 1"),
        ({"fails": True}, "a user's bug"),
        ({}, ""),
    ],
)
def test_processes_that_differ_end_with_an_error_in_time(tmp_path: Path, options: dict[str, Any], message: str):
    def run() -> None:
        tiny_fit(tmp_path, None, lambda: Differing(**options), "own", devices=2, strategy="ddp_fork")

    failure = within(300, run)
    assert message in failure
    assert bool(message) == bool(failure)
