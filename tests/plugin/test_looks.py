from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_as import CrossEntropy
from lightning_as.plugin.criterion import SampleLosses
from lightning_as.plugin.looks import Looks, merged
from lightning_as.plugin.rows import Rows
from tests.helpers.tiny import Tiny, normal

LOGITS, LABELS = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
GIVEN = torch.arange(6.0)


def looks(loss: Any = None) -> Looks:
    return Looks(SampleLosses(Tiny(), loss))


def test_what_is_given_goes_before_what_logits_say():
    look = looks().of(GIVEN, GIVEN + 1, LOGITS, LABELS, 6)
    assert torch.equal(look.losses, GIVEN)
    assert torch.equal(look.bounds, GIVEN + 1)
    assert torch.equal(look.labels, LABELS)
    torch.testing.assert_close(look.confidences, LOGITS.double().softmax(1)[range(6), LABELS])
    look = looks().of(None, None, LOGITS, LABELS, 6)
    torch.testing.assert_close(look.losses, cross_entropy(LOGITS, LABELS, reduction="none"))
    errors = LOGITS.double().softmax(1) - torch.eye(4)[LABELS]
    torch.testing.assert_close(look.bounds, errors.square().sum(1))


@pytest.mark.parametrize(
    ("loss", "logits", "targets", "unknown"),
    [
        (CrossEntropy(label_smoothing=0.1), LOGITS, LABELS, {"bounds"}),
        (lambda batch: batch, LOGITS, LABELS, {"bounds", "losses", "confidences", "margins", "labels", "others"}),
        (nn.MSELoss(), LOGITS, LOGITS + 1, {"bounds", "confidences", "margins", "labels", "others"}),
        (None, None, None, {"bounds", "losses", "confidences", "margins", "labels", "others"}),
        (None, LOGITS, ["a"] * 6, {"bounds", "losses", "confidences", "margins", "labels", "others"}),
    ],
)
def test_what_nobody_can_know_is_marked(loss: Any, logits: Any, targets: Any, unknown: set[str]):
    found = looks(loss)
    for _ in range(2):
        look = found.of(None, None, logits, targets, 6)
        for name, part in look._asdict().items():
            assert part.shape == (6,)
            assert bool((part.isnan() if part.is_floating_point() else part < 0).all()) == (name in unknown), name


def test_of_several_rows_of_a_sample_numbers_are_averaged_and_the_last_class_counts():
    look = looks().of(GIVEN, None, LOGITS, LABELS, 6)
    rows = Rows(4, torch.tensor([0, 1, 3, 0, 1, 3]))
    one = merged(look, rows)
    assert one.losses.tolist() == [1.5, 2.5, 0, 3.5]
    assert one.labels.tolist() == [3, 0, -1, 1]
    assert merged(look, Rows(6)) is look
