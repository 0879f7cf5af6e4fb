from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import FakeData, VisionDataset

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
    """In the style of Hugging Face's `datasets.Dataset`: positions give rows, strings give columns."""

    def __init__(self, **columns: Any) -> None:
        super().__init__(column_names=list(columns))
        self.columns = columns

    def __getitem__(self, index: int | str) -> Any:
        return self.columns[index] if isinstance(index, str) else super().__getitem__(index)

    def __getitems__(self, indices: list[int]) -> Any:
        raise AssertionError(f"samples {indices} were loaded")


class Column:
    """What newer versions of `datasets` give for a column: no list, but it can be iterated over."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> int:
        return self.values[index]


def found(dataset: Dataset[Any], name: str | None = None) -> list[int]:
    labels = find_labels(dataset, name)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.dim() == 1
    return labels.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda labels: np.array(labels, dtype=np.uint8),
        lambda labels: torch.tensor(labels, dtype=torch.int32),
        lambda labels: torch.tensor(labels)[:, None],
        lambda labels: np.array(labels)[:, None],
        lambda labels: [np.int64(label) for label in labels],
        lambda labels: [torch.tensor(label) for label in labels],
    ],
)
def test_attributes_are_found_without_loading_a_sample(name: str, make: Any):
    assert found(Unloadable(**{name: make(LABELS)})) == LABELS


def test_torchvision_keeps_targets_in_a_list_or_a_tensor():
    class Folder(VisionDataset):
        def __init__(self, targets: Any) -> None:
            super().__init__(root="")
            self.data = np.zeros((N, 2, 2, 3), dtype=np.uint8)
            self.targets = targets

        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            raise AssertionError(f"sample {index} was loaded")

    assert found(Folder(LABELS)) == LABELS
    assert found(Folder(torch.tensor(LABELS))) == LABELS
    assert find_labels(FakeData(size=N)) is None


def test_bools_are_two_classes():
    assert found(Unloadable(targets=[label == 1 for label in LABELS])) == [int(label == 1) for label in LABELS]


@pytest.mark.parametrize("column", ["label", "labels"])
@pytest.mark.parametrize("make", [list, Column, np.array, torch.tensor])
def test_columns_in_hugging_face_style_are_found_without_loading_a_sample(column: str, make: Any):
    assert found(Table(image=[None] * N, **{column: make(LABELS)})) == LABELS
    assert found(Table(image=[None] * N, coarse=make(LABELS), label=[0] * N), "coarse") == LABELS
    assert find_labels(Table(image=[None] * N)) is None


def test_a_transform_in_hugging_face_style_is_not_in_the_way():
    # `with_transform`, as in the vision tutorials: here one that needs another column than the one that is asked for
    # alone (`datasets` before 4), or that renames it (seen with 5.2).
    class Transformed(Table):
        plain = False

        def with_format(self, kind: None) -> "Transformed":
            copy = Transformed(**self.columns)
            copy.plain = True
            return copy

        def __getitem__(self, index: int | str) -> Any:
            if not self.plain:
                raise KeyError("image")
            return super().__getitem__(index)

    assert found(Transformed(image=[None] * N, label=LABELS)) == LABELS


def test_of_a_tensor_dataset_it_is_the_last_tensor():
    labels = torch.tensor(LABELS)
    assert found(TensorDataset(torch.rand(N, 2), labels)) == LABELS
    assert found(TensorDataset(torch.rand(N, 2), torch.rand(N), labels[:, None])) == LABELS
    assert find_labels(TensorDataset(labels, torch.rand(N))) is None
    assert find_labels(TensorDataset(torch.rand(N, 2))) is None
    assert find_labels(TensorDataset(torch.rand(N, 2), torch.zeros(N, 4, 4, dtype=torch.int64))) is None


def test_subsets_of_concatenations_of_subsets_are_followed():
    first = Subset(Unloadable(targets=LABELS), [6, 0, 0, 2])
    second = TensorDataset(torch.rand(3, 2), torch.tensor([7, 8, 9]))
    both: Dataset[Any] = ConcatDataset([first, second])
    assert found(both) == [1, 3, 3, 1, 7, 8, 9]
    assert found(Subset(both, [6, 1, 4])) == [9, 3, 7]
    assert found(Subset(Subset(both, range(1, 6)), np.array([4, 0]))) == [8, 3]  # pyright: ignore[reportArgumentType]
    assert found(ConcatDataset([Subset(both, [5]), both])) == [8, 1, 3, 3, 1, 7, 8, 9]


def test_a_concatenation_with_a_part_without_labels_has_none():
    parts: list[Dataset[Any]] = [Unloadable(targets=LABELS), Unloadable()]
    assert find_labels(ConcatDataset(parts)) is None


def test_a_name_is_looked_for_instead_of_the_usual_ones():
    dataset = Unloadable(targets=[0] * N, difficulty=LABELS)
    assert found(dataset) == [0] * N
    assert found(dataset, "difficulty") == LABELS
    assert found(Subset(dataset, [1, 0]), "difficulty") == [0, 3]
    assert found(ConcatDataset([dataset, dataset]), "difficulty") == 2 * LABELS
    assert find_labels(dataset, "colour") is None
    labelled = TensorDataset(torch.rand(N, 2), torch.tensor(LABELS))
    assert find_labels(labelled, "difficulty") is None


NOT_LABELS: dict[str, Any] = {
    "floats": [float(label) for label in LABELS],
    "doubles": torch.tensor(LABELS).double(),
    "complex": torch.tensor(LABELS).to(torch.complex64),
    "too few": LABELS[:-1],
    "two-dimensional": torch.zeros(N, 2, dtype=torch.int64),
    "a scalar": torch.tensor(3),
    "names": [f"mask_{label}.png" for label in LABELS],
    "ragged": [[label] * label for label in LABELS],
    "mappings": [{"boxes": label} for label in LABELS],
    "nothing": None,
    "a number": 12,
    "a method": lambda: LABELS,
}


@pytest.mark.parametrize("values", NOT_LABELS.values(), ids=NOT_LABELS.keys())
def test_what_is_not_one_integer_per_instance_is_passed_over(values: Any):
    assert find_labels(Unloadable(targets=values)) is None
    assert found(Unloadable(targets=values, labels=LABELS)) == LABELS
