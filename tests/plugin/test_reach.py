from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn.functional import cross_entropy

from tests.helpers.tiny import Tiny, tiny_fit


class Parts(Tiny):
    """A body and heads, of which two can be after each other, and some can be penalized."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.head(self.body(batch[0]).relu())
        return {"losses": (losses := cross_entropy(logits, batch[1], reduction="none")), "loss": losses.mean()}


class After(Parts):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.other(self.head(self.body(batch[0]).relu())), batch[1])


class Penalized(Parts):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"] + self.head.weight.square().sum()


@pytest.mark.parametrize(
    ("make", "logits_from", "unreached"),
    [
        (Parts, "head", None),
        (Parts, "body", "head.weight, head.bias"),
        (After, "other", None),
        (After, "head", "other.weight, other.bias"),
        (Penalized, "head", "head.weight"),
    ],
)
def test_what_weights_do_not_reach_is_named_once(tmp_path: Path, make: Any, logits_from: str, unreached: str | None):
    ours = {"logits_from": logits_from, "weights": "unbiased", "per_sample_loss": lambda z, y: z.square().sum(1)}
    messages = [one for one in tiny_fit(tmp_path, make=make, ours=ours).messages if "`weights` scale" in one]
    assert len(messages) == (unreached is not None)
    assert all(f"does not come through it: {unreached}. For a penalty" in one for one in messages)
