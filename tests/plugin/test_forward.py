"""Forward passes beside the training: of what the loop makes of a batch, and unnoticed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, Uniform
from lightning_as.plugin.forward import ForwardPass, describe, recompute_logits
from tests.helpers.tiny import Tiny, TinyData, differences, normal, tiny_dataset, tiny_fit

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
B, C = 6, 4
INPUTS, TARGETS = normal(B, 8), torch.arange(B) % C


class Noisy(Tiny):
    """With everything that a second forward pass could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, C))
        self.frozen = nn.BatchNorm1d(C).eval()

    def forward(self, x: Tensor) -> Any:
        return self.frozen(self.net(x)) + torch.rand(C)


def test_recomputing_leaves_statistics_flags_and_random_state_alone():
    module = Noisy()
    module.net[2].eval()
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    logits = recompute_logits(module, (INPUTS, TARGETS))
    assert torch.equal(recompute_logits(module, (INPUTS, TARGETS)), logits)
    with pytest.raises(RuntimeError):
        recompute_logits(module, (normal(B, 7), TARGETS))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == flags
    assert differences(module.state_dict(), statistics) == []
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(logits, module.eval()(INPUTS))


class Two(Noisy):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


PAIR = r"A forward pass of its own calls the module on the inputs of a pair \(inputs, targets\), but the batch is "


@pytest.mark.parametrize(
    ("make", "batch", "message"),
    [
        (Noisy, (INPUTS, TARGETS, TARGETS), PAIR + "a tuple of 3: use `logits_from`"),
        (Noisy, {"x": INPUTS, "y": TARGETS}, PAIR + "a mapping with 'x', 'y': use `logits_from`"),
        (Noisy, INPUTS, PAIR + "a Tensor: use `logits_from`"),
        (Tiny, (INPUTS, TARGETS), "which Tiny does not define: name the submodule that takes the inputs and gives the"),
        (Two, (INPUTS, TARGETS), "needs `forward` of Two to give the logits, but it gave a tuple: use `logits_from`"),
    ],
)
def test_what_cannot_be_recomputed(make: type[LightningModule], batch: Any, message: str):
    module = make()
    flags = [part.training for part in module.modules()]
    with pytest.raises(MisconfigurationException, match=message):
        recompute_logits(module, batch)
    assert [part.training for part in module.modules()] == flags
    assert describe([INPUTS]) == "a list of 1"


class Hooked(Tiny):
    """Changes its batches before and after they come to the device."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer.training
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]


class HookedData(TinyData):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 10, batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return [batch[0] - 5, batch[1]]


class Comparing(Callback):
    """Makes each batch ready that the loop makes ready."""

    def __init__(self) -> None:
        self.compared: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        callback = next(one for one in trainer.callbacks if isinstance(one, AdaptiveSamplingCallback))
        indices = callback._fit.sampler.current.indices  # pyright: ignore[reportOptionalMemberAccess]
        raw = [part[indices] for part in tiny_dataset().tensors]
        ready = ForwardPass(trainer, pl_module).ready(raw)
        assert differences(ready, list(batch)) == []
        assert ready[0].dtype == batch[0].dtype
        self.compared.append(raw[0] - ready[0])


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("module", [Tiny, Hooked])
@pytest.mark.parametrize("data", [TinyData, HookedData])
def test_a_batch_is_made_ready_as_the_loop_does(tmp_path: Path, module: Any, data: Any, precision: Any):
    comparing = Comparing()
    tiny_fit(tmp_path, Uniform(), module, AdaptiveDataModule(data()), callbacks=(comparing,), precision=precision)
    assert len(comparing.compared) == 6
    assert bool((comparing.compared[0] == 0).all()) == (module is Tiny and data is TinyData)


class Reading(Uniform):
    """Wants the losses, and keeps them."""

    reads = frozenset({"losses"})

    def learn(self, draw: Any, losses: Tensor, bounds: Tensor) -> None:
        self.losses = [*getattr(self, "losses", []), losses]


class Again(Callback):
    """Computes the losses after each step by means of its own."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.eval()
        with torch.random.fork_rng(), torch.no_grad():
            self.losses.append(cross_entropy(pl_module(batch[0]), batch[1], reduction="none").double())
        pl_module.train()
        pl_module.frozen.eval()


def test_recomputed_losses_are_those_after_the_step_which_the_training_does_not_notice(tmp_path: Path):
    again = Again()
    ours: dict[str, Any] = {"logits_from": None, "recompute": True}
    plain = tiny_fit(tmp_path, Uniform(), Noisy, ours={"logits_from": None}, max_epochs=3)
    recomputed = tiny_fit(tmp_path, Reading(), Noisy, ours=ours, callbacks=(again,), max_epochs=3)
    torch.testing.assert_close(recomputed.strategy.losses, again.losses)
    assert differences(recomputed.module.state_dict(), plain.module.state_dict()) == []
