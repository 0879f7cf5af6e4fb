from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas
import pytest
import torch

from lightning_as import AdaptiveSamplingCallback, ClosenessSampling
from lightning_as.plugin.examples import can_write
from tests.helpers.tiny import BATCH, Tiny, tiny_dataset, tiny_fit, tiny_trainer
from tests.plugin.test_examples import fitted

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("examples.txt", ValueError, r"must end in \.csv or \.parquet"),
        (".csv", ValueError, "must end in"),
        (3, TypeError, "must be True, False or a path, got 3"),
    ],
)
def test_what_is_no_table_is_refused_at_once(tmp_path: Path, path: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        AdaptiveSamplingCallback(examples=str(tmp_path / path) if isinstance(path, str) else path)


def test_a_file_that_the_first_process_cannot_write_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "folder.csv").mkdir()
    for name in ("missing/examples.csv", "folder.csv"):
        callback = AdaptiveSamplingCallback(examples=str(tmp_path / name))
        with pytest.raises(OSError, match=f"{name}'` cannot be written"):
            tiny_trainer(tmp_path, callbacks=[callback]).fit(Tiny())  # whose loader would be refused next
    old = tmp_path / "examples.csv"  # a file of one's own in a folder of another's: what is written is beside it
    old.touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    assert not can_write(old)
    elsewhere = Mock(is_global_zero=False, strategy=Mock(broadcast=lambda verdict: verdict))
    AdaptiveSamplingCallback(examples=str(old))._begin_record(elsewhere)


def test_before_training_and_without_a_record_there_is_no_table(tmp_path: Path):
    for callback in (AdaptiveSamplingCallback(), fitted(tmp_path, examples=False)[0]):
        with pytest.raises(RuntimeError, match=r"Nothing is known of the examples yet: .*examples=False"):
            callback.examples()


class Breaking(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 4:
            raise ValueError("a user's bug")
        return super().training_step(batch, batch_idx)


def test_a_fit_that_breaks_off_leaves_the_table_of_what_there_is_and_none_a_file(tmp_path: Path):
    path = tmp_path / "examples.csv"
    with pytest.raises(ValueError, match="a user's bug"):
        tiny_fit(tmp_path, ClosenessSampling(), Breaking, ours={"examples": str(path)})
    assert pandas.read_csv(path)["drawn"].sum() == 4 * BATCH
    callback = AdaptiveSamplingCallback(logits_from="net", examples=str(tmp_path / "other.csv"))
    with pytest.raises(Exception, match="cannot guide"):
        tiny_trainer(tmp_path, callbacks=[callback]).fit(Tiny(), torch.utils.data.DataLoader(tiny_dataset(), BATCH))
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize("error", [OSError("the disk is full"), ValueError("no such type")])  # as of pyarrow
def test_a_table_that_can_no_longer_be_written_ends_no_training_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    path = tmp_path / "examples.csv"
    path.write_text("before")
    monkeypatch.setattr("lightning_as.plugin.examples._cells", Mock(side_effect=error))
    callback, fit = fitted(tmp_path, examples=str(path))
    assert any(f"could not be written: {type(error).__name__}: {error}. `callback" in said for said in fit.messages)
    assert len(callback.examples()) == len(tiny_dataset())
    assert [file.name for file in tmp_path.iterdir()] == ["examples.csv"]
    assert path.read_text() == "before"


def test_a_trial_run_leaves_the_table_of_a_real_one(tmp_path: Path):
    path = tmp_path / "examples.csv"
    path.write_text("before")
    tiny_fit(tmp_path, ClosenessSampling(), ours={"examples": str(path)}, fast_dev_run=True)
    assert path.read_text() == "before"
