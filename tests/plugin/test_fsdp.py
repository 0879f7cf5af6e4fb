"""FSDP2: modules whose layers are cut in `configure_model`, by `ModelParallelStrategy`, in two processes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from tests.helpers import measured
from tests.helpers.processes import in_two, within
from tests.helpers.recording import Recording
from tests.helpers.tiny import EPOCH, Tiny, differences
from tests.plugin import test_ddp

fully_shard = getattr(torch.distributed.fsdp, "fully_shard", None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(fully_shard is None, reason="torch 2.6 was the first to have it")]


class Cut(Tiny):
    """Each process has a half of each layer."""

    def configure_model(self) -> None:
        assert fully_shard is not None
        for layer in (self.net[0], self.net[2], self.net):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])  # pyright: ignore[reportOptionalSubscript]


def fit(path: Path, module: Callable[[], Tiny], folder: bool = True, parts: int = 2, **options: Any) -> Any:
    """What each of two processes reports of a fit."""

    def run() -> None:
        strategy = ModelParallelStrategy(parts, 2 // parts, save_distributed_checkpoint=folder)
        given = {"max_epochs": 2, "limit_val_batches": 0, "strategy": strategy, **options}
        in_two(lambda: measured.fit(Recording, path, processes=2, module=module, **given))

    failure = within(300, run)
    return failure or [torch.load(path.with_suffix(f".{rank}.pt")) for rank in range(2)]


def test_it_draws_and_learns_as_one_process_with_twice_the_batch(tmp_path: Path):
    (alone,) = test_ddp.fit(tmp_path / "one", 1, test_ddp.frozen, ours={"weights": "unbiased"})
    for rank, report in enumerate(fit(tmp_path / "two", partial(test_ddp.frozen, Cut), ours={"weights": "unbiased"})):
        for name in ("states", "drawn", "weights"):
            assert differences(report[name], alone[name]) == []
        for (x, y), (all_x, all_y) in zip(report["batches"], alone["batches"], strict=True):
            assert torch.equal(x, all_x[rank::2])
            assert torch.equal(y, all_y[rank::2])
        assert len(report["gradients"][0]) == 4
        torch.testing.assert_close(report["gradients"], test_ddp.weighted_gradients(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("folder", [True, False])
def test_it_is_resumed_exactly_from_a_checkpoint_that_is_a_folder_or_a_file(tmp_path: Path, folder: bool):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    whole = fit(tmp_path / "whole", Cut, folder, callbacks=(saving,))
    assert (tmp_path / "step=7.ckpt").is_dir() == folder
    rest = fit(tmp_path / "rest", Cut, folder, seed=1, ckpt_path=tmp_path / "step=7.ckpt")
    for report, expected in zip(rest, whole, strict=True):
        assert len(report["drawn"]) == 2 * EPOCH - 7
        for name in ("batches", "drawn", "states"):
            assert differences(report[name], expected[name][7:]) == []
        assert differences(report["weights"], expected["weights"]) == []


def test_so_it_is_where_each_process_has_its_own_part_of_the_data(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    whole = fit(tmp_path / "whole", Cut, sharded=True, callbacks=(saving,))
    rest = fit(tmp_path / "rest", Cut, sharded=True, seed=1, ckpt_path=tmp_path / "step=7.ckpt")
    assert not torch.equal(whole[0]["drawn"][0], whole[1]["drawn"][0])
    for report, expected in zip(rest, whole, strict=True):
        for name in ("batches", "drawn", "states"):
            assert differences(report[name], expected[name][7:]) == []
        assert differences(report["weights"], expected["weights"]) == []


def test_processes_that_are_to_have_the_same_batch_are_refused(tmp_path: Path):
    assert "shared among 1 group(s) of processes" in fit(tmp_path / "two", Cut, parts=1)
