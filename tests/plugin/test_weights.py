"""Importance weights: unbiased by enumeration, and the steps of a training are those of the weighted loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSampling, Bins, UpperBoundImportanceSampling
from lightning_as.core.draw import importance_weights
from tests.helpers.driver import Driver
from tests.helpers.recording import Recording
from tests.helpers.tiny import normal, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
B, C, N = 6, 4, 30


def test_the_formulas_by_hand():
    r = torch.tensor([0.1, 0.05, 0.0125, 0.4], dtype=torch.float64)  # of 10 instances
    for options, expected in (
        ({}, [1, 2, 8, 0.25]),
        ({"weighting": "none"}, [1, 1, 1, 1]),
        ({"weighting": "clipped"}, [1, 2, 8, 0.25]),
        ({"weighting": "clipped", "limit": 0.5}, [0.5, 0.5, 0.5, 0.25]),
        ({"weighting": "power"}, [1, 2**0.5, 8**0.5, 0.5]),
        ({"weighting": "power", "power": 1 / 3}, [1, 2 ** (1 / 3), 2, 0.25 ** (1 / 3)]),
    ):
        weights = importance_weights(r, 10, **options)  # pyright: ignore[reportArgumentType]
        assert weights.dtype == torch.float64
        assert weights.tolist() == pytest.approx(expected, rel=1e-15)


def test_by_enumeration_the_expected_weighted_gradient_is_that_of_the_mean_loss():
    driver = Driver(AdaptiveSampling(beta=2, floor=0.05), Bins(torch.arange(N) % 3), seed=1).run(20)
    r, x, y = driver.strategy.probabilities(), normal(N, 3).double(), torch.arange(N) % C
    weight = normal(C, 3, seed=1).double().requires_grad_()
    losses = cross_entropy(x @ weight.T, y, reduction="none")
    (mean,) = torch.autograd.grad(losses.mean(), weight, retain_graph=True)
    (expected,) = torch.autograd.grad((r * importance_weights(r, N) * losses).sum(), weight, retain_graph=True)
    (plain,) = torch.autograd.grad((r * losses).sum(), weight)
    torch.testing.assert_close(expected, mean, rtol=0, atol=1e-12)
    assert float((plain - mean).abs().max()) > 1e-3


# --- In training ---

DATA = TensorDataset(normal(N, 3), torch.arange(N) % C)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 8)
        self.head = nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class Unaware(LightningModule):
    """Knows nothing of weights; keeps parameters and gradients of each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = Net()
        self.steps: list[tuple[list[Tensor], list[Tensor]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.net(batch[0]), batch[1])

    def on_after_backward(self) -> None:
        parameters = list(self.parameters())
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        self.steps.append(([parameter.detach().clone() for parameter in parameters], gradients))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Aware(Unaware):
    """Multiplies its losses by the weights itself, which no other step may find."""

    importance_weights: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.given = [*getattr(self, "given", []), self.importance_weights.tolist()]
        return (self.importance_weights * cross_entropy(self.net(batch[0]), batch[1], reduction="none")).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.importance_weights is None

    def val_dataloader(self) -> Any:
        return DataLoader(DATA, B)


def assert_steps_are_weighted(module: Unaware, strategy: Recording, **options: Any) -> None:
    """Check each gradient, and the losses that the strategy was told, against the explicitly weighted loss."""
    assert len(module.steps) == len(strategy.told) == 2 * N // B
    for (parameters, gradients), (draw, told, _) in zip(module.steps, strategy.told, strict=True):
        net = Net()
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters), net.parameters())
        inputs, targets = (part[draw.indices] for part in DATA.tensors)
        losses = cross_entropy(net(inputs), targets, reduction="none")
        torch.testing.assert_close(told, losses.detach().double(), rtol=1e-5, atol=1e-6)
        weights = importance_weights(draw.probabilities, N, **options).float()
        expected = torch.autograd.grad((weights * losses).mean(), list(net.parameters()))
        torch.testing.assert_close(tuple(gradients), expected, rtol=0, atol=1e-6)
    assert float(weights.std()) > 0.1 or options["weighting"] == "none"  # pyright: ignore[reportPossiblyUnboundVariable]


def fit(folder: Path, module: Any, num_workers: int = 0, **ours: Any) -> Recording:
    """Two epochs of a distribution that moves with every batch."""
    loader = AdaptiveDataLoader(DATA, B, seed=0, num_workers=num_workers)
    options: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 1, "val_check_interval": 2}
    ours = {"weights": "unbiased", **ours}
    return tiny_fit(folder, Recording(beta=1), lambda: module, loader, ours, **options).strategy


@pytest.mark.parametrize(
    ("make", "logits_from", "num_workers", "options"),
    [
        (Unaware, "net", 0, {"weighting": "none"}),
        (Unaware, "net", 2, {"weighting": "unbiased"}),  # of the distribution that the batch was drawn from
        (Unaware, "net.head", 0, {"weighting": "clipped", "limit": 1.5}),
        (Unaware, "net", 0, {"weighting": "power", "power": 0.3}),
        (Aware, "net", 2, {"weighting": "unbiased"}),
    ],
)
def test_the_steps_are_those_of_the_weighted_loss(
    tmp_path: Path, make: type[Unaware], logits_from: str, num_workers: int, options: dict[str, Any]
):
    ours = {"weights": options["weighting"], "weight_limit": options.get("limit", 10.0)}
    module: Any = make()
    strategy = fit(
        tmp_path, module, num_workers, logits_from=logits_from, weight_power=options.get("power", 0.5), **ours
    )
    assert_steps_are_weighted(module, strategy, **options)
    if make is Aware:
        assert module.importance_weights is None


COMPILED = [("", "net.head"), ("net", "net._orig_mod.head"), ("net in place", "net"), ("net.head in place", "net.head")]


@pytest.mark.parametrize(("compiled", "logits_from"), COMPILED)
def test_the_steps_of_a_compiled_module_are_those_of_the_weighted_loss(tmp_path: Path, compiled: str, logits_from: str):
    torch._dynamo.reset()
    module = Unaware()
    trained: Any = module
    if compiled == "net":
        module.net = torch.compile(module.net, backend="aot_eager")
    elif compiled:
        module.get_submodule(compiled.split()[0]).compile(backend="aot_eager")
    else:
        trained = torch.compile(module, backend="aot_eager")
    # Compiled before there is a hook.
    tiny_trainer(tmp_path, limit_train_batches=2).fit(trained, AdaptiveDataLoader(DATA, B))
    for _ in range(2):
        module.steps.clear()
        assert_steps_are_weighted(module, fit(tmp_path, trained, logits_from=logits_from), weighting="unbiased")
    torch._dynamo.reset()


def test_weights_that_cannot_reach_the_loss_are_an_error_before_the_first_batch(tmp_path: Path):
    module = Unaware()
    message = (
        "`weights='unbiased'` of Recording cannot reach the loss: name the submodule that gives the logits, "
        "`logits_from=…`, one of net, net.body, net.head; or give Unaware an attribute `importance_weights = None`"
    )
    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, module, logits_from=None)
    assert module.steps == []


def test_the_attribute_is_left_as_it_should_be(tmp_path: Path):
    class Failing(Aware):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            assert self.importance_weights is not None
            raise ArithmeticError

    failing = Failing()
    with pytest.raises(ArithmeticError):
        fit(tmp_path, failing)
    assert failing.importance_weights is None
    for weights in ("none", "unbiased"):
        own: Any = Unaware()
        own.importance_weights = "mine"
        fit(tmp_path, own, weights=weights)
        assert own.importance_weights == ("mine" if weights == "none" else None)


def test_weights_are_1_where_a_weighted_strategy_has_none_for_now(tmp_path: Path):
    strategy = UpperBoundImportanceSampling(threshold=1e6)  # which is never worth its while
    module = tiny_fit(tmp_path, strategy, Aware, AdaptiveDataLoader(DATA, B, seed=0)).module
    assert module.given == [[1.0] * B] * (N // B)
