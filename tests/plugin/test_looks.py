from typing import Any

import pytest
import torch
from torch import Tensor, nn
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
        (lambda batch: batch, LOGITS, LABELS, ALL - {record.LABEL}),
        (nn.MSELoss(), LOGITS, LOGITS + 1, ALL - {record.LOSS}),
        (None, None, None, ALL),
        (None, None, LABELS, ALL - {record.LABEL}),
        (None, None, LABELS.float(), ALL),
    ],
)
def test_what_nobody_can_know_is_marked(loss: Any, logits: Any, targets: Any, unknown: set[int]):
    found = looks(loss)
    for _ in range(2):
        look = found.of(None, None, logits, targets, 6)
        assert look.shape == (6, 6)
        assert {at for at, part in enumerate(look) if bool(part.isnan().all())} == unknown


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (LOGITS, ["a"] * 6, "`targets` must be a tensor of class indices, got a list"),
        (LOGITS, LABELS.float(), "must be integers, got torch.float32"),
        (LOGITS[:, :1], LABELS % 2, "of which cross-entropy is always 0: give the loss that the module trains on"),
    ],
)
def test_a_loss_of_something_else_is_given_up_with_a_warning_and_tried_no_more(
    logits: Any, targets: Any, message: str, recwarn: pytest.WarningsRecorder
):
    found = looks()
    for _ in range(2):
        assert bool(found.of(None, None, logits, targets, 6)[record.LOSS].isnan().all())
    assert [message in str(one.message) for one in recwarn] == [True]
    assert "The table of the examples and `adaptive/loss` will know no losses." in str(recwarn[0].message)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_target_that_is_no_class_is_not_looked_up_and_its_loss_alone_not_known(dtype: torch.dtype):
    """The module's own loss may ignore it."""
    targets = LABELS.to(dtype).index_fill(0, torch.tensor([4]), 255)
    look = looks().of(None, None, LOGITS, targets, 6)
    expected = cross_entropy(LOGITS, LABELS, reduction="none").index_fill(0, torch.tensor([4]), torch.nan)
    torch.testing.assert_close(look[record.LOSS].float(), expected, equal_nan=True)
    assert torch.equal(look[record.MARGIN].isnan(), expected.isnan())
    pixels, targets = normal(3, 4, 2), torch.tensor([[0, 255], [255, 255], [2, 3]]).to(dtype)
    losses = looks().of(None, None, pixels, targets, 3)[record.LOSS].float()
    each = cross_entropy(pixels[[0, 2, 2], :, [0, 0, 1]], torch.tensor([0, 2, 3]), reduction="none")
    expected = torch.stack([each[0], torch.tensor(torch.nan), each[1:].mean()])
    torch.testing.assert_close(losses, expected, equal_nan=True)


def test_of_labels_without_logits_those_are_known_that_the_record_can_hold():
    targets = torch.tensor([3, -1, -100, 9, 2**31 - 2, 2**31 - 1])
    look = looks(CrossEntropy(ignore_index=9)).of(GIVEN, None, None, targets, 6)
    known = torch.tensor([3, torch.nan, torch.nan, torch.nan, 2**31 - 2, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(look[record.LABEL], known, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(look[record.LOSS], GIVEN.double())


def test_of_several_rows_of_a_sample_numbers_are_averaged_and_the_last_class_counts():
    look = looks().of(GIVEN, None, LOGITS, LABELS, 6)
    rows = Rows(4, torch.tensor([0, 1, 3, 0, 1, 3]))
    one = merged(look, rows)
    assert one[record.LOSS].tolist() == [1.5, 2.5, 0, 3.5]
    labels = torch.tensor([3, 0, torch.nan, 1], dtype=torch.float64)
    torch.testing.assert_close(one[record.LABEL], labels, equal_nan=True)
    assert merged(look, Rows(6)) is look


def test_few_logits_of_a_loss_of_the_packages_own_go_to_the_cpu_once(monkeypatch: pytest.MonkeyPatch):
    moved = list[Tensor]()
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self) or self)
    few, many = (torch.zeros(shape, requires_grad=True, device="meta") for shape in ((4, 3), (1024, 17)))
    targets = torch.zeros(4, dtype=torch.int64, device="meta")

    def own(z: Tensor, y: Tensor) -> Tensor:
        return (z[:, 0] - y).square()

    for loss, logits, its, wanted in (
        (CrossEntropy(), few, targets, False),  # the state is where the module is
        (CrossEntropy(), many, targets, True),
        (CrossEntropy(), few, (targets, targets), True),
        (CrossEntropy(), None, targets, True),
        (CrossEntropy(), torch.zeros(4, 3), targets, True),  # which are there
        (own, few, targets, True),  # which may hold tensors of the GPU
    ):
        found = looks(loss).brought(logits, its, wanted)
        assert found[0] is logits
        assert found[1] is its
    assert not moved
    logits, _ = looks(CrossEntropy()).brought(few, targets, True)
    assert len(moved) == 2
    assert logits is not None
    assert not logits.requires_grad
