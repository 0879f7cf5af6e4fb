from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

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


class Wrapper(Unloadable):
    """Somebody's own; a length of its own, if it has `indices`."""

    def __len__(self) -> int:
        return len(getattr(self, "indices", range(N)))


def found(dataset: Any, name: str | None = None) -> list[Any]:
    values = find_labels(dataset, name).values
    assert values is not None
    return values.tolist()


def remarks(dataset: Any, name: str | None = None) -> tuple[str, ...]:
    values, remarks = find_labels(dataset, name)
    assert values is None
    return remarks


def test_attributes_and_columns_are_found_without_loading_a_sample():
    for name in NAMES:
        assert found(Unloadable(**{name: LABELS})) == LABELS
    for column in ("label", "labels"):
        for transforms in (False, True):
            assert found(Table(transforms, image=[None] * N, **{column: LABELS})) == LABELS
    assert found(Table(False, coarse=LABELS, label=[0] * N), "coarse") == LABELS
    assert remarks(Table(False, image=[None] * N)) == remarks(Unloadable(targets=len)) == ()


def test_a_column_that_hugging_face_knows_as_class_labels():
    class ClassLabel:
        pass

    table = Table(False, image=[None] * N, intent=LABELS)
    table.features = {"image": None, "intent": ClassLabel()}
    assert found(table) == found(Wrapper(hf=table)) == LABELS


def test_of_a_tensor_dataset_it_is_the_last_tensor_or_the_only_one_of_whole_numbers():
    labels, others = torch.tensor(LABELS), torch.rand(N)
    for tensors in ((others, others, labels[:, None]), (labels, others), (others, labels, torch.rand(N, 3))):
        assert found(TensorDataset(*tensors)) == LABELS
    assert remarks(TensorDataset(labels, labels, others)) == ("`tensors[2]` holds floats",)
    numbered = TensorDataset(torch.arange(30), torch.rand(30))
    assert remarks(numbered) == ("`tensors[1]` holds floats",)
    assert remarks(TensorDataset(others, labels), "difficulty") == ()


def test_tables_and_rows_that_a_data_set_holds_or_is():
    class Graph:
        def __init__(self, y: int) -> None:
            self.y = torch.tensor([y])

    rows = {
        "mappings": [{"image": None, "label": label} for label in LABELS],
        "objects": [Graph(label) for label in LABELS],
        "pairs": [(f"{at}.png", label) for at, label in enumerate(LABELS)],
    }
    for kind, held in rows.items():
        assert found(held) == LABELS
        assert found(Unloadable(**{"samples" if kind == "pairs" else "records": held})) == LABELS
    assert remarks(Unloadable(pairs=rows["pairs"])) == ()
    assert found(Unloadable(columns={"x": [0] * N, "label": LABELS})) == LABELS
    assert found(rows["mappings"], "label") == LABELS
    pandas = pytest.importorskip("pandas")
    assert found(Unloadable(frame=pandas.DataFrame({"source": LABELS}, range(5, 5 + N))), "source") == LABELS


def test_subsets_of_concatenations_of_subsets_are_followed():
    first = Subset(Unloadable(targets=LABELS), [6, 0, 0, 2])
    both: Dataset[Any] = ConcatDataset([first, TensorDataset(torch.rand(3, 2), torch.tensor([7, 8, 9]))])
    assert found(both) == [1, 3, 3, 1, 7, 8, 9]
    named = Unloadable(targets=[0] * N, difficulty=LABELS)
    assert found(ConcatDataset([Subset(named, [1, 0]), named]), "difficulty") == [0, 3, *LABELS]
    assert remarks(named, "colour") == ()
    assert found(Subset(Subset(both, range(1, 6)), np.array([4, 0]))) == [8, 3]
    assert found(ConcatDataset([Subset(both, [5]), both])) == [8, 1, 3, 3, 1, 7, 8, 9]
    words = Unloadable(targets=["b", "a"] * 3 + ["c"])
    assert found(ConcatDataset([Subset(words, [1]), words])) == ["a", "b", "a", "b", "a", "b", "a", "c"]
    assert remarks(ConcatDataset([both, Unloadable(targets=torch.rand(N))])) == ("`targets` holds floats",)
    assert remarks(ConcatDataset([both, words])) == ("some parts have strings and some have numbers",)


def test_stacks_and_wrappers_of_one_data_set_of_the_same_length_are_followed():
    inputs, labelled = Unloadable(), Unloadable(targets=LABELS)
    for parts in ({"x": inputs, "label": LABELS}, {"x": inputs, "label": labelled}):
        assert found(StackDataset(**parts)) == LABELS
    assert found(StackDataset(inputs, TensorDataset(torch.tensor(LABELS)))) == LABELS
    assert found(Wrapper(base=Wrapper(base=labelled))) == LABELS
    assert found(Wrapper(base=labelled, indices=[6, 0])) == [1, 3]
    for wrapper in (Wrapper(one=labelled, other=inputs), Wrapper(base=Subset(labelled, [0, 1]))):
        assert remarks(wrapper) == ()


def test_what_is_not_a_class_per_instance_is_passed_over_and_told():
    for values, remark in ((torch.rand(N), "`targets` holds floats"), (LABELS[:-1], "`targets` holds 6 entries for 7")):
        assert remarks(Unloadable(targets=values))[0].startswith(remark)
        assert found(Unloadable(targets=values, labels=LABELS)) == LABELS
    masks = [(at, f"mask_{at}.png") for at in range(40)]
    assert remarks(masks) == ("`the last of its rows` holds 40 different strings for 40 instances",)
