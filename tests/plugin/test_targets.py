from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_as.plugin.targets import TARGET_NAMES, targets_of
from tests.helpers.tiny import refused

INPUTS, TARGETS = torch.zeros(6, 8), torch.arange(6)


def test_the_targets_are_the_second_of_a_pair_or_have_a_usual_name_or_are_where_the_key_says():
    assert targets_of((INPUTS, TARGETS), None) is targets_of([INPUTS, TARGETS], None) is TARGETS
    for name in TARGET_NAMES:
        assert targets_of({"x": INPUTS, name: TARGETS}, None) is TARGETS
        assert targets_of(SimpleNamespace(x=INPUTS, **{name: TARGETS}), None) is TARGETS
    assert targets_of({"labels": INPUTS, "label": INPUTS, "class": TARGETS}, "class") is TARGETS
    assert targets_of((TARGETS, INPUTS, INPUTS), 0) is TARGETS
    assert targets_of(SimpleNamespace(fine=TARGETS), "fine") is TARGETS


@pytest.mark.parametrize(
    ("batch", "key", "message"),
    [
        ((INPUTS, TARGETS, TARGETS), None, "the batch, a tuple of 3, has the targets. Please name .*_key="),
        ({"x": INPUTS, "class": TARGETS}, None, "the batch, a mapping with 'x', 'class', has the targets"),
        ({"labels": TARGETS, "label": TARGETS}, None, "the batch, a mapping with 'labels', 'label', has the targets"),
        (SimpleNamespace(y=TARGETS, label=TARGETS), None, "the batch, a SimpleNamespace, has the targets"),
        (INPUTS, None, "the batch, a Tensor, has the targets"),
        ((INPUTS, TARGETS), 2, "`target_key=2` is not in the batch, a tuple of 2: name what holds the targets"),
        (object(), "labels", "`target_key='labels'` is not in the batch, a object"),
    ],
)
def test_batches_whose_targets_are_not_clear(batch: Any, key: Any, message: str):
    with refused(message):
        targets_of(batch, key)
