from collections import UserDict
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, Draw, OnlineBatchSelection, SelectiveBackprop
from lightning_as.plugin.rows import Rows, find_rows, gather_kept, take_rows
from tests.helpers.recording import Recording
from tests.helpers.tiny import BATCH, EPOCH, Tiny, differences, normal, refused, tiny_dataset, tiny_fit

CAME = "A batch of 6 was drawn, but .* came with {} rows: the `collate_fn`.*kept="


class Dropping:
    """Leaves every fifth sample of a batch out."""

    def __call__(self, samples: Any) -> Any:
        at = [at for at in range(len(samples)) if at % 5]
        return [*default_collate([samples[one] for one in at]), torch.tensor(at)]


class Cropping:
    """Gives two crops of each sample, one after the other."""

    def __call__(self, samples: Any) -> Any:
        x, y = default_collate(samples)
        return [torch.cat([x, 2 * x]), torch.cat([y, y]), torch.arange(len(x)).repeat(2)]


class Triple(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


class Weighed(Tiny):
    importance_weights: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.importance_weights.shape == batch[1].shape
        return (cross_entropy(self.net(batch[0]), batch[1], reduction="none") * self.importance_weights).mean()


@pytest.mark.parametrize("collate", [Dropping(), Cropping()])
@pytest.mark.parametrize("weighed", [False, True])
def test_rows_that_are_told_apart_are_learnt_from_by_sample(tmp_path: Path, collate: Any, weighed: bool):
    ours = {"target_key": 1, "kept": 2, "weights": "unbiased" if weighed else "none"}
    loader = AdaptiveDataLoader(tiny_dataset(), BATCH, collate_fn=collate, seed=0)

    fitted = tiny_fit(tmp_path, Recording(), Weighed if weighed else Triple, loader, ours=ours)
    assert len(fitted.strategy.told) == EPOCH
    for (draw, losses, bounds), batch, logits in zip(
        fitted.strategy.told, fitted.watch.batches, fitted.watch.logits, strict=True
    ):
        y = batch[1]
        rows = cross_entropy(logits, y, reduction="none")
        expected = rows if isinstance(collate, Dropping) else rows.view(2, -1).mean(0)
        torch.testing.assert_close(losses.float(), expected)
        assert torch.equal(tiny_dataset().tensors[1][draw.indices], y[: len(draw.indices)])
        assert bounds.shape == losses.shape == draw.probabilities.shape
    assert not any("returned a loss" in message for message in fitted.messages)


def test_without_a_word_other_rows_are_refused_before_the_first_step(tmp_path: Path):
    for collate, rows in ((Dropping(), 12), (Cropping(), 32)):
        loader = AdaptiveDataLoader(tiny_dataset(), BATCH, collate_fn=collate, bins=None)
        with refused(f"A batch of 16 was drawn, but a list of 3 came with {rows} rows"):
            tiny_fit(tmp_path, data=loader, ours={"target_key": 1})


X, Y = normal(6, 8), torch.arange(6)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        {"x": X, "y": Y},
        [X[:0].expand(5, 0, 8), Y],
        (normal(9, 6, 2), ["text"] * 9),
        SimpleNamespace(x=X[:5]),
        [None] * 6,
        (),
    ],
)
def test_a_batch_with_anything_of_the_size_that_was_drawn_is_as_drawn(batch: Any):
    assert find_rows(batch, 6, None) == Rows(6)
    assert Rows(6).size == 6
    assert Rows(6).there is None
    assert Rows(6).merge(X) is Rows(6).spread(X) is X


@pytest.mark.parametrize(
    ("batch", "kept", "message"),
    [
        ((X[:5], Y[:5]), None, CAME.format(5)),
        ({"x": {"image": X[:5]}, "y": ["a"] * 5}, None, CAME.format(5)),
        (X[:5], None, CAME.format(5)),
        ((X, Y), "at", "`kept='at'` is not in the batch, a tuple of 2: name what holds the position"),
        *[
            ((X, at), 1, "`kept=1` must hold the position .* 6 drawn ones, integers from 0 to 5")
            for at in (Y + 1, Y - 1, X)
        ],
        *[((X, at), 1, "`kept=1` must hold the position") for at in (Y.float(), Y > 1, ["a"], [])],
    ],
)
def test_rows_whose_samples_are_not_known(batch: Any, kept: Any, message: str):
    with refused(message):
        find_rows(batch, 6, kept)


def test_processes_put_together_what_came_through():
    def all_gather(mine: Tensor) -> Tensor:
        return torch.stack([mine, torch.stack([torch.tensor([5.0, 0.0]), torch.tensor([0.0, 1.0]).flip(0)]).double()])

    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(all_gather=all_gather, root_device="cpu"))
    draw = Draw(torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.full((4,), 0.1))
    rows = Rows(2, torch.tensor([1, 1]))
    losses = rows.merge(torch.tensor([2.0, 4.0]))
    part, (found,) = gather_kept(trainer, draw, [losses], rows.there, torch.device("cpu"))
    assert part.indices.tolist() == [1, 2]  # of the one process its first sample, of the other its second
    assert found.tolist() == [5.0, 3.0]


def test_what_chooses_among_rows_needs_one_for_each_sample():
    with pytest.raises(ValueError, match="`kept='at'` does not go with SelectiveBackprop"):
        AdaptiveSamplingCallback(SelectiveBackprop(), kept="at")


def test_a_strategy_that_has_instances_scored_needs_one_row_for_each(tmp_path: Path):
    for collate, ours, message in (
        (Cropping(), {"target_key": 1}, r"A batch of 16 was drawn, but a list of 3 came with 32 rows"),
        (Cropping(), {"target_key": 1, "kept": 2}, "`kept` does not go with OnlineBatchSelection, which has instances"),
    ):
        loader = AdaptiveDataLoader(tiny_dataset(), BATCH, collate_fn=collate, bins=None)
        with refused(message):
            tiny_fit(tmp_path, OnlineBatchSelection(recompute_every=1), Triple, loader, ours=ours, max_epochs=2)


class Point(NamedTuple):
    x: Tensor
    names: list[str]


def test_rows_are_taken_from_whatever_has_them():
    x, y, at = torch.arange(12.0).view(6, 2), torch.arange(6), torch.tensor([4, 0, 4])
    scalar, ragged = torch.tensor(3.0), [torch.zeros(length) for length in (1, 2, 6, 4, 5, 3)]
    batch = {"pair": (x, [y, None]), "point": Point(x, list("abcdef")), "scalar": scalar, "ragged": ragged}
    taken = take_rows(batch, at, 6)
    assert differences(taken["pair"], (x[at], [y[at], None])) == []
    assert isinstance(taken["point"], Point)
    assert differences(taken["point"], (x[at], ["e", "a", "e"])) == []
    assert taken["scalar"] is scalar
    assert [len(one) for one in taken["ragged"]] == [5, 1, 5]
    as_many_parts_as_rows = [{"x": x[:2]}, y[:2]]
    assert differences(take_rows(as_many_parts_as_rows, torch.tensor([1]), 2), [{"x": x[1:2]}, y[1:2]]) == []
    for mapping, kind in ((UserDict(x=y), UserDict), (MappingProxyType({"x": y}), dict)):
        kept = take_rows(mapping, torch.tensor([2]), 6)
        assert (type(kept), kept["x"].tolist()) == (kind, [2])
