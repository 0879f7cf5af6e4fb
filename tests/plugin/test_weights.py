from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveSamplingCallback, UpperBoundImportanceSampling
from lightning_as.core.draw import importance_weights
from tests.helpers.catalogue import CATALOGUE
from tests.helpers.recording import Recording
from tests.helpers.tiny import BATCH, EPOCH, Tiny, make_data, refused, tiny_dataset, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


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


class Unaware(Tiny):
    """Knows nothing of weights; keeps parameters and gradients of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[dict[str, Tensor], list[Any]]] = []

    def on_after_backward(self) -> None:
        parameters = {name: parameter.detach().clone() for name, parameter in self.net.state_dict().items()}
        self.steps.append((parameters, [parameter.grad.clone() for parameter in self.net.parameters()]))


class Aware(Unaware):
    """Multiplies its losses by the weights itself, which no other step may find."""

    importance_weights: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.given = [*getattr(self, "given", []), self.importance_weights.tolist()]
        return (self.importance_weights * cross_entropy(self.net(batch[0]), batch[1], reduction="none")).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.importance_weights is None


def fit(folder: Path, module: Any, num_workers: int = 0, **ours: Any) -> Recording:
    """Two epochs of a distribution that moves with every batch."""
    options: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 1, "val_check_interval": 2}
    ours, data = {"weights": "unbiased", **ours}, make_data("wrapped", num_workers)
    return tiny_fit(folder, Recording(beta=1), lambda: module, data, ours, **options).strategy


def assert_steps_are_weighted(module: Unaware, strategy: Recording, **options: Any) -> None:
    assert len(module.steps) == len(strategy.told) == 2 * EPOCH
    net = Tiny().net
    for (parameters, gradients), (draw, told, _) in zip(module.steps, strategy.told, strict=True):
        net.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in parameters.items()})
        inputs, targets = (part[draw.indices] for part in tiny_dataset().tensors)
        losses = cross_entropy(net(inputs), targets, reduction="none")
        torch.testing.assert_close(told, losses.detach().double(), rtol=1e-5, atol=1e-6)
        weights = importance_weights(draw.probabilities, BATCH * EPOCH, **options).float()
        expected = torch.autograd.grad((weights * losses).mean(), list(net.parameters()))
        torch.testing.assert_close(tuple(one.cpu() for one in gradients), expected, rtol=0, atol=1e-6)
    assert float(weights.std()) > 0.1 or options["weighting"] == "none"  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize(
    ("make", "logits_from", "num_workers", "options"),
    [
        (Unaware, "net", 0, {"weighting": "none"}),
        (Unaware, "net", 2, {"weighting": "unbiased"}),  # of the distribution that the batch was drawn from
        (Unaware, "net.2", 0, {"weighting": "clipped", "limit": 1.5}),
        (Unaware, "net", 0, {"weighting": "power", "power": 0.3}),
        (Aware, "net", 2, {"weighting": "unbiased"}),
    ],
)
def test_steps_are_of_the_weighted_loss(tmp_path: Path, make: Any, logits_from: str, num_workers: int, options: Any):
    ours = {"weighting": "weights", "limit": "weight_limit", "power": "weight_power"}
    module: Any = make()
    given = {ours[name]: value for name, value in options.items()}
    strategy = fit(tmp_path, module, num_workers, logits_from=logits_from, **given)
    assert_steps_are_weighted(module, strategy, **options)
    if make is Aware:
        assert module.importance_weights is None


COMPILED = [("", "net.2"), ("net", "net._orig_mod.2"), ("net in place", "net"), ("net.2 in place", "net.2")]


@pytest.mark.parametrize(("compiled", "logits_from"), COMPILED)
def test_the_steps_of_a_compiled_module_are_those_of_the_weighted_loss(tmp_path: Path, compiled: str, logits_from: str):
    torch._dynamo.reset()
    module = Unaware()
    trained: Any = module
    if compiled == "net":
        module.net = torch.compile(module.net, backend="aot_eager")  # pyright: ignore[reportAttributeAccessIssue]
    elif compiled:
        module.get_submodule(compiled.split()[0]).compile(backend="aot_eager")
    else:
        trained = torch.compile(module, backend="aot_eager")
    # Compiled before there is a hook.
    tiny_trainer(tmp_path, limit_train_batches=2).fit(trained, make_data("wrapped"))
    for _ in range(2):
        module.steps.clear()
        assert_steps_are_weighted(module, fit(tmp_path, trained, logits_from=logits_from), weighting="unbiased")
    torch._dynamo.reset()


def test_weights_that_cannot_reach_the_loss_are_an_error_before_the_first_batch(tmp_path: Path):
    module = Unaware()
    with refused(
        "`weights='unbiased'` of Recording cannot reach the loss: name the submodule that gives the logits, "
        "`logits_from=…`, one of net.2, net.0, net.1, net; or give Unaware an attribute `importance_weights = None`"
    ):
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


class ByProperty(Unaware):
    importance_weights = property(lambda self: None)


class ByMethod(Unaware):
    def importance_weights(self) -> None:
        pass


class Elsewhere(Aware):
    """Takes the weights under another name; under the usual one it has weights of its own."""

    batch_weights: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.batch_weights * cross_entropy(self.net(batch[0]), batch[1], reduction="none")).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.batch_weights is None


@pytest.mark.parametrize(("make", "what"), [(ByProperty, "a property"), (ByMethod, "a method"), (Unaware, "a Tensor")])
def test_something_of_the_module_s_own_is_not_overwritten(tmp_path: Path, make: Any, what: str):
    module = make()
    if make is Unaware:
        module.register_buffer("importance_weights", torch.ones(4))
    with refused(f"as `importance_weights`, but {make.__name__} has {what} of that name: .*`weights_attribute='…'`"):
        fit(tmp_path, module)
    assert module.steps == []
    assert_steps_are_weighted(module, fit(tmp_path, module, weights_attribute="other"), weighting="unbiased")
    module = make()
    fit(tmp_path, module, weights="none")
    assert module.steps


def test_the_weights_may_have_another_name(tmp_path: Path):
    module = Elsewhere()
    module.importance_weights = torch.ones(4)
    strategy = fit(tmp_path, module, logits_from="net", weights_attribute="batch_weights")
    assert_steps_are_weighted(module, strategy, weighting="unbiased")
    assert torch.equal(module.importance_weights, torch.ones(4))
    assert module.batch_weights is None


def test_weights_are_1_where_a_weighted_strategy_has_none_for_now(tmp_path: Path):
    strategy = UpperBoundImportanceSampling(threshold=1e6)  # which is never worth its while
    module = tiny_fit(tmp_path, strategy, Aware).module
    assert module.given == [[1.0] * BATCH] * EPOCH


def test_weights_that_go_by_probabilities_are_refused_where_there_are_none():
    for make in CATALOGUE.values():
        strategy: Any = make()
        name = type(strategy).__name__
        AdaptiveSamplingCallback(strategy, logits_from="net", weights="none")
        known = name not in ("LearnedFilter", "RHOLoss", "SelectiveBackprop", "SubmodularBatchSelection")
        for weights in ("unbiased", "clipped", "power"):
            refusal = pytest.raises(ValueError, match=f"`weights='{weights}'` go by the probability .* {name} does not")
            with nullcontext() if known else refusal:
                AdaptiveSamplingCallback(strategy, logits_from="net", weights=weights)
