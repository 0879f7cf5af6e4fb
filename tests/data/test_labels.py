from collections import UserList
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_as.data.labels import NAMES, find_labels

LABELS = [3, 0, 1, 3, 0, 1, 1]
N = len(LABELS)


class Unloadable(Dataset[Any]):
    """Must not be asked for a sample; keeps what it is given as attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        raise AssertionError(f"sample {index} was loaded")


class Table(Unloadable):
    """Like Hugging Face's `datasets.Dataset`: positions give rows, strings give columns, which transforms may break."""

    def __init__(self, transforms: bool, **columns: Any) -> None:
        super().__init__(column_names=list(columns), columns=columns, transforms=transforms)

    def with_format(self, kind: None) -> "Table":
        return Table(False, **self.columns)

    def __getitem__(self, index: int | str) -> Any:
        if self.transforms or not isinstance(index, str):
            raise AssertionError(f"samples {index} were loaded")
        return self.columns[index]


def found(dataset: Dataset[Any], name: str | None = None) -> list[int]:
    labels = find_labels(dataset, name)
    assert (labels.dtype, labels.dim()) == (torch.int64, 1)
    return labels.tolist()


@pytest.mark.parametrize(
    "make",
    [
        *(list, tuple, np.array, torch.tensor, UserList),
        lambda labels: np.array(labels, dtype=np.uint8),
        lambda labels: torch.tensor(labels, dtype=torch.int32)[:, None],
        lambda labels: [torch.tensor(label) for label in labels],
    ],
)
def test_attributes_and_columns_are_found_without_loading_a_sample(make: Any):
    for name in NAMES:
        assert found(Unloadable(**{name: make(LABELS)})) == LABELS
    for column in ("label", "labels"):
        for transforms in (False, True):
            assert found(Table(transforms, image=[None] * N, **{column: make(LABELS)})) == LABELS
    assert found(Table(False, coarse=make(LABELS), label=[0] * N), "coarse") == LABELS
    assert find_labels(Table(False, image=[None] * N)) is None
    assert found(Unloadable(targets=make([label == 1 for label in LABELS]))) == [int(label == 1) for label in LABELS]


def test_of_a_tensor_dataset_it_is_the_last_tensor():
    labels, others = torch.tensor(LABELS), torch.rand(N)
    assert found(TensorDataset(others, others, labels[:, None])) == LABELS
    for last in (others, torch.zeros(N, 4, 4, dtype=torch.int64)):
        assert find_labels(TensorDataset(labels, last)) is None
    assert find_labels(TensorDataset(others, labels), "difficulty") is None


def test_subsets_of_concatenations_of_subsets_are_followed():
    first = Subset(Unloadable(targets=LABELS), [6, 0, 0, 2])
    both: Dataset[Any] = ConcatDataset([first, TensorDataset(torch.rand(3, 2), torch.tensor([7, 8, 9]))])
    assert found(both) == [1, 3, 3, 1, 7, 8, 9]
    named = Unloadable(targets=[0] * N, difficulty=LABELS)
    assert found(ConcatDataset([Subset(named, [1, 0]), named]), "difficulty") == [0, 3, *LABELS]
    assert find_labels(named, "colour") is None
    assert found(Subset(Subset(both, range(1, 6)), np.array([4, 0]))) == [8, 3]
    assert found(ConcatDataset([Subset(both, [5]), both])) == [8, 1, 3, 3, 1, 7, 8, 9]
    assert find_labels(ConcatDataset([both, Unloadable()])) is None


def test_what_is_not_one_integer_per_instance_is_passed_over():
    labels = torch.tensor(LABELS)
    wrong = (labels.double(), labels.to(torch.complex64), LABELS[:-1], torch.zeros(N, 2).long(), torch.tensor(3))
    odd = ([f"mask_{label}.png" for label in LABELS], [[label] * label for label in LABELS], [{}] * N, None, 12, len)
    for values in (*wrong, *odd):
        assert find_labels(Unloadable(targets=values)) is None
        assert found(Unloadable(targets=values, labels=LABELS)) == LABELS
