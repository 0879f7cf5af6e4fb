from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas
import pytest
import torch

from lightning_as import AdaptiveSamplingCallback, ClosenessSampling
from tests.helpers.tiny import BATCH, Tiny, tiny_dataset, tiny_fit, tiny_trainer
from tests.plugin.test_examples import fitted

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("examples.txt", ValueError, r"must end in \.csv or \.parquet"),
        ("missing/examples.csv", OSError, "cannot be written"),
        (".csv", ValueError, "must end in"),
        (3, TypeError, "must be True, False or a path, got 3"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path, path: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        AdaptiveSamplingCallback(examples=str(tmp_path / path) if isinstance(path, str) else path)


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


def test_a_table_that_can_no_longer_be_written_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_as.plugin.recorded.write", Mock(side_effect=OSError("the disk is full")))
    callback, fit = fitted(tmp_path, examples=str(tmp_path / "examples.csv"))
    assert any("could not be written: the disk is full. `callback.examples()`" in said for said in fit.messages)
    assert len(callback.examples()) == len(tiny_dataset())
