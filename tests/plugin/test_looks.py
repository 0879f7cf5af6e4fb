from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_as import CrossEntropy
from lightning_as.core import record
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
    assert torch.equal(look[record.LOSS], GIVEN.double())
    assert torch.equal(look[record.BOUND], GIVEN.double() + 1)
    assert torch.equal(look[record.LABEL], LABELS.double())
    torch.testing.assert_close(look[record.CONFIDENCE], LOGITS.double().softmax(1)[range(6), LABELS])
    look = looks().of(None, None, LOGITS, LABELS, 6)
    torch.testing.assert_close(look[record.LOSS].float(), cross_entropy(LOGITS, LABELS, reduction="none"))
    errors = LOGITS.double().softmax(1) - torch.eye(4)[LABELS]
    torch.testing.assert_close(look[record.BOUND], errors.square().sum(1))


ALL = set(range(6))


@pytest.mark.parametrize(
    ("loss", "logits", "targets", "unknown"),
    [
        (CrossEntropy(label_smoothing=0.1), LOGITS, LABELS, {record.BOUND}),
        (lambda batch: batch, LOGITS, LABELS, ALL),
        (nn.MSELoss(), LOGITS, LOGITS + 1, ALL - {record.LOSS}),
        (None, None, None, ALL),
        (None, LOGITS, ["a"] * 6, ALL),
    ],
)
def test_what_nobody_can_know_is_marked(loss: Any, logits: Any, targets: Any, unknown: set[int]):
    found = looks(loss)
    for _ in range(2):
        look = found.of(None, None, logits, targets, 6)
        assert look.shape == (6, 6)
        assert {at for at, part in enumerate(look) if bool(part.isnan().all())} == unknown


def test_of_several_rows_of_a_sample_numbers_are_averaged_and_the_last_class_counts():
    look = looks().of(GIVEN, None, LOGITS, LABELS, 6)
    rows = Rows(4, torch.tensor([0, 1, 3, 0, 1, 3]))
    one = merged(look, rows)
    assert one[record.LOSS].tolist() == [1.5, 2.5, 0, 3.5]
    labels = torch.tensor([3, 0, torch.nan, 1], dtype=torch.float64)
    torch.testing.assert_close(one[record.LABEL], labels, equal_nan=True)
    assert merged(look, Rows(6)) is look
