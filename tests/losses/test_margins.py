import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_as.losses import BinaryCrossEntropy, Criterion, CrossEntropy, MeanSquaredError, look_at
from tests.helpers.statistics import seeded


def naive(logits: list[list[float]], labels: list[int]) -> list[list[float]]:
    """From the definitions, sample by sample: squared norm of the gradient, confidence, margin, label, other."""
    rows = []
    for row, label in zip(logits, labels, strict=True):
        if not 0 <= label < len(row):
            rows.append([math.nan] * 5)
            continue
        others = {at: value for at, value in enumerate(row) if at != label}
        other = max(others, key=lambda at: others[at])
        shares = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        squared = sum((share - (at == label)) ** 2 for at, share in enumerate(shares))
        rows.append([squared, shares[label], row[label] - row[other], label, other])
    return rows


def check(found: Tensor | None, expected: list[list[float]]) -> None:
    assert found is not None
    assert bool(found[0].isnan().all())
    torch.testing.assert_close(found[1:], torch.tensor(expected, dtype=torch.float64).T, equal_nan=True)


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 5, 2000])
def test_of_classes_they_are_as_defined(dtype: torch.dtype, classes: int):
    logits = torch.randn(12, classes, generator=seeded(), requires_grad=True).to(dtype)
    labels = torch.randint(classes, (12,), generator=seeded(1))
    labels[3], labels[5] = -100, 1
    expected = naive(logits.double().tolist(), labels.tolist())
    check(look_at(CrossEntropy(), logits, labels), expected)
    check(
        look_at(CrossEntropy(ignore_index=1), logits, labels[:, None].to(torch.int32)),
        naive(logits.double().tolist(), labels.masked_fill(labels == 1, -1).tolist()),
    )


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(
    "loss",
    [BinaryCrossEntropy(), Criterion(nn.BCEWithLogitsLoss()), Criterion(functional.binary_cross_entropy_with_logits)],
)
def test_of_one_logit_the_other_class_has_the_logit_zero(loss: Any):
    logits = torch.tensor([1.5, -2.0, 0.3, 0.7], dtype=torch.float64)
    for targets in (torch.tensor([1.0, 0.0, 0.0, 0.5]), torch.tensor([[1.0], [0.0], [0.0], [0.5]])):
        found = look_at(loss, logits[:, None], targets)
        expected = naive([[0.0, value] for value in logits.tolist()], [1, 0, 0, -1])
        check(found, [[row[0] / 2, *row[1:]] for row in expected])
    assert look_at(loss, logits[:, None], torch.tensor([True, False, True, True])) is not None


@pytest.mark.parametrize(
    ("loss", "logits", "targets"),
    [
        (MeanSquaredError(), torch.zeros(3, 1), torch.zeros(3)),
        (CrossEntropy(), torch.zeros(3, 4), torch.full((3, 4), 0.25)),
        (CrossEntropy(), torch.zeros(3, 4, 2), torch.zeros(3, 2, dtype=torch.int64)),
        (CrossEntropy(), torch.zeros(3, 4), {"y": torch.zeros(3)}),
        (BinaryCrossEntropy(), torch.zeros(3, 4), torch.zeros(3, 4)),
    ],
)
def test_where_no_sample_has_one_label_there_are_none(loss: Any, logits: Tensor, targets: Any):
    assert look_at(loss, logits, targets) is None
