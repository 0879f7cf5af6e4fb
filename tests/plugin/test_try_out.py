from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    OnlineBatchSelection,
    SelectiveBackprop,
    StaticImportanceSampling,
    Strategy,
    StratifiedSampling,
    Uniform,
    UpperBoundImportanceSampling,
)
from tests.helpers.recording import Recording
from tests.helpers.tiny import BATCH, EPOCH, Tiny, refused, tiny_dataset, tiny_fit

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Mapped(Tiny):
    """Its batches are what `as_form` makes of a pair; counts its steps."""

    steps = 0

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(x * mask)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        x, mask, y = batch if isinstance(batch, list) else (batch["x"], batch["mask"], batch["y"])
        return cross_entropy(self(x, mask), y)


TRIPLES = TensorDataset(tiny_dataset().tensors[0], torch.ones(96, 8), tiny_dataset().tensors[1])
MAPPINGS = [dict(zip(("x", "mask", "y"), row, strict=True)) for row in TRIPLES]


@pytest.mark.parametrize(
    ("strategy", "ours"),
    [
        (lambda: OnlineBatchSelection(recompute_every=1), {}),
        (SelectiveBackprop, {}),
        (lambda: UpperBoundImportanceSampling(threshold=1e6), {"weights": "none"}),  # does not score for now
        (Uniform, {"logits_from": None, "recompute": True}),
        (Recording, {"logits_from": None, "recompute": True}),
    ],
)
def test_whether_scores_can_be_had_is_known_before_the_first_step(tmp_path: Path, strategy: Any, ours: dict[str, Any]):
    def fit(data: Any, **more: Any) -> int:
        module, loader = Mapped(), AdaptiveDataLoader(data, BATCH, bins=None)
        target_key = 2 if data is TRIPLES else "y"
        options = {**ours, "target_key": target_key, **more}
        tiny_fit(tmp_path, strategy(), lambda: module, loader, options, max_epochs=3)
        return module.steps

    assert fit(MAPPINGS) == 3 * EPOCH  # the keys are arguments of `forward`
    assert fit(TRIPLES, forward=lambda module, batch: module(batch[0], batch[1])) == 3 * EPOCH
    if strategy is Uniform:  # reads nothing
        assert fit(TRIPLES) == 3 * EPOCH
        return
    steps = []
    with (
        refused(r"the batch is a list of 3: say what gives its logits, `forward=lambda batch: …`, such as"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(Mapped, "training_step", lambda *_: steps.append(1))
        fit(TRIPLES)
    assert steps == []


@pytest.mark.parametrize(
    "strategy",
    [
        OnlineBatchSelection(recompute_every=0),
        StaticImportanceSampling(constants=[1.0] * 96),
        StratifiedSampling(clusters_per_bin=1, deviation="gradients"),
    ],
)
def test_nothing_is_tried_for_options_that_want_no_scores(tmp_path: Path, strategy: Strategy):
    options: dict[str, Any] = {"target_key": 2, "weights": "none"}
    loader = AdaptiveDataLoader(TRIPLES, BATCH, bins=None)
    assert tiny_fit(tmp_path, strategy, Mapped, loader, options).module.steps == EPOCH
