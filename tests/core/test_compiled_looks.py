"""What the loops must refuse; that they are right is tested in test_record and losses/test_margins."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_as.core import compiled_looks
from lightning_as.core.record import Record


def look(size: int) -> Tensor:
    return torch.full((6, size), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("index", [-1, 3, 10**6])
def test_an_instance_that_is_not_there_is_refused_before_anything_is_written(index: int):
    record = Record(3, torch.device("cpu"))
    with pytest.raises(IndexError, match="instance"):
        record.add(torch.tensor([0, index]), look(2))
    assert record.columns()["drawn"].tolist() == [0, 0, 0]


def test_numbers_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="six numbers for each instance"):
        Record(3, torch.device("cpu")).add(torch.tensor([0, 1]), look(3))
    with pytest.raises(ValueError, match="six numbers and a row of logits for each target"):
        compiled_looks.look_at_logits(np.zeros((2, 4)), np.zeros(3, np.int64), -100, look(3).numpy())
