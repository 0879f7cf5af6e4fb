from typing import Any

import numpy as np
import pytest
import torch

from lightning_as.data.classes import NotClassesError, classes_of, encode

CLASSES = [3, 0, 1, 3, 0, 1, 1]
N, WORDS = len(CLASSES), ["abcd"[one] for one in CLASSES]
BACKWARDS = range(N)[::-1]


@pytest.mark.parametrize(
    "make",
    [
        *(list, tuple, np.array, torch.tensor, iter),
        lambda labels: np.array(labels, dtype=np.uint8),
        lambda labels: np.array(labels, dtype=object),
        lambda labels: torch.tensor(labels, dtype=torch.int32)[:, None],
        lambda labels: [torch.tensor([label]) for label in labels],
        lambda labels: torch.tensor(labels).bfloat16(),
        lambda labels: [float(label) for label in labels],
        lambda labels: torch.eye(4)[labels],
        lambda labels: np.eye(4, dtype=int)[labels].tolist(),
        lambda labels: {at: labels[at] for at in BACKWARDS},
    ],
)
def test_whole_numbers_of_any_form(make: Any):
    found = classes_of(make(CLASSES), N)
    assert (found.dtype, found.tolist()) == (np.int64, CLASSES)


def test_columns_of_a_table_count_by_position():
    pandas = pytest.importorskip("pandas")
    for values in (CLASSES, WORDS):
        for dtype in (None, "category", "Int64" if values is CLASSES else "string"):
            for index in (BACKWARDS, [f"row {at}" for at in range(N)]):
                assert classes_of(pandas.Series(values, index, dtype), N).tolist() == values
        assert classes_of(pandas.Categorical(values), N).tolist() == values
        assert classes_of(pandas.DataFrame({"label": values}), N).tolist() == values
    with pytest.raises(NotClassesError, match="has missing values"):
        classes_of(pandas.Series([1, None] * 2, dtype="Int64"), 4)


def test_strings_and_truth_values_and_their_codes():
    for words in (WORDS, np.array(WORDS), np.array(WORDS, dtype=object), [word.encode() for word in WORDS]):
        codes, classes = encode(classes_of(words, N))
        assert (codes.tolist(), classes.tolist()) == ([2, 0, 1, 2, 0, 1, 1], ["a", "b", "d"])
    assert classes_of([label == 1 for label in CLASSES], N).tolist() == [int(label == 1) for label in CLASSES]
    for shift in (0, -7, 1000):
        codes, classes = encode(np.array(CLASSES) + shift)
        assert (codes.tolist(), classes.tolist()) == ([2, 0, 1, 2, 0, 1, 1], [shift, 1 + shift, 3 + shift])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.rand(N), "holds floats"),
        ([1.0, float("nan")] + [0.0] * 5, "has missing values"),
        (["a", None] + ["b"] * 5, "has missing values"),
        (torch.zeros(N).to(torch.complex64), "holds complex64 numbers"),
        (CLASSES[:-1], "holds 6 entries for 7 instances"),
        (CLASSES * 2, "holds more entries for 7 instances"),
        (torch.tensor(3), "holds 1 entry for 7"),
        (torch.ones(N, 2), r"has the shape \(7, 2\), more than a number per instance, and is not one-hot"),
        ([[label] * label for label in CLASSES], "is a list that is no row of numbers or strings"),
        ([{}] * N, r"holds objects that are neither whole numbers nor strings \(dict\)"),
        ([2**70] * N, "neither whole numbers"),
        ({f"{at}.png": 0 for at in range(N)}, r"from 7 keys that are not the positions 0 … 6"),
        ("abcabca", "is 'abcabca', and no sequence"),
        (None, "is None"),
        (12, "is a int that is no row"),
    ],
)
def test_what_is_no_class_per_instance_says_what_it_is(values: Any, message: str):
    with pytest.raises(NotClassesError, match=message):
        classes_of(values, N)
    with pytest.raises(NotClassesError, match="holds floats, 30 different ones for 40 instances"):
        classes_of(torch.arange(40.0) % 30, 40)
