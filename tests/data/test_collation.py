import sys
from types import ModuleType
from typing import Any

import pytest
import torch

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
