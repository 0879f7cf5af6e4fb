from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader
from lightning_as.core.record import LABEL, LOSS
from lightning_as.losses import BinaryCrossEntropy, CrossEntropy
from lightning_as.plugin.observation import Observer
from tests.helpers.gradients import own_gradients
from tests.helpers.recording import Recording
from tests.helpers.tiny import Manual, Tiny, normal, refused, tiny_fit

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
B, C, N = 6, 4, 48
INPUTS, TARGETS = normal(B, 8), torch.arange(B) % C
BATCH = (INPUTS, TARGETS)


class Net(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def observer(module: Any = None, size: int = B, weights: Tensor | None = None, **options: Any) -> Any:
    """An observer, with a hook that has seen the training pass of a batch if `logits_from` asks for it."""
    defaults = {"logits_from": None, "recompute": None, "target_key": None}
    defaults |= {"per_sample_loss": CrossEntropy(), "gradient_bound": None}
    module = Net() if module is None else module
    result = Observer(module, **{**defaults, **options})
    result.arm(size, weights, scale=True)
    module(INPUTS)
    return result


def observed(observing: Observer, outputs: Any, batch: Any = BATCH, **options: Any) -> Any:
    found: Any = observing.observe(outputs, batch, B, **options)
    assert not any(row.requires_grad for row in found[:2])
    return found


def by_autograd(logits: Tensor, targets: Tensor = TARGETS, loss: Any = None) -> tuple[Tensor, Tensor]:
    logits = logits.detach().double().requires_grad_()
    losses = cross_entropy(logits, targets, reduction="none") if loss is None else loss(logits, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient.square().sum(1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("logits_from", [None, "net"])
def test_logits_are_returned_by_the_step_seen_by_the_hook_or_recomputed(logits_from: str | None, recompute: bool):
    module, own, losses = Net(), normal(B, C, seed=5).requires_grad_(), torch.rand(B).requires_grad_()
    own_pass = (lambda batch: module(batch[0])) if recompute else None
    observing = observer(module, logits_from=logits_from, recompute=own_pass)
    sources: list[tuple[dict[str, Any], Tensor]] = [({"logits": own}, own)]
    if observing.hook is not None:
        sources.append(({}, observing.hook.logits))
    elif recompute:
        sources.append(({}, module(INPUTS)))
    for outputs, logits in sources:
        expected = by_autograd(logits)
        for given in ({}, {"losses": losses}):
            found = observed(observing, {"loss": 0, **outputs, **given})
            torch.testing.assert_close(found.losses.double(), losses.detach().double() if given else expected[0])
            torch.testing.assert_close(found.bounds, expected[1], rtol=1e-5, atol=1e-7)
    if len(sources) == 2:
        assert torch.equal(observed(observing, torch.tensor(1.0)).bounds, observed(observing, {}).bounds)


def test_losses_and_bounds_are_those_of_the_functions_and_targets_that_are_named():
    logits, targets = normal(B, 1), (TARGETS % 2).float()
    for loss in (BinaryCrossEntropy(pos_weight=3.0), lambda z, y: (z[:, 0] - y).pow(4)):
        losses, bounds, *_ = observed(observer(per_sample_loss=loss), {"logits": logits}, (INPUTS, targets))
        expected = by_autograd(logits, targets, loss)
        torch.testing.assert_close((losses.double(), bounds.double()), expected, rtol=1e-5, atol=1e-6)
    own = normal(B, C).requires_grad_()
    bounds = observed(observer(gradient_bound=lambda z, y: z.sum(1) + y), {"logits": own}).bounds
    assert torch.equal(bounds, own.detach().sum(1) + TARGETS)
    batch = {"labels": (TARGETS + 1) % C, "fine": TARGETS}
    found = observed(observer(target_key="fine"), {"logits": own}, batch, labelled=True)
    assert found.labels is TARGETS
    torch.testing.assert_close((found.losses.double(), found.bounds), by_autograd(own), rtol=1e-5, atol=1e-6)


def test_what_nobody_reads_is_zero_and_needs_nothing():
    loss_alone = observer(reads=frozenset({"losses"}))
    losses, bounds, *_ = observed(loss_alone, {"logits": normal(B, C), "losses": torch.ones(B)}, "no targets here")
    assert (losses.tolist(), bounds.tolist()) == ([1.0] * B, [0.0] * B)
    nothing = observer(reads=frozenset())
    assert [row.tolist() for row in observed(nothing, None, "nothing here")[:2]] == [[0.0] * B] * 2
    assert observed(nothing, None, labelled=True).labels is TARGETS
    before_a_backward_pass = observer(logits_from="net", gradient_bound="autograd")
    assert before_a_backward_pass.observe({}, BATCH, B) is None


def test_losses_that_nobody_reads_are_shown_where_there_is_one_of_each():
    logits, nothing = normal(B, C), observer(reads=frozenset())
    for given, expected in (
        ({"losses": [100.0] * B}, torch.full((B,), 100.0)),
        ({"losses": torch.full((B, 1), 100.0), "logits": logits}, torch.full((B,), 100.0)),
        ({"losses": torch.ones(B, 2), "logits": logits}, cross_entropy(logits, TARGETS, reduction="none")),
        ({"losses": "by another name", "logits": logits}, cross_entropy(logits, TARGETS, reduction="none")),
        ({"losses": torch.ones(B - 1)}, torch.full((B,), torch.nan)),
    ):
        found = observed(nothing, given)
        torch.testing.assert_close(found.look[LOSS].float(), expected, equal_nan=True)
        assert torch.equal(found.look[LABEL].long(), TARGETS)
        assert found.losses.tolist() == [0.0] * B


NO_LOGITS = r", and no logits\. Either .*logits_from=…\), one of net.2, .*net; or return {'loss': .*recompute=True\)\."
LOSSES = "The losses must be one for each of the 6 instances drawn, got the shape "
LOGITS = "The logits must have one row for each of the 6 instances drawn, got "
HOOK = "`logits_from='net'` gave no output with a row per instance in the training step: name .*, one of net.2, .*net"


@pytest.mark.parametrize(
    ("options", "outputs", "message"),
    [
        ({}, {"loss": 0, "losses": torch.rand(B)}, r"of Net gave \['loss', 'losses'\]" + NO_LOGITS),
        ({}, None, r"`training_step` of Net gave \[\]" + NO_LOGITS),
        ({}, {"logits": normal(B - 1, C)}, LOGITS + r"\(5, 4\)"),
        ({}, {"logits": torch.tensor(1.0)}, LOGITS + r"\(\)"),
        ({}, {"logits": normal(B, C), "losses": torch.rand(B, 2)}, LOSSES + r"\(6, 2\): use `reduction='none'`"),
        ({"gradient_bound": lambda z, y: z.sum()}, {"logits": normal(B, C)}, r"`gradient_bound` must give .*\(\)"),
        ({"logits_from": "net", "size": B - 1}, {"loss": 0}, HOOK),
        # Weights that have found no output to scale are missing even if the logits are not.
        ({"logits_from": "net", "size": B - 1, "weights": torch.ones(B - 1)}, {"logits": normal(B, C)}, HOOK),
    ],
)
def test_what_is_missing_or_not_one_per_instance(options: dict[str, Any], outputs: Any, message: str):
    with refused(message):
        observer(**options).observe(outputs, BATCH, B)


def test_an_observer_that_cannot_be_leaves_no_hook_behind():
    module, linear = Net(), frozenset({"linear_bounds"})
    with refused("`logits_from='tail'` is no submodule of Net"):
        observer(module, reads=linear, logits_from="tail")
    with refused("`gradient_bound` is of the logits, but the strategy goes by the gradients of all linear layers"):
        observer(module, reads=linear, logits_from="net", gradient_bound="autograd")
    assert all(len(part._forward_hooks) == 0 for part in module.modules())


def test_labels_are_targets_of_one_whole_number_each():
    for targets in (TARGETS, TARGETS[:, None], TARGETS.int(), TARGETS > 1):
        labels = observer().labels((INPUTS, targets), B)
        assert labels.tolist() == targets.flatten().tolist()
    for targets in (TARGETS.float(), TARGETS.expand(2, B).T, list(range(B)), torch.tensor(1)):
        assert observer().labels((INPUTS, targets), B) is None
    assert observer().labels((INPUTS, TARGETS, TARGETS), B) is None  # which may not be needed
    with refused("A batch of 6 was drawn, but a tuple of 2 has 5 targets: each position in the data set must give one"):
        observer().labels((INPUTS, TARGETS[:5]), B)


DATA = TensorDataset(normal(N, 8, seed=1), torch.arange(N) % C)


class Weighing(Tiny):
    importance_weights: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return (losses if self.importance_weights is None else losses * self.importance_weights).mean()


class Linear(Recording):
    reads = frozenset({"losses", "linear_bounds"})


def half_precision() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)  # pyright: ignore
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)], "accumulate_grad_batches": 3}


SETTINGS: dict[str, tuple[type[Tiny], Any, float]] = {
    "plain, clipped": (Tiny, lambda: {"gradient_clip_val": 1e-3}, 1e-5),
    "float64, accumulated": (Tiny, lambda: {"precision": "64-true", "accumulate_grad_batches": 3}, 1e-6),
    "scaled half, accumulated": (Tiny, half_precision, 0.05),
    "manual": (Manual, lambda: {}, 1e-5),
    "weighing by itself": (Weighing, lambda: {}, 1e-5),
}


@pytest.mark.parametrize(("kind", "options", "tolerance"), SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("weights", ["none", "unbiased"])
@pytest.mark.parametrize("gradients", ["logits", "linear"])
def test_observed_gradients_are_those_of_each_sample_s_own_loss(
    tmp_path: Path, kind: type[Tiny], options: Any, tolerance: float, weights: str, gradients: str
):
    ours = {"weights": weights, "gradient_bound": "autograd" if gradients == "logits" else None}
    strategy: Recording = (Recording if gradients == "logits" else Linear)(beta=2)
    module, copy, expected = kind(), kind(), list[Tensor]()

    def before(_: nn.Module, inputs: Any) -> None:
        if module.training and torch.is_grad_enabled():
            copy.to(inputs[0].dtype).load_state_dict(module.state_dict())
            targets = DATA.tensors[1][sampler.current.indices]
            wide = [] if gradients == "logits" else list(copy.parameters())
            with torch.autocast("cpu", enabled=False):
                expected.append(own_gradients(copy.net, inputs[0], targets, wide))

    module.net.register_forward_pre_hook(before)
    loader = AdaptiveDataLoader(DATA, B, seed=0)
    sampler: Any = loader.sampler
    tiny_fit(tmp_path, strategy, lambda: module, loader, ours=ours, max_epochs=2, **options())
    assert len(strategy.told) == 2 * N // B
    passes = len(expected) // len(strategy.told)  # through the module in a step, of which the last counts
    assert any(float(draw.probabilities.max()) > 1.1 / N for draw, _, _ in strategy.told)  # and so have the weights
    for (_, losses, bounds), norms in zip(strategy.told, expected[passes - 1 :: passes], strict=True):
        torch.testing.assert_close(bounds, norms, rtol=tolerance, atol=tolerance / 100)
        assert float(losses.min()) > 0
        assert float(bounds.min()) < 0.95 * float(bounds.max())
    assert sum(len(part._forward_hooks) for part in module.modules()) == 1  # that of the Watch


class Apart(Tiny):
    """Its loss depends on no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.ones(8))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net(batch[0])
        return (batch[0] * self.other).square().mean()


@pytest.mark.parametrize(
    ("strategy", "bound", "message"),
    [
        (Recording, "autograd", "the output of 'net', which `gradient_bound='autograd'` needs: name a submodule whose"),
        (Linear, None, "any linear layer, which the strategy needs: use another"),
    ],
)
def test_a_gradient_that_does_not_come_by(tmp_path: Path, strategy: Any, bound: Any, message: str):
    with refused(f"No gradient came back to {message}"):
        tiny_fit(tmp_path, strategy(), Apart, ours={"gradient_bound": bound})
