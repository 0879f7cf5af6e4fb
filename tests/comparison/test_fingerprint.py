import functools
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchmetrics.classification import MulticlassAccuracy

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, ClosenessSampling, OnlineBatchSelection, RHOLoss
from lightning_as.comparison.fingerprint import describe, describe_dataset, fingerprint
from tests.helpers.tiny import Tiny


class Colour(Enum):
    RED, BLUE = object(), object()


class Slots:
    __slots__ = ("gain",)

    def __init__(self, gain: float) -> None:
        self.gain = gain


class Own(nn.Module):
    """Keeps a value as modules of users do, out of sight of torch, beside what is another in each process."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.compiled = torch.compile(nn.Linear(2, 2), backend="eager")
        self.metric = MulticlassAccuracy(3)
        self._value = {"value": [value]}
        self._handle = self.net.register_forward_hook(lambda *_: None)
        self._words = {"a", "b", "c", "d"}
        self._generator, self._me = torch.Generator(), [self]


class Turned(Dataset[Any]):
    def __init__(self, transform: Any = None, strength: float = 1, root: str = "/here") -> None:
        self.transform, self.strength, self.root = transform, strength, root

    def __getitem__(self, index: int) -> Any:
        return index

    def __len__(self) -> int:
        return 4


def frozen() -> nn.Module:
    return nn.Linear(2, 2).requires_grad_(False)


def shifted(shift: float = 5.0) -> nn.Module:
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, shift)
    return module


def seeded_fingerprint(make: Any) -> str:
    torch.manual_seed(0)
    return fingerprint(make())


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
        (
            lambda: nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
            lambda: nn.BCEWithLogitsLoss(pos_weight=100 * torch.ones(1)),
        ),
        (lambda: nn.Linear(2, 2), frozen),
        (lambda: nn.Linear(2, 2), shifted),
        (Own, lambda: Own(2)),
        (lambda: Own(torch.zeros(2)), lambda: Own(torch.ones(2))),
        (lambda: Own(np.zeros(2)), lambda: Own(np.ones(2))),
        (lambda: Own(Slots(1)), lambda: Own(Slots(2))),
        (lambda: StochasticWeightAveraging(0.1, 0.5), lambda: StochasticWeightAveraging(0.1, 0.8)),
        (lambda: StochasticWeightAveraging(0.1), lambda: StochasticWeightAveraging(0.2)),
        (lambda: np.float32(1), lambda: np.float32(2)),
        (lambda: np.array([None, 1]), lambda: np.array([None, 2])),
        (lambda: torch.float32, lambda: torch.float64),
        (lambda: Colour.RED, lambda: Colour.BLUE),
        (lambda: range(3), lambda: range(4)),
        (lambda: nn.Sequential(nn.LazyLinear(2)), lambda: nn.Sequential(nn.LazyLinear(2, bias=False))),
        (lambda: Path("a"), lambda: Path("b")),
        (lambda: len, lambda: max),
    ],
)
def test_it_is_the_same_for_equal_parts_made_anew_and_another_for_others(one: Any, other: Any):
    assert seeded_fingerprint(one) == seeded_fingerprint(one)
    assert seeded_fingerprint(one) != seeded_fingerprint(other)
    assert " at 0x" not in describe(one())


def test_an_order_of_options_does_not_count():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "within", [lambda data: data, lambda data: Subset(Subset(data, [0, 1]), [0]), lambda data: ConcatDataset([data])]
)
def test_what_a_data_set_does_with_its_samples_counts_wherever_it_lies(within: Any):
    def described(*options: Any) -> str:
        return describe_dataset(within(Turned(*options)))

    assert described() == described(None, 1, "/there")
    assert len({described(), described(None, 2), described(Slots(1)), described(Slots(2)), described(len)}) == 5


@pytest.mark.slow
def test_it_is_the_same_in_the_next_process():
    code = "from tests.comparison.test_fingerprint import *; print(seeded_fingerprint(lambda: [Own(2), Colour.RED]))"
    found = {
        subprocess.run(
            [sys.executable, "-c", f"{more}{code}"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, more in (("1", ""), ("2", "from torch import nn; nn.ReLU().register_forward_hook(print); "))
    }
    assert len(found) == 1


def test_what_lies_in_itself_ends():
    class Loop:
        pass

    loop: Any = Loop()
    loop.me = [loop]
    assert describe(loop).count("Loop") > 1
