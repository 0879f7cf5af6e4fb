import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, ClosenessSampling, OnlineBatchSelection, RHOLoss
from lightning_as.comparison.fingerprint import describe, fingerprint
from tests.helpers.tiny import Tiny


def network(dropout: float = 0.1, width: int = 4, smoothing: float = 0.0) -> nn.Module:
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    return nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, width), nn.Dropout(dropout)), "loss": loss})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (network, lambda: network(dropout=0.2)),
        (network, lambda: network(width=5)),
        (network, lambda: network(smoothing=0.1)),
        (Tiny, lambda: Tiny(lr=0.2)),
        (ClosenessSampling, lambda: ClosenessSampling(relaxation=0)),
        (AdaptiveSampling, lambda: AdaptiveSampling(score="closeness")),
        (OnlineBatchSelection, lambda: OnlineBatchSelection(s_start=50)),
        (lambda: RHOLoss([0.1, 0.2]), lambda: RHOLoss([0.1, 0.3])),
        (AdaptiveSamplingCallback, lambda: AdaptiveSamplingCallback(logits_from="net")),
        (lambda: EarlyStopping("val/loss"), lambda: EarlyStopping("val/loss", patience=9)),
        (lambda: {"max_epochs": 1, "precision": 32}, lambda: {"max_epochs": 2, "precision": 32}),
        (lambda: functools.partial(Tiny, lr=0.1), lambda: functools.partial(Tiny, lr=0.2)),
        (lambda: torch.arange(4), lambda: torch.arange(4) + 1),
        (lambda: {1, 2}, lambda: {1, 3}),
        (lambda: Path("a"), lambda: Path("b")),
        (lambda: len, lambda: max),
    ],
)
def test_it_is_the_same_for_equal_parts_made_anew_and_another_for_others(one: Any, other: Any):
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()) != fingerprint(other())
    assert " at 0x" not in describe(one())


def test_weights_do_not_count_and_an_order_of_options_neither():
    assert fingerprint(Tiny(), {"a": 1, "b": 2}) == fingerprint(Tiny(), {"b": 2, "a": 1})


def test_what_lies_in_itself_ends():
    class Loop:
        pass

    loop: Any = Loop()
    loop.me = [loop]
    assert describe(loop).count("Loop") > 1
