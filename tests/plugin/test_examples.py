import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, ClosenessSampling, GopalSampling, Uniform
from lightning_as.plugin.examples import COLUMNS, check_path, columns_of
from tests.helpers.tiny import BATCH, EPOCH, Tiny, tiny_dataset, tiny_fit

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def fitted(tmp_path: Path, strategy: Any = None, **ours: Any) -> tuple[AdaptiveSamplingCallback, Any]:
    fit = tiny_fit(tmp_path, strategy or ClosenessSampling(warm_up=0), ours=ours, max_epochs=3)
    return next(one for one in fit.trainer.callbacks if isinstance(one, AdaptiveSamplingCallback)), fit


@pytest.mark.parametrize(
    "strategy", [ClosenessSampling(warm_up=0), Uniform(), GopalSampling()], ids=lambda one: type(one).__name__
)
def test_the_table_has_what_the_training_has_shown(tmp_path: Path, strategy: Any):
    """Also of a strategy that reads no losses, or nothing at all."""
    callback, fit = fitted(tmp_path, strategy)
    table = callback.examples()
    features, labels = tiny_dataset().tensors
    assert isinstance(table, pandas.DataFrame)
    assert list(table) == list(COLUMNS)
    drawn = torch.zeros(len(labels), dtype=torch.int64)
    last, margins = torch.full((len(labels),), torch.nan), [dict[int, float]() for _ in labels]
    positions = {tuple(row): at for at, row in enumerate(features.tolist())}
    for number, ((x, y), logits) in enumerate(zip(fit.watch.batches, fit.watch.logits, strict=True)):
        for row, loss, output, label in zip(
            x.tolist(), cross_entropy(logits, y, reduction="none"), logits.tolist(), y.tolist(), strict=True
        ):
            at = positions[tuple(row)]
            drawn[at] += 1
            last[at] = loss
            margins[at][number] = output[label] - max(value for c, value in enumerate(output) if c != label)
    assert table["drawn"].tolist() == drawn.tolist()
    assert table["drawn"].sum() == 3 * EPOCH * BATCH
    torch.testing.assert_close(torch.tensor(table["loss"].to_numpy()).float(), last, equal_nan=True)
    seen = [at for at in range(len(labels)) if margins[at]]
    means = [sum(margins[at].values()) / len(margins[at]) for at in seen]
    torch.testing.assert_close(table["margin"][seen].tolist(), means, rtol=1e-4, atol=1e-5)
    assert table["label"].tolist() == labels.tolist()
    assert table["index"].tolist() == list(range(len(labels)))
    torch.testing.assert_close(torch.tensor(table["probability"].to_numpy()), callback.strategy.probabilities())
    assert table["age"].min() == 0


class Returning(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = 100 + cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses}


@pytest.mark.parametrize("strategy", [ClosenessSampling(warm_up=0), Uniform()], ids=lambda one: type(one).__name__)
def test_losses_that_are_returned_and_labels_are_known_without_logits(tmp_path: Path, strategy: Any):
    loader = AdaptiveDataLoader(tiny_dataset(), BATCH, bins=None, seed=0)
    fit = tiny_fit(tmp_path, strategy, Returning, loader, ours={"logits_from": None})
    table = columns_of(fit.strategy)
    seen = table["drawn"] > 0
    assert table["loss"][seen].min() > 100
    np.testing.assert_array_equal(table["label"][seen], tiny_dataset().tensors[1].numpy()[seen])


def test_classes_may_be_negative(tmp_path: Path):
    data = tiny_dataset()
    labels = torch.where(data.tensors[1] > 1, 1, -1)
    loader = AdaptiveDataLoader(TensorDataset(data.tensors[0], labels), BATCH, seed=0)
    loss = lambda logits, y: binary_cross_entropy_with_logits(logits[:, 0], (y > 0).float(), reduction="none")  # noqa: E731

    class Signs(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss(self.net(batch[0]), batch[1]).mean()

    fit = tiny_fit(tmp_path, Uniform(), Signs, loader, ours={"per_sample_loss": loss})
    label = columns_of(fit.strategy)["label"]
    assert (label.dtype, label.tolist()) == (np.int64, labels.tolist())


def test_without_pandas_there_are_arrays_and_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "examples.csv"
    callback, _ = fitted(tmp_path, examples=str(path))
    table = callback.examples()
    read = pandas.read_csv(path)
    pandas.testing.assert_frame_equal(read, table, check_dtype=False)
    assert not list(tmp_path.glob(".*"))
    parquet = tmp_path / "examples.parquet"
    again, _ = fitted(tmp_path, examples=str(parquet))
    pandas.testing.assert_frame_equal(pandas.read_parquet(parquet), again.examples())
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("lightning_as.plugin.examples.find_spec", lambda name: None)
    arrays = callback.examples()
    assert list(arrays) == list(COLUMNS)
    for name, column in arrays.items():
        np.testing.assert_array_equal(column, table[name].to_numpy())
    with pytest.raises(ValueError, match="needs pandas and pyarrow"):
        check_path(parquet)
    with path.open() as file:
        assert next(csv.reader(file)) == list(COLUMNS)


def test_the_columns_are_explained_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    assert "\n".join(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()) in page
