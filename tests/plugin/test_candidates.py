from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_as.plugin.candidates import Candidates, find_submodule, submodules
from tests.helpers.tiny import normal, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
B, C = 6, 4


class Block(nn.Module):
    """As of a transformer: most of what it has gives a row per instance, but logits come from its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, C)
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(40)))
        self.pooler, self.loss, self.unused = nn.Linear(8, 8), nn.CrossEntropyLoss(), nn.Linear(8, C)
        self.scripted = torch.jit.script(nn.Identity())

    def forward(self, x: Tensor) -> Any:
        logits = self.classifier(self.pooler(self.scripted(self.layers(x))))
        self.loss(logits, torch.zeros(len(x), dtype=torch.int64))
        return SimpleNamespace(logits=logits)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Block()


def test_what_gave_a_logit_per_class_comes_first_then_what_was_called_last():
    module = Model()
    for size, labels, first in ((B, torch.arange(C), "model.classifier, model.pooler, model.layers, "), (B, None, "")):
        candidates = Candidates(module, size, labels)
        module.model(normal(B, 8))
        candidates.remove()
        assert str(candidates).startswith(first or "model.classifier, model.pooler, ")
        assert str(candidates).endswith(", … (44 in all)")
        assert "loss" not in str(candidates)
    assert not any(part._forward_hooks for part in module.modules())
    candidates = Candidates(module, B + 1)  # a row for each of which nothing gives
    module.model(normal(B, 8))
    assert str(candidates) == submodules(module)


def test_unseen_the_last_layers_come_first_and_a_wrong_name_is_answered_by_near_ones():
    module = Model()
    assert submodules(module).startswith("model.unused, model.pooler, model.layers.39, ")
    assert submodules(module).endswith(", … (47 in all)")
    assert submodules(nn.Linear(1, 1)) == "none"
    assert submodules(nn.Sequential(nn.Linear(1, 1), nn.ReLU())) == "0, 1"
    assert find_submodule(module, "model.pooler") is module.model.pooler
    with refused(r"`logits_from='model.clasifier'` is no submodule of Model. Did you mean 'model.classifier'"):
        find_submodule(module, "model.clasifier")
    with refused(r"`logits_from='xyz'` is no submodule of Model. It has: model.unused, "):
        find_submodule(module, "xyz")
