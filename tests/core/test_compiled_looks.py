"""What the loops must refuse; that they are right is tested in test_record and losses/test_margins."""

import pytest
import torch

from lightning_as.core.record import Look, Record
from tests.helpers.statistics import double


def look(size: int) -> Look:
    numbers, classes = double(*[0.5] * size), torch.zeros(size, dtype=torch.int64)
    return Look(numbers, numbers, numbers, numbers, classes, classes)


@pytest.mark.parametrize("index", [-1, 3, 10**6])
def test_an_instance_that_is_not_there_is_refused_before_anything_is_written(index: int):
    record = Record(3, torch.device("cpu"))
    with pytest.raises(IndexError, match="instance"):
        record.add(torch.tensor([0, index]), look(2))
    assert record.columns()["drawn"].tolist() == [0, 0, 0]


def test_numbers_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="one number for each"):
        Record(3, torch.device("cpu")).add(torch.tensor([0, 1]), look(2)._replace(margins=double(1)))
