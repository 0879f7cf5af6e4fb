import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from lightning_as import AdaptiveDataLoader
from lightning_as.data.collation import collate


def test_graphs_are_batched_by_their_own_library(monkeypatch: pytest.MonkeyPatch):
    class BaseData:
        pass

    class Data(BaseData):
        def __init__(self, y: int) -> None:
            self.y = torch.tensor([y])

    class Batch:
        def __init__(self, graphs: list[Data]) -> None:
            self.y = torch.cat([graph.y for graph in graphs])

        from_data_list = classmethod(lambda cls, graphs: cls(graphs))

    BaseData.__module__ = "torch_geometric.data.data"
    module = ModuleType("torch_geometric.data")
    module.Batch = Batch  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch_geometric", ModuleType("torch_geometric"))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", module)
    loader = AdaptiveDataLoader([Data(at % 2) for at in range(8)], 4)
    assert loader.sampler.bins.labels.tolist() == [0, 1]
    assert [type(batch) for batch in loader] == [Batch, Batch]


@pytest.mark.parametrize(
    "arrays",
    [
        [np.arange(6, dtype=kind).reshape(2, 3) + at for at in range(4)]
        for kind in ("float32", "float64", "int16", "uint8", "complex64")
    ]
    + [
        [np.array([True, False])] * 3,
        [np.float32([1, 2]), np.float64([3, 4])],  # of torch's common type
        [np.int64([1]), np.float32([2.5])],
        [np.array(1.5), np.array(2.5)],
        [np.zeros((0, 3)), np.zeros((0, 3))],
        [np.arange(6)[::2], np.arange(6)[1::2]],
        [np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)] * 3,
        [np.asfortranarray(np.eye(3)), np.eye(3)],
    ],
    ids=lambda arrays: f"{arrays[0].dtype} {arrays[-1].dtype} {arrays[0].shape}",
)
def test_batches_of_arrays_are_those_of_torch_in_memory_of_their_own(arrays: list[np.ndarray]):
    samples = [{"x": array, "y": (at, array)} for at, array in enumerate(arrays)]
    ours, torchs = collate(samples), default_collate(samples)
    assert ours["x"].dtype == ours["y"][1].dtype == torchs["x"].dtype
    assert torch.equal(ours["x"], torchs["x"])
    assert ours["x"].is_contiguous()
    assert torch.equal(ours["y"][0], torchs["y"][0])
    ours["x"].zero_()
    assert torch.equal(ours["y"][1], torchs["y"][1])


@pytest.mark.parametrize("arrays", [[np.array("a")] * 2, [np.zeros(2), np.zeros(3)]], ids=["strings", "sizes"])
def test_arrays_that_make_no_batch_are_answered_as_anything_else(arrays: list[np.ndarray]):
    with pytest.raises((TypeError, ValueError), match="Give `collate_fn=` to the loader"):
        collate(arrays)


def test_what_a_user_has_told_torch_of_types_of_their_own_is_heeded(monkeypatch: pytest.MonkeyPatch):
    class Own:
        pass

    monkeypatch.setitem(default_collate_fn_map, Own, lambda batch, *, collate_fn_map: len(batch))
    assert collate([{"x": Own(), "y": np.zeros(2)}] * 3)["x"] == 3
    monkeypatch.setitem(default_collate_fn_map, np.ndarray, lambda batch, *, collate_fn_map: "own")
    assert collate([np.zeros(2)] * 3) == "own"


RAGGED = [torch.zeros(2), torch.zeros(3)]


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([object()] * 2, TypeError, r"such as a object .*Give `collate_fn=` to the loader: the one that your DataLoa"),
        (RAGGED, ValueError, r"such as a Tensor \(stack expects each tensor to be equal size.*`collate_fn="),
        ([{"input_ids": row} for row in RAGGED], ValueError, "such as a dict .*`DataCollatorWithPadding"),
        ([[{"image": row}] for row in RAGGED], ValueError, "such as a list .*`list_data_collate`"),
    ],
)
def test_what_is_no_batch_is_answered_by_the_likely_collate_fn(samples: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        collate(samples)
    assert torch.equal(collate([torch.zeros(2)] * 2), torch.zeros(2, 2))
