"""Batches made of samples where nobody said how: torch's way, PyTorch Geometric's for graphs, or a plain answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import collate as put_together
from torch.utils.data._utils.collate import default_collate_fn_map

_OF_ARRAYS = default_collate_fn_map[np.ndarray]  # which a user may replace, and add to


def collate(samples: Any) -> Any:
    """A batch of samples, by torch's `default_collate`; of graphs of PyTorch Geometric by its `Batch`.

    Args:
        samples: A list of samples, or what a data set that loads several at once gives.

    Raises:
        TypeError: If they are of no type that can be put together; it names `collate_fn`, and a likely one.
        ValueError: Likewise, if their tensors are of different sizes.
    """
    first: Any = next(iter(samples), None) if type(samples) in (list, tuple) else None
    if _is_graph(first):
        from torch_geometric.data import Batch  # pyright: ignore[reportMissingImports]  # late: few need it

        return Batch.from_data_list(list(samples))
    try:
        ours = {np.ndarray: _stack} if default_collate_fn_map.get(np.ndarray) is _OF_ARRAYS else {}
        return put_together(samples, collate_fn_map={**default_collate_fn_map, **ours})
    except TypeError as error:
        raise TypeError(_advice(first, error)) from error
    except RuntimeError as error:  # of torch.stack
        if "equal size" not in str(error) and "resize" not in str(error):
            raise
        raise ValueError(_advice(first, error)) from error


def _stack(arrays: Any, *, collate_fn_map: Any = None) -> Tensor:
    """A batch of arrays in one copy; torch makes a tensor of each first, and takes three to four times as long."""
    first = arrays[0]
    # In a loader process torch makes the batch where the training can see it.
    plain = first.ndim > 0 and first.dtype.kind in "biufc" and get_worker_info() is None
    if not plain or any(
        type(each) is not np.ndarray or each.dtype != first.dtype or each.shape != first.shape for each in arrays
    ):
        return _OF_ARRAYS(arrays, collate_fn_map=collate_fn_map)
    out = np.empty((len(arrays), *first.shape), first.dtype)  # in this order of memory, whatever that of the arrays is
    np.concatenate(arrays, out=out.reshape(-1, *first.shape[1:]))
    return torch.from_numpy(out)


def _is_graph(sample: Any) -> bool:
    """Whether a sample is one of PyTorch Geometric's, looked up by name so that it need not be installed."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(sample).__mro__}
    return ("torch_geometric", "BaseData") in kinds


def _advice(sample: Any, error: Exception) -> str:
    if isinstance(sample, Mapping) and "input_ids" in sample:
        likely = "transformers' `DataCollatorWithPadding(tokenizer)`, or its like for your task"
    elif type(sample).__module__.partition(".")[0] == "monai" or isinstance(sample, list):
        likely = "MONAI's `list_data_collate`, if the samples are lists of its crops, or `pad_list_data_collate`"
    elif type(sample).__module__.partition(".")[0] == "lhotse":
        likely = "a function that makes a `CutSet` of them and calls your lhotse data set on it"
    else:
        likely = "the one that your DataLoader had, or a function from the list of samples to a batch"
    return (
        f"torch's `default_collate` cannot make a batch of samples such as a {type(sample).__name__} ({error}). Give "
        f"`collate_fn=` to the loader: {likely}."
    )
