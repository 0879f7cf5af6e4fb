import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    Bins,
    Draw,
    Strategy,
    Uniform,
)
from lightning_as.core.draw import importance_weights
from lightning_as.plugin.hooks import ScaleGradient
from tests.helpers.catalogue import CATALOGUE
from tests.helpers.driver import EPOCH as EPOCH_OF_DRIVER
from tests.helpers.driver import Driver

MakeTrainer = Callable[..., Trainer]
B, C, N = 6, 4, 30


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- The formulas ---

R = torch.tensor([0.1, 0.05, 0.0125, 0.4], dtype=torch.float64)  # of 10 instances: w = 1, 2, 8, 1/4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 8, 0.25]),
        ({"weighting": "none"}, [1, 1, 1, 1]),
        ({"weighting": "unbiased"}, [1, 2, 8, 0.25]),
        ({"weighting": "clipped"}, [1, 2, 8, 0.25]),
        ({"weighting": "clipped", "limit": 2.5}, [1, 2, 2.5, 0.25]),
        ({"weighting": "clipped", "limit": 0.5}, [0.5, 0.5, 0.5, 0.25]),
        ({"weighting": "power"}, [1, 2**0.5, 8**0.5, 0.5]),
        ({"weighting": "power", "power": 1 / 3}, [1, 2 ** (1 / 3), 2, 0.25 ** (1 / 3)]),
        ({"weighting": "power", "power": 0.0}, [1, 1, 1, 1]),
        ({"weighting": "power", "power": 1.0}, [1, 2, 8, 0.25]),
    ],
)
def test_the_formulas_by_hand(options: dict[str, Any], expected: list[float]):
    weights = importance_weights(R, 10, **options)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("weighting", ["none", "unbiased", "clipped", "power"])
def test_under_the_uniform_law_every_weight_is_one(weighting: Any):
    assert importance_weights(torch.full((5,), 1 / N, dtype=torch.float64), N, weighting).tolist() == [1.0] * 5


# --- Scaling the gradient ---


@pytest.mark.parametrize("shape", [(B,), (B, C), (B, C, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_is_the_identity_and_backward_scales_the_rows(shape: tuple[int, ...], dtype: torch.dtype):
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 1 / 3, 100.0])
    logits = normal(*shape).to(dtype).requires_grad_()
    incoming = normal(*shape, seed=1).to(dtype)
    output = ScaleGradient.apply(logits, weights)
    assert isinstance(output, Tensor)
    assert torch.equal(output, logits)
    assert output.dtype == dtype
    output.backward(incoming)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    for row, given, weight in zip(logits.grad, incoming, weights.to(dtype), strict=True):
        assert torch.equal(row, given * weight)


def test_the_gradient_of_the_gradient_is_scaled_alike():
    weights = torch.tensor([0.5, 3.0])
    logits = normal(2, C).requires_grad_()
    scaled = ScaleGradient.apply(logits, weights)
    assert isinstance(scaled, Tensor)
    (first,) = torch.autograd.grad(scaled.pow(3).sum(), logits, create_graph=True)
    torch.testing.assert_close(first, weights[:, None] * 3 * logits.square())
    (second,) = torch.autograd.grad(first.sum(), logits)
    # Once more for the way back through the identity.
    torch.testing.assert_close(second, weights[:, None] ** 2 * 6 * logits)


# --- What the law makes of them, by enumeration ---

# Those whose own weights make the gradient unbiased, and not only smaller where much is drawn.
EXACT = {
    "GopalSampling",
    "LearnedProposal",
    "StaticImportanceSampling",
    "StratifiedSampling",
    "UpperBoundImportanceSampling",
    "GradientNormSampling",
}
TAGS = [0, 2, 1, 0, 2, 2, 1, 0, 2, 2, 0, 2]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"q_update": "all", "beta": 2},
    {"q_update": "all", "beta": 5, "unseen": "mean", "delta_p": 0.3},
    {"q_update": "drawn", "beta": 5, "delta_p": 0.3, "delta_q": 0.5},
    {"q_update": "drawn", "beta": 3, "floor": 0.2, "score": "gradient", "bin_statistic": "sum_over_q"},
    {"q_update": "all", "beta": 2, "floor": 0.01, "smoothing": "original", "bin_statistic": "mean"},
    {"beta": 2, "bin_statistic": "second_moment"},
]
STRATEGIES: list[Callable[[], Strategy]] = [Uniform, *(partial(AdaptiveSampling, **options) for options in OPTIONS)]


def after_some_updates(make: Callable[[], Strategy]) -> Strategy:
    """A strategy whose law training has moved: at random, and until every instance was seen."""
    strategy, generator = make(), seeded(1)
    strategy.start(Bins(TAGS))
    for _ in range(25):
        draw = strategy.draw(B, generator)
        losses = torch.rand(B, generator=generator).double() + 0.1 * draw.indices
        strategy.update(draw, losses, torch.rand(B, generator=generator).double())
    return strategy


@pytest.mark.parametrize("make", STRATEGIES)
def test_unbiased_weights_make_the_expected_gradient_that_of_the_mean_loss(make: Callable[[], Strategy]):
    strategy = after_some_updates(make)
    law = strategy.probabilities()
    if not isinstance(strategy, Uniform):
        assert float(law.max()) > 1.5 * float(law.min())
    inputs, targets = normal(len(TAGS), 3).double(), torch.arange(len(TAGS)) % C
    weight = normal(C, 3, seed=1).double()

    def gradient_of(loss: Callable[[Tensor], Tensor]) -> Tensor:
        w = weight.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(inputs @ w.T), w)
        return gradient

    unbiased = importance_weights(law, len(TAGS))
    expected = torch.stack(
        [law[i] * gradient_of(lambda z, i=i: unbiased[i] * cross_entropy(z[i], targets[i])) for i in range(len(TAGS))]
    ).sum(0)
    mean = gradient_of(lambda z: cross_entropy(z, targets))
    torch.testing.assert_close(expected, mean, rtol=0, atol=1e-12)
    plain = torch.stack(
        [law[i] * gradient_of(lambda z, i=i: cross_entropy(z[i], targets[i])) for i in range(len(TAGS))]
    ).sum(0)
    assert isinstance(strategy, Uniform) or float((plain - mean).abs().max()) > 1e-3


@pytest.mark.parametrize("make", STRATEGIES)
def test_a_draw_carries_the_probabilities_of_the_law_it_was_made_from(make: Callable[[], Strategy]):
    strategy = after_some_updates(make)
    law = strategy.probabilities()
    draw = strategy.draw(200, seeded(2))
    assert len(draw.indices.unique()) > len(TAGS) / 2
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)


# What they choose is settled once the candidates are there, so that no weights make up for what is never chosen.
BIASED = {"LearnedFilter", "RHOLoss", "SelectiveBackprop", "SelectiveBackprop of Composer", "SubmodularBatchSelection"}


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - BIASED))
@pytest.mark.parametrize("source", [False, True], ids=["unbiased", "source"])
def test_weighted_batches_have_the_plain_mean_as_their_expectation(name: str, source: bool):
    """Each instance's expected weight is 1/N of the batch, so that the expected gradient is the uniform one, of any."""
    strategy = CATALOGUE[name]()
    if source and not (strategy.weighted and name in EXACT):
        pytest.skip("its source has no weights, or only biased ones")
    tags = torch.arange(96) % 3
    driver = Driver(strategy, Bins(tags), seed=3).run(3 * EPOCH_OF_DRIVER)
    gradients = normal(len(tags), 5, seed=4).double()
    estimates = []
    for _ in range(3000):
        draw = driver.batch()
        weights = draw.weights if source else importance_weights(draw.probabilities, len(tags))
        assert weights is not None
        estimates.append((weights.unsqueeze(1) * gradients[draw.indices]).mean(0))
    found = torch.stack(estimates)
    error = found.std(0) / len(found) ** 0.5 + 1e-12
    assert float(((found.mean(0) - gradients.mean(0)) / error).abs().max()) < 5


# --- In training ---

DATA = TensorDataset(normal(N, 3), torch.arange(N) % C)
LAW = torch.rand(N, generator=seeded()).double().add(0.05)
LAW /= LAW.sum()


class Fixed(Strategy):
    """Draws from one law for ever."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.told: list[tuple[Draw, Tensor]] = []

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        assert self.bins is not None
        indices = torch.multinomial(LAW, size, replacement=True, generator=generator)
        return Draw(indices, self.bins.of(indices), LAW[indices], LAW[indices])

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.told.append((draw, losses.clone()))

    def probabilities(self) -> Tensor:
        return LAW

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


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


def expected_gradients(parameters: list[Tensor], draw: Draw, weights: Tensor) -> tuple[Tensor, ...]:
    """Of the explicitly weighted loss."""
    net = Net()
    with torch.no_grad():
        for own, given in zip(net.parameters(), parameters, strict=True):
            own.copy_(given)
    inputs, targets = (part[draw.indices] for part in DATA.tensors)
    loss = (weights.float() * cross_entropy(net(inputs), targets, reduction="none")).mean()
    return torch.autograd.grad(loss, list(net.parameters()))


def assert_steps_are_weighted(module: Unaware, strategy: Fixed, **options: Any) -> None:
    assert len(module.steps) == len(strategy.told) == N // B
    for (parameters, gradients), (draw, _) in zip(module.steps, strategy.told, strict=True):
        expected = expected_gradients(parameters, draw, importance_weights(LAW[draw.indices], N, **options))
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6)
    (parameters, gradients), (draw, _) = module.steps[-1], strategy.told[-1]
    plain = expected_gradients(parameters, draw, torch.ones(B))
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, plain, strict=True)) > 1e-3


def fit(make_trainer: MakeTrainer, module: Any, **options: Any) -> Fixed:
    strategy = Fixed()
    callback = AdaptiveSamplingCallback(strategy, **{"logits_from": "net", "weights": "unbiased", **options})
    make_trainer(callbacks=[callback]).fit(module, AdaptiveDataLoader(DATA, B, seed=0))
    return strategy


@pytest.mark.parametrize("logits_from", ["net", "net.head"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": "unbiased"},
        {"weights": "clipped", "weight_limit": 1.5},
        {"weights": "power", "weight_power": 0.3},
    ],
)
def test_the_steps_of_an_unaware_module_are_those_of_the_weighted_loss(
    make_trainer: MakeTrainer, logits_from: str, options: dict[str, Any]
):
    module = Unaware()
    strategy = fit(make_trainer, module, logits_from=logits_from, **options)
    limit, power = options.get("weight_limit", 10.0), options.get("weight_power", 0.5)
    assert_steps_are_weighted(module, strategy, weighting=options["weights"], limit=limit, power=power)


def test_without_weights_the_steps_are_left_alone(make_trainer: MakeTrainer):
    module = Unaware()
    strategy = fit(make_trainer, module, weights="none")
    for (parameters, gradients), (draw, _) in zip(module.steps, strategy.told, strict=True):
        for gradient, wanted in zip(gradients, expected_gradients(parameters, draw, torch.ones(B)), strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_the_losses_that_the_strategy_is_told_are_not_weighted(make_trainer: MakeTrainer, weights: str):
    module = Unaware()
    strategy = fit(make_trainer, module, weights=weights)
    for (parameters, _), (draw, losses) in zip(module.steps, strategy.told, strict=True):
        net = Net()
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters), net.parameters())
        inputs, targets = (part[draw.indices] for part in DATA.tensors)
        expected = cross_entropy(net(inputs), targets, reduction="none").detach()
        torch.testing.assert_close(losses, expected.double(), rtol=1e-5, atol=1e-6)


# --- Compiled ---


@contextmanager
def compiler(backend: str) -> Iterator[None]:
    """Nothing compiled before is used, and nothing that takes a minute to compile is asked for."""
    torch._dynamo.reset()
    quick: Any = nullcontext()
    if backend == "inductor":
        from torch._inductor import config

        wanted = {"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}
        quick = config.patch({name: value for name, value in wanted.items() if name in config.get_config_copy()})
    with quick:
        yield
    torch._dynamo.reset()


PLACES = [
    ("the module", "net"),
    ("the module", "net.head"),
    ("the submodule", "net"),
    ("the submodule", "net._orig_mod.head"),
    ("the submodule in place", "net"),
    ("the submodule in place", "net.head"),
    ("the head in place", "net.head"),
]
QUICK = [("aot_eager", *place, before) for place in PLACES for before in (False, True)]
SLOW = [("inductor", *place, False) for place in (PLACES[0], PLACES[5])]
NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.parametrize(
    ("backend", "compiled", "logits_from", "compiled_before"),
    [*QUICK, *(pytest.param(*setting, marks=NO_COMPILER) for setting in SLOW)],
)
def test_the_steps_of_a_compiled_module_are_those_of_the_weighted_loss(
    make_trainer: MakeTrainer, backend: str, compiled: str, logits_from: str, compiled_before: bool
):
    module = Unaware()
    with compiler(backend):
        target: Any = torch.compile(module, backend=backend) if compiled == "the module" else module
        if compiled == "the submodule":
            module.net = torch.compile(module.net, backend=backend)
        elif compiled == "the submodule in place":
            module.net.compile(backend=backend)
        elif compiled == "the head in place":
            module.net.head.compile(backend=backend)
        if compiled_before:
            make_trainer(limit_train_batches=2).fit(target, AdaptiveDataLoader(DATA, B))
        for _ in range(2):
            module.steps.clear()
            assert_steps_are_weighted(module, fit(make_trainer, target, logits_from=logits_from))


def test_weights_that_a_compiled_module_swallows_are_an_error_and_not_a_training_without_them(
    make_trainer: MakeTrainer,
):
    class GivesAll(Unaware):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net(batch[0])
            losses = cross_entropy(logits, batch[1], reduction="none")
            return {"loss": losses.mean(), "losses": losses.detach(), "logits": logits.detach()}

    module = GivesAll()
    with compiler("aot_eager"):
        module.net.compile(backend="eager")
        module.net(DATA.tensors[0][:B])  # by now it is compiled without a hook
        try:
            strategy = fit(make_trainer, module, logits_from="net.head")
        except MisconfigurationException as error:
            assert "logits_from='net.head'" in str(error)  # noqa: PT017 (either is right)
        else:
            assert_steps_are_weighted(module, strategy)


# --- Modules that weight their losses themselves, or cannot be weighted ---


class Aware(Unaware):
    importance_weights: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.importance_weights is not None
        assert self.importance_weights.shape == (B,)
        self.given.append(self.importance_weights)
        logits = self.net(batch[0])
        losses = cross_entropy(logits, batch[1], reduction="none")
        loss = (self.importance_weights * losses).mean()
        return {"loss": loss, "losses": losses.detach(), "logits": logits.detach()}


def test_validation_amid_an_epoch_finds_no_weights(make_trainer: MakeTrainer):
    class Validated(Aware):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            found.append(self.importance_weights)

    found: list[Tensor | None] = []
    module = Validated()
    trainer = make_trainer(
        callbacks=[AdaptiveSamplingCallback(weights="unbiased")], limit_val_batches=1, val_check_interval=2
    )
    trainer.fit(module, AdaptiveDataLoader(DATA, B), DataLoader(DATA, B))
    assert len(found) > 1
    assert found == [None] * len(found)


def test_weights_where_no_gradient_comes_back(make_trainer: MakeTrainer):
    class Frozen(Unaware):
        def __init__(self) -> None:
            super().__init__()
            self.net.requires_grad_(False)
            self.last = nn.Linear(4, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self.last(self.net(batch[0])), batch[1])

    message = "the output of 'net', but no gradient comes back there: name the last submodule with parameters to train"
    with pytest.raises(MisconfigurationException, match=message):
        fit(make_trainer, Frozen())


@pytest.mark.parametrize("logits_from", [None, "net"])
def test_an_aware_module_gets_the_weights_before_each_step_and_is_not_weighted_twice(
    make_trainer: MakeTrainer, logits_from: str | None
):
    module = Aware()
    strategy = fit(make_trainer, module, logits_from=logits_from)
    for weights, (draw, _) in zip(module.given, strategy.told, strict=True):
        assert not weights.requires_grad
        torch.testing.assert_close(weights, (1 / (N * LAW[draw.indices])).float())
    assert_steps_are_weighted(module, strategy)
    assert module.importance_weights is None
    assert len(module.net._forward_hooks) == 0


def test_after_a_fit_that_fails_an_aware_module_has_no_weights_left(make_trainer: MakeTrainer):
    class Failing(Aware):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            assert self.importance_weights is not None
            raise ArithmeticError

    module = Failing()
    with pytest.raises(ArithmeticError):
        fit(make_trainer, module)
    assert module.importance_weights is None
    assert len(module.net._forward_hooks) == 0


@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_the_attribute_is_only_touched_if_weights_are_asked_for(make_trainer: MakeTrainer, weights: str):
    class Own(Unaware):
        def __init__(self) -> None:
            super().__init__()
            self.importance_weights = "mine"

    module = Own()
    fit(make_trainer, module, weights=weights)
    assert module.importance_weights == ("mine" if weights == "none" else None)


def test_weights_that_cannot_reach_the_loss_are_an_error_before_the_first_batch(make_trainer: MakeTrainer):
    module = Unaware()
    message = (
        "`weights='unbiased'` of [A-Za-z]+ cannot reach the loss: name the submodule that gives the logits, "
        "`logits_from=…`, one of net, net.body, net.head; or give Unaware an attribute `importance_weights = None`"
    )
    with pytest.raises(MisconfigurationException, match=message):
        fit(make_trainer, module, logits_from=None)
    assert module.steps == []


def test_weights_that_find_no_output_to_scale_are_an_error_even_if_the_step_returns_the_logits(
    make_trainer: MakeTrainer,
):
    class InATuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.inner(x), None

    class GivesAll(Unaware):
        def __init__(self) -> None:
            super().__init__()
            self.net = InATuple()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits, _ = self.net(batch[0])
            losses = cross_entropy(logits, batch[1], reduction="none")
            return {"loss": losses.mean(), "losses": losses.detach(), "logits": logits.detach()}

    module = GivesAll()
    assert_steps_are_weighted(module, fit(make_trainer, module, logits_from="net.inner"))
    with pytest.raises(MisconfigurationException, match="`logits_from='net'` gave no output with a row per instance"):
        fit(make_trainer, GivesAll())


# --- The law at the time of the draw ---


class Watched(AdaptiveSampling):
    """Keeps the whole law of the time of each draw."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.laws: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        self.laws.append(self.probabilities())
        draw = super().draw(size, generator)
        self.drawn.append(draw.indices)
        return draw


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_weights_are_of_the_law_that_the_batch_was_drawn_from(
    make_trainer: MakeTrainer, num_workers: int, floor: float
):
    module, strategy = Aware(), Watched(beta=1, delta_p=0.5, floor=floor)
    callback = AdaptiveSamplingCallback(strategy, weights="unbiased")
    trainer = make_trainer(callbacks=[callback], max_epochs=2)
    trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0, num_workers=num_workers))
    assert len(module.given) == len(strategy.laws) == 2 * N // B
    for weights, law, drawn in zip(module.given, strategy.laws, strategy.drawn, strict=True):
        torch.testing.assert_close(weights, (1 / (N * law[drawn])).float(), rtol=1e-5, atol=0)
    last = strategy.probabilities()
    assert float((module.given[-1] * N * last[strategy.drawn[-1]]).sub(1).abs().max()) > 1e-2
    # With workers the first draws are all of the law of the beginning.
    unmoved = sum(torch.equal(law, strategy.laws[0]) for law in strategy.laws)
    assert unmoved == (1 if num_workers == 0 else 5)
