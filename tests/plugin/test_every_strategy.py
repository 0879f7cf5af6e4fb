from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_as import Strategy
from tests.helpers.catalogue import CATALOGUE
from tests.helpers.measured import EPOCHS, fit
from tests.helpers.processes import within
from tests.helpers.tiny import BATCH, EPOCH, differences
from tests.helpers.versions import LOSES_COUNT

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
every_strategy = pytest.mark.parametrize("make", CATALOGUE.values(), ids=list(CATALOGUE))


@every_strategy
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_fit_is_the_uninterrupted_one(make: Callable[[], Strategy], num_workers: int, tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(make, tmp_path / "whole", num_workers, callbacks=(saving,))
    whole = torch.load(tmp_path / "whole.0.pt", weights_only=True)
    assert len(whole["batches"]) == EPOCHS * EPOCH
    # Amid an epoch, and after its last batch; but Lightning never makes up for the validation that would follow there.
    listens = type(make()).validated is not Strategy.validated
    if listens and LOSES_COUNT:
        pytest.skip("Lightning 2.4 leaves out the validation of an epoch that is resumed in the middle.")
    for step in (EPOCH + 2,) if listens or LOSES_COUNT else (EPOCH + 2, 2 * EPOCH):
        fit(make, tmp_path / "rest", num_workers, seed=1, ckpt_path=tmp_path / f"step={step}.ckpt")
        rest = torch.load(tmp_path / "rest.0.pt", weights_only=True)
        assert len(rest["batches"]) == EPOCHS * EPOCH - step
        for name in ("batches", "states"):
            assert differences(rest[name], whole[name][step:]) == []
        assert differences(rest["weights"], whole["weights"]) == []


@every_strategy
@pytest.mark.slow
def test_two_processes_stay_in_step_and_share_the_batch(make: Callable[[], Strategy], tmp_path: Path):
    assert within(300, lambda: fit(make, tmp_path / "both", processes=2)) == ""
    one, other = (torch.load(tmp_path / f"both.{rank}.pt", weights_only=True) for rank in range(2))
    assert differences(one["states"], other["states"]) == []
    assert differences(one["weights"], other["weights"]) == []
    assert [len(x) for x, _ in one["batches"]] == [len(x) for x, _ in other["batches"]] == [BATCH // 2] * EPOCHS * EPOCH
    assert not all(torch.equal(x, y) for (x, _), (y, _) in zip(one["batches"], other["batches"], strict=True))
