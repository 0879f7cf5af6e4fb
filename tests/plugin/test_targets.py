"""Where the targets of a batch are, and what is said where that is not clear."""

from collections import UserDict
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.plugin.observation import TARGET_NAMES, describe, targets_of

INPUTS, TARGETS = torch.zeros(6, 3), torch.arange(6) % 4


class Pair(NamedTuple):
    inputs: Tensor
    targets: Tensor


def raises(message: str) -> Any:
    return pytest.raises(MisconfigurationException, match=message)


def test_the_targets_are_the_second_of_a_pair_or_have_a_usual_name_or_are_where_the_key_says():
    assert targets_of((INPUTS, TARGETS), None) is TARGETS
    assert targets_of([INPUTS, TARGETS], None) is TARGETS
    assert targets_of(Pair(INPUTS, TARGETS), None) is TARGETS
    for name in TARGET_NAMES:
        assert targets_of({"x": INPUTS, name: TARGETS}, None) is TARGETS
        assert targets_of(UserDict({"x": INPUTS, name: TARGETS}), None) is TARGETS  # as of Hugging Face's tokenizers
    assert targets_of({"labels": INPUTS, "label": INPUTS, "class": TARGETS}, "class") is TARGETS
    assert targets_of((TARGETS, INPUTS, INPUTS), 0) is TARGETS
    assert targets_of((INPUTS, INPUTS, TARGETS), -1) is TARGETS
    assert targets_of({3: TARGETS}, 3) is TARGETS


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((INPUTS, TARGETS, TARGETS), "a tuple of 3"),
        ([INPUTS], "a list of 1"),
        ({"x": INPUTS, "class": TARGETS}, "a mapping with 'x', 'class'"),
        ({"labels": TARGETS, "label": TARGETS}, "a mapping with 'labels', 'label'"),
        ({}, "a mapping with "),
        (INPUTS, "a Tensor"),
        (None, "a NoneType"),
    ],
)
def test_batches_whose_targets_are_not_clear(batch: Any, words: str):
    assert describe(batch) == words
    with raises(f"Which part of the batch, {words}, has the targets. Please name it with .*target_key=…"):
        targets_of(batch, None)


@pytest.mark.parametrize(
    ("batch", "key"),
    [((INPUTS, TARGETS), 2), ((INPUTS, TARGETS), "labels"), ({"x": INPUTS}, "labels"), (object(), "labels")],
)
def test_a_key_that_is_not_in_the_batch(batch: Any, key: str | int):
    with raises(f"`target_key={key!r}` is not in the batch, {describe(batch)}: name what holds the targets"):
        targets_of(batch, key)
