"""Against the gradients of one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, Draw
from lightning_as.plugin.hooks import LinearGradients, LogitsHook
from tests.helpers.recording import Recording

MakeTrainer = Callable[..., Trainer]
B, C, N = 6, 4, 48


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


DATA = TensorDataset(normal(N, 3), torch.arange(N) % C)


class Net(LightningModule):
    """Linear layers with and without a bias, one that is frozen in part, a convolution, and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 2, 1)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 7, bias=False), nn.Tanh())
        self.middle = nn.Linear(7, 7)
        self.middle.weight.requires_grad = False
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.head = nn.Linear(7, C)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.conv(x.unsqueeze(1)).flatten(1))
        return self.head(self.frozen(self.middle(features).relu_()).tanh())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def linear_parameters(module: nn.Module) -> list[Tensor]:
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return [p for layer in layers for p in layer.parameters() if p.requires_grad]


def one_at_a_time(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The squared norm of each sample's own gradient."""
    found = []
    for x, y in zip(inputs, targets, strict=True):
        loss = cross_entropy(module(x[None]), y[None])
        gradients = torch.autograd.grad(loss, linear_parameters(module))
        found.append(sum(float(gradient.double().square().sum()) for gradient in gradients))
    return torch.tensor(found, dtype=torch.float64)


def norms(gradients: LinearGradients) -> Tensor:
    squares = gradients.squared_norms()
    assert squares is not None
    return squares


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_norms_are_those_of_one_sample_at_a_time(dtype: torch.dtype, tolerance: float):
    module, inputs, targets = Net().to(dtype), normal(B, 3, dtype=dtype), torch.arange(B) % C
    expected = one_at_a_time(module, inputs, targets)
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    cross_entropy(module(inputs), targets, reduction="sum").backward()
    torch.testing.assert_close(norms(gradients), expected, rtol=tolerance, atol=0)
    gradients.arm(B, None)
    cross_entropy(module(inputs), targets).backward()  # of a mean
    torch.testing.assert_close(norms(gradients) * B**2, expected, rtol=tolerance, atol=0)


def test_by_hand():
    class One(LightningModule):
        def __init__(self, bias: bool) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1, bias=bias)

    for bias in (True, False):
        module = One(bias)
        gradients = LinearGradients(module)
        gradients.arm(2, None)
        y = module.layer(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        (y * torch.tensor([[2.0], [5.0]])).sum().backward()
        assert norms(gradients).tolist() == [4 * (25 + bias), 25 * (1 + bias)]


@pytest.mark.parametrize("name", ["head", "body", "body.2", None])
def test_the_weights_are_divided_out_wherever_they_come_in(name: str | None):
    """At the logits, in the middle with nothing to train behind it, or in the loss itself."""
    module, inputs, targets = Net().double(), normal(B, 3, dtype=torch.float64), torch.arange(B) % C
    weights = torch.tensor([0.1, 1.0, 7.0, 0.5, 2.0, 3.0])
    for part in () if name in ("head", None) else (module.head, module.middle):
        part.requires_grad_(False)
    expected = one_at_a_time(module, inputs, targets)
    hook = None if name is None else LogitsHook(module, name, keep_gradient=False)  # before, in order of making
    gradients = LinearGradients(module)
    gradients.arm(B, weights)
    if hook is not None:
        hook.arm(B, weights)
    losses = cross_entropy(module(inputs), targets, reduction="none")
    (losses if hook else losses * weights).sum().backward()
    torch.testing.assert_close(norms(gradients), expected, rtol=1e-6, atol=0)


def test_nothing_is_seen_unless_it_is_armed_and_there_is_a_graph():
    module = Net()
    gradients = LinearGradients(module)
    module(normal(B, 3)).sum().backward()
    assert gradients.squared_norms() is None
    gradients.arm(B, None)
    with torch.no_grad():
        module(normal(B + 1, 3))
    with torch.inference_mode():
        module(normal(B, 3))
    assert gradients.squared_norms() is None
    module(normal(B, 3)).sum().backward()
    assert gradients.squared_norms() is not None
    gradients.disarm()
    assert gradients.squared_norms() is None
    module(normal(B, 3)).sum().backward()
    assert gradients.squared_norms() is None


def test_of_several_backward_passes_the_last_counts():
    module, inputs = Net(), normal(B, 3)
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    module(inputs).square().sum().backward()
    first = norms(gradients)
    module(inputs).sum().backward()
    second = norms(gradients)
    module(inputs).square().sum().backward()
    assert torch.equal(norms(gradients), first)
    assert not torch.allclose(second, first)


def test_a_layer_without_a_part_in_the_loss_adds_nothing():
    module, inputs = Net(), normal(B, 3)
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    module(inputs)  # of which nobody makes a loss
    assert gradients.squared_norms() is None


def test_a_compiled_module_is_seen():
    module, inputs, targets = Net().double(), normal(B, 3, dtype=torch.float64), torch.arange(B) % C
    expected = one_at_a_time(module, inputs, targets)
    module.compile(backend="aot_eager")
    gradients = LinearGradients(module)
    for _ in range(2):
        gradients.arm(B, None)
        cross_entropy(module(inputs), targets, reduction="sum").backward()
        torch.testing.assert_close(norms(gradients), expected, rtol=1e-12, atol=0)
    torch.compiler.reset()


def raises(message: str) -> Any:
    return pytest.raises(MisconfigurationException, match=message)


class Convolutions(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv1d(1, 1, 1)


def test_a_module_without_linear_layers_is_refused():
    with raises(r"but Convolutions has no torch.nn.Linear: use a strategy that goes by losses"):
        LinearGradients(Convolutions())


@pytest.mark.parametrize("shape", [(B, 5, 7), (B + 1, 7), (7,), (1, 7)])
def test_a_layer_that_is_not_given_rows_is_refused_by_name(shape: tuple[int, ...]):
    module = Net()
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    with raises(rf"the layer 'head' was given \({', '.join(map(str, shape))},?\) and not one row for each of the 6"):
        module.head(normal(*shape))
    module.frozen(normal(*shape))  # which does not count
    module.head.requires_grad_(False)
    module.head(normal(*shape))


def test_a_layer_that_is_called_twice_is_refused_by_name():
    module, inputs = Net(), normal(B, 3)
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    module(inputs)
    with raises("The layer 'body.0' was called twice before its backward pass"):
        module(inputs)
    gradients.arm(B, None)
    module(inputs)  # the next batch has nothing to do with it


def test_removed_it_leaves_the_module_as_it_was():
    module = Net()
    gradients = LinearGradients(module)
    gradients.arm(B, None)
    gradients.remove()
    assert all(len(part._forward_hooks) == 0 for part in module.modules())
    module(normal(B, 3)).sum().backward()
    assert gradients.squared_norms() is None


# --- With a Trainer ---


class Linear(Recording):
    """Wants to be told of all linear layers."""

    gradients = "linear"


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        optimizer.zero_grad()  # pyright: ignore[reportAttributeAccessIssue]
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()  # pyright: ignore[reportAttributeAccessIssue]
        return loss


class Weighing(Net):
    """Multiplies its losses by the weights itself."""

    importance_weights: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = cross_entropy(self(batch[0]), batch[1], reduction="none")
        return (losses if self.importance_weights is None else losses * self.importance_weights).mean()


def half_precision() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)  # pyright: ignore
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


SETTINGS: dict[str, tuple[type[Net], Callable[[], dict[str, Any]], float]] = {
    "plain": (Net, dict, 1e-5),
    "accumulated": (Net, lambda: {"accumulate_grad_batches": 2}, 1e-5),
    "float64": (Net, lambda: {"precision": "64-true"}, 1e-6),  # the weights are float32
    "scaled half, accumulated": (Net, lambda: {**half_precision(), "accumulate_grad_batches": 2}, 0.05),
    "manual": (Manual, dict, 1e-5),
    "weighing by itself": (Weighing, dict, 1e-5),
}


@pytest.mark.parametrize(("kind", "options", "tolerance"), SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_a_strategy_is_told_of_each_sample_s_own_gradient(
    make_trainer: MakeTrainer, kind: type[Net], options: Any, tolerance: float, weights: str
):
    module, strategy, expected = kind(), Linear(beta=2, delta_q=0.0, score="gradient"), list[Tensor]()
    callback = AdaptiveSamplingCallback(strategy, logits_from="head", weights=weights)  # pyright: ignore[reportArgumentType]
    copy = kind()  # without hooks

    def before(module: nn.Module, inputs: Any) -> None:
        if module.training and torch.is_grad_enabled():
            copy.to(inputs[0].dtype).load_state_dict(module.state_dict())
            drawn = callback._sampler.current.indices  # pyright: ignore[reportOptionalMemberAccess]
            with torch.autocast("cpu", enabled=False):
                expected.append(one_at_a_time(copy, inputs[0], DATA.tensors[1][drawn]))

    handle = module.register_forward_pre_hook(before)
    trainer = make_trainer(callbacks=[callback], max_epochs=2, **options())
    trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0))
    handle.remove()
    assert len(strategy.told) == len(expected) == 2 * N // B
    assert any(float(draw.probabilities.max()) > 1.1 / N for draw, _, _ in strategy.told)  # and so have the weights
    for (_, losses, bounds), norms in zip(strategy.told, expected, strict=True):
        torch.testing.assert_close(bounds, norms, rtol=tolerance, atol=tolerance / 100)
        assert float(losses.min()) > 0
        assert float(bounds.min()) < 0.95 * float(bounds.max())
    assert all(len(part._forward_hooks) == 0 for part in module.modules())


def test_without_such_a_strategy_there_are_no_hooks(make_trainer: MakeTrainer):
    module, seen = Net(), []

    class Look(Recording):
        def update(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
            seen.append(sum(len(part._forward_hooks) for part in module.modules()))
            super().update(draw, losses, bounds)

    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(Look(), logits_from="head")])
    trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0))
    assert set(seen) == {1}  # that of the logits


def test_a_gradient_bound_of_the_logits_does_not_go_with_it(make_trainer: MakeTrainer):
    callback = AdaptiveSamplingCallback(Linear(), logits_from="head", gradient_bound="autograd")
    with raises("`gradient_bound` is of the logits, but the strategy goes by the gradients of all linear layers"):
        make_trainer(callbacks=[callback]).fit(Net(), AdaptiveDataLoader(DATA, B, seed=0))


class Apart(Net):
    """Its loss depends on no linear layer."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self(batch[0])
        return self.conv(batch[0].unsqueeze(1)).square().mean()


def test_a_gradient_that_does_not_come_by(make_trainer: MakeTrainer):
    with raises("No gradient came back to any linear layer, which the strategy needs: use another"):
        make_trainer(callbacks=[AdaptiveSamplingCallback(Linear(), logits_from="head")]).fit(
            Apart(), AdaptiveDataLoader(DATA, B, seed=0)
        )
