from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, Uniform
from lightning_as.plugin.forward import ForwardPass, describe, recompute_logits
from tests.helpers.tiny import Noisy, Tiny, TinyData, differences, normal, refused, tiny_dataset, tiny_fit

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
B = 6
INPUTS, TARGETS = normal(B, 8), torch.arange(B) % 4


class Random(Noisy):
    def forward(self, x: Tensor) -> Any:
        return self.net(x) + torch.rand(4)


def test_recomputing_leaves_statistics_flags_and_random_state_alone():
    module = Random()
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    logits = recompute_logits(module, (INPUTS, TARGETS))
    assert torch.equal(recompute_logits(module, (INPUTS, TARGETS)), logits)
    with refused("`forward` of Random, which failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"):
        recompute_logits(module, (normal(B, 7), TARGETS))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == flags
    assert differences(module.state_dict(), statistics) == []
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(logits, module.eval()(INPUTS))


class Two(Random):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


class Named(Random):
    def forward(self, x: Tensor, y: Any = None, scale: float = 1.0) -> Any:
        return {"logits": super().forward(x * scale)}


class Needy(Named):
    def forward(self, x: Tensor, labels: Tensor) -> Any:
        return super().forward(x)


class Open(Named):
    def forward(self, **batch: Any) -> Any:
        return super().forward(batch["x"]) | {"other": batch.keys()}


class Whole(Random):
    """It takes a batch as it is."""

    def forward(self, batch: Any) -> Tensor:
        return super().forward(batch.x)


class Probable(Random):
    """What is trained is the submodule's output, and not this."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).softmax(1), "more"


def by_module(module: Any, batch: Any) -> Tensor:
    return module.net(batch.x)


@pytest.mark.parametrize(
    ("make", "batch", "options"),
    [
        (Named, {"x": INPUTS, "y": TARGETS, "id": TARGETS}, {}),
        (Named, {"x": INPUTS, "labels": TARGETS}, {}),
        (Needy, {"x": INPUTS, "labels": TARGETS}, {}),
        (Open, {"x": INPUTS, "labels": TARGETS}, {}),
        (Tiny, {"input": INPUTS, "labels": TARGETS}, {"name": "net"}),  # as torch calls its argument
        (Tiny, (TARGETS, INPUTS), {"name": "net", "target_key": 0}),
        (Probable, (INPUTS, TARGETS), {"name": "net.0"}),
        (Whole, SimpleNamespace(x=INPUTS), {}),
        (Random, SimpleNamespace(x=INPUTS), {"forward": by_module}),
        (Random, SimpleNamespace(x=INPUTS), {"forward": partial(by_module, Tiny())}),
    ],
)
def test_what_gives_the_logits_of_a_batch(make: Any, batch: Any, options: dict[str, Any]):
    module = make()
    logits = recompute_logits(module, batch, **options)
    if "forward" in options and options["forward"] is not by_module:
        module = options["forward"].args[0]
    torch.manual_seed(0)
    part = module.eval().net[0] if make is Probable else module.eval().net
    with torch.no_grad(), torch.random.fork_rng():
        expected = part(INPUTS)
    noise = logits - expected  # what `Random` adds is the same for all rows
    torch.testing.assert_close(noise, noise[:1].expand_as(noise), rtol=0, atol=1e-5)


def test_the_targets_are_no_inputs_of_a_mapping_unless_they_are_needed():
    batch = {"x": INPUTS, "labels": TARGETS, "z": TARGETS}
    asked: list[Any] = []
    module = Open()
    module.register_forward_pre_hook(lambda _, inputs, named: asked.append(sorted(named)), with_kwargs=True)
    for key in (None, "z"):
        recompute_logits(module, batch, target_key=key)
    assert asked == [["x", "z"], ["labels", "x"]]


CALLS = "A forward pass of its own calls `forward` of "
PAIR = r" on the inputs of a pair \(inputs, targets\), or of a mapping with its arguments; the batch is "
REMEDY = ": say what gives its logits, `forward=lambda batch: …`, such as `lambda module, batch: "


@pytest.mark.parametrize(
    ("make", "batch", "message"),
    [
        (
            Random,
            (INPUTS, TARGETS, TARGETS),
            CALLS + "Random" + PAIR + "a tuple of 3" + REMEDY + r"module\(batch\[0\], ",
        ),
        (
            Random,
            {"a": INPUTS, "y": TARGETS},
            r"that are its arguments, \['x'\]; .*'a', 'y'" + REMEDY + r"module\(.*'a'",
        ),
        (Random, SimpleNamespace(x=INPUTS), "failed: .* a SimpleNamespace" + REMEDY + r"module\(batch.x\)"),
        (Tiny, {"x": INPUTS}, "which Tiny does not define; .*" + REMEDY + r"module.net\(batch\['x'\]\)"),
        (Tiny, (INPUTS, TARGETS), "which Tiny does not define; .*" + REMEDY + r"module.net\(batch\[0\]\)"),
        (Two, (INPUTS, TARGETS), "needs `forward` of Two to give the logits, but it gave a tuple of 2; .*" + REMEDY),
    ],
)
def test_what_cannot_be_recomputed(make: type[LightningModule], batch: Any, message: str):
    module = make()
    flags = [part.training for part in module.modules()]
    with refused(message):
        recompute_logits(module, batch)
    with refused("needs `forward` to give the logits, but it gave a int: return a tensor"):
        recompute_logits(module, batch, forward=lambda batch: 1)
    with pytest.raises(ZeroDivisionError):  # whose traceback says more
        recompute_logits(module, batch, forward=lambda batch: 1 / 0)
    assert [part.training for part in module.modules()] == flags
    assert describe([INPUTS]) == "a list of 1"


class Hooked(Tiny):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer.training
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]


class HookedData(TinyData):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 10, batch[1]]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return [batch[0].to(device) - 5, batch[1].to(device)]


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("module", [Tiny, Hooked])
@pytest.mark.parametrize("data", [TinyData, HookedData])
def test_a_batch_is_made_ready_as_the_loop_does(tmp_path: Path, module: Any, data: Any, precision: Any):
    changes: list[Tensor] = []

    def compare(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        raw = [part[trainer.train_dataloader.sampler.current.indices] for part in tiny_dataset().tensors]
        ready = ForwardPass(trainer, pl_module).ready(raw)
        assert differences(ready, list(batch)) == []
        assert ready[0].dtype == batch[0].dtype
        changes.append(raw[0] - ready[0].cpu())

    options: Any = {"callbacks": (LambdaCallback(on_train_batch_start=compare),), "precision": precision}
    tiny_fit(tmp_path, Uniform(), module, AdaptiveDataModule(data()), **options)
    assert len(changes) == 6
    assert bool((changes[0] == 0).all()) == (module is Tiny and data is TinyData)


def test_batch_hooks_can_tell_that_nothing_is_trained_on_a_batch_that_is_made_ready(tmp_path: Path):
    class Telling(Noisy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            modes.append([self.training, self.frozen.training])
            return batch

    def ready(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        ForwardPass(trainer, pl_module).ready(batch)

    modes = list[Any]()
    tiny_fit(tmp_path, Uniform(), Telling, callbacks=(LambdaCallback(on_train_batch_start=ready),))
    assert modes == [[True, False], [False, False]] * 6


def test_recomputed_losses_are_those_after_the_step(tmp_path: Path):
    def again(trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        expected.append(cross_entropy(recompute_logits(pl_module, batch), batch[1], reduction="none").cpu().double())

    class Forward(Noisy):
        def forward(self, x: Tensor) -> Any:
            return self.net(x)

    expected, ours = list[Tensor](), {"logits_from": None, "recompute": True}
    callbacks = (LambdaCallback(on_train_batch_end=again),)
    strategy = tiny_fit(tmp_path, None, Forward, ours=ours, callbacks=callbacks, max_epochs=3).strategy
    torch.testing.assert_close([losses for _, losses, _ in strategy.told], expected, rtol=1e-5, atol=1e-6)
