from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, Uniform
from lightning_as.losses import BinaryCrossEntropy, CrossEntropy, squared_gradient_norms
from lightning_as.plugin.observation import Observer, describe, recompute_logits
from tests.helpers.recording import Recording

MakeTrainer = Callable[..., Trainer]
B, C, N = 6, 4, 48


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


INPUTS, TARGETS = normal(B, 3), torch.arange(B) % C
BATCH = (INPUTS, TARGETS)


class Net(LightningModule):
    """With everything that a second forward pass could disturb."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, C)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.frozen(self.body(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def observer(module: LightningModule | None = None, **options: Any) -> Observer:
    defaults = {
        "logits_from": None,
        "recompute": False,
        "target_key": None,
        "per_sample_loss": CrossEntropy(),
        "gradient_bound": None,
    }
    return Observer(Net() if module is None else module, **{**defaults, **options})


def passed(module: LightningModule, batch: Any = BATCH, size: int = B, **options: Any) -> Observer:
    """An observer with a hook that has seen the training pass of a batch."""
    result = observer(module, **options)
    if result.hook is not None:
        result.hook.arm(size, None)
    module(batch[0])
    return result


def raises(message: str) -> Any:
    return pytest.raises(MisconfigurationException, match=message)


# --- The three ways, in their order ---


def losses_and_bounds(logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().double().requires_grad_()
    losses = cross_entropy(logits, TARGETS, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient.square().sum(1)


def observed(observing: Observer, outputs: Any, batch: Any = BATCH) -> list[Tensor]:
    rows = observing.observe(outputs, batch, B)
    assert rows is not None
    assert len(rows) == 2
    return rows


def assert_observed(rows: list[Tensor], losses: Tensor, logits: Tensor) -> None:
    assert not any(row.requires_grad for row in rows)
    torch.testing.assert_close(rows[0].double(), losses.double())
    torch.testing.assert_close(rows[1], losses_and_bounds(logits)[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("logits_from", [None, "head"])
def test_what_the_step_returns_comes_first(logits_from: str | None, recompute: bool):
    observing = passed(Net(), logits_from=logits_from, recompute=recompute)
    own = normal(B, C, seed=5).requires_grad_()
    rows = observed(observing, {"loss": 0, "losses": 2 * own[:, 0].square(), "logits": own})
    assert_observed(rows, 2 * own[:, 0].detach().square(), own)
    rows = observed(observing, {"loss": 0, "logits": own})
    assert_observed(rows, losses_and_bounds(own)[0], own)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_the_hook_saw_comes_second(recompute: bool):
    observing = passed(Net(), logits_from="head", recompute=recompute)
    assert observing.hook is not None
    assert observing.hook.logits is not None
    logits = observing.hook.logits
    assert_observed(observed(observing, {"loss": 0}), losses_and_bounds(logits)[0], logits)
    own = torch.rand(B).requires_grad_()
    assert_observed(observed(observing, {"loss": 0, "losses": own}), own.detach(), logits)


def test_a_forward_pass_of_our_own_comes_last():
    module = Net()
    observing = passed(module, recompute=True)
    logits = module.eval()(INPUTS).detach()
    module.train()
    assert_observed(observed(observing, {"loss": 0}), losses_and_bounds(logits)[0], logits)
    own = torch.rand(B).requires_grad_()
    assert_observed(observed(observing, {"loss": 0, "losses": own}), own.detach(), logits)
    assert_observed(observed(observing, torch.tensor(1.0)), losses_and_bounds(logits)[0], logits)


def test_losses_and_bounds_are_those_of_the_loss_that_is_given():
    logits, targets = normal(B, 1), (TARGETS % 2).float()
    own: Callable[[Tensor, Tensor], Tensor] = lambda z, y: (z[:, 0] - y).pow(4)  # noqa: E731
    for loss in (BinaryCrossEntropy(pos_weight=3.0), own):
        losses, bounds = observed(observer(per_sample_loss=loss), {"logits": logits}, (INPUTS, targets))
        wide = logits.double().requires_grad_()
        expected = loss(wide, targets)
        torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(expected.sum(), wide)
        torch.testing.assert_close(bounds.double(), gradient.square().sum(1), rtol=1e-5, atol=1e-6)


def test_a_bound_of_ones_own_gets_logits_and_targets():
    given: list[tuple[Tensor, Any]] = []

    def bound(logits: Tensor, targets: Any) -> Tensor:
        given.append((logits, targets))
        return logits.sum(1) + targets

    own = normal(B, C).requires_grad_()
    _, bounds = observed(observer(gradient_bound=bound), {"logits": own})
    assert torch.equal(bounds, own.detach().sum(1) + TARGETS)
    assert not bounds.requires_grad
    assert given[0][1] is TARGETS


# --- What is not there, or not as it should be ---


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"loss": 0}, r"\['loss'\]"),
        ({"losses": torch.rand(B), "loss": 0}, r"\['loss', 'losses'\]"),
        (torch.tensor(1.0), r"\[\]"),
        (None, r"\[\]"),
    ],
)
def test_no_logits_anywhere(outputs: Any, found: str):
    message = (
        rf"`training_step` of Net gave {found}, and no logits\. Either name the submodule that gives them, "
        r"AdaptiveSamplingCallback\(logits_from=…\), one of body, body\.0, body\.1, body\.2, frozen, head; or return "
        r"\{'loss': loss, 'losses': losses, 'logits': logits\} from `training_step`, with one loss per sample; or let "
        r"the callback compute them by a second forward pass, AdaptiveSamplingCallback\(recompute=True\)\."
    )
    with raises(message):
        observer().observe(outputs, BATCH, B)


@pytest.mark.parametrize("logits", [normal(B - 1, C), normal(B * C), torch.tensor(1.0)])
def test_logits_without_a_row_per_instance(logits: Tensor):
    shape = str(tuple(logits.shape)).replace("(", r"\(").replace(")", r"\)")
    with raises(f"The logits must have one row for each of the 6 instances drawn, got {shape}"):
        observer().observe({"logits": logits}, BATCH, B)


@pytest.mark.parametrize("losses", [torch.rand(B - 1), torch.rand(B, 1), torch.tensor(1.0)])
def test_losses_that_are_not_one_per_instance(losses: Tensor):
    with raises(r"The losses must be one for each of the 6 instances drawn, got the shape .*: use `reduction='none'`"):
        observer().observe({"logits": normal(B, C), "losses": losses}, BATCH, B)
    with raises(r"The losses must be one for each of the 6 instances drawn, got the shape .*: use `reduction='none'`"):
        observer(per_sample_loss=lambda z, y: losses).observe({"logits": normal(B, C)}, BATCH, B)


def test_bounds_that_are_not_one_per_instance():
    with raises(r"`gradient_bound` must give one number for each of the 6 instances drawn, got the shape \(\)"):
        observer(gradient_bound=lambda z, y: z.sum()).observe({"logits": normal(B, C)}, BATCH, B)


@pytest.mark.parametrize("size", [B - 1, B + 1])
def test_a_hook_that_saw_no_row_per_instance(size: int):
    observing = passed(Net(), size=size, logits_from="head")
    message = (
        "`logits_from='head'` gave no output with a row per instance in the training step: name a submodule that is "
        "called on the whole batch, one of body, body.0, body.1, body.2, frozen, head"
    )
    with raises(message):
        observing.observe({"loss": 0}, BATCH, size)


def test_autograd_without_a_backward_pass_observes_nothing():
    observing = passed(Net(), logits_from="head", gradient_bound="autograd")
    assert observing.observe({"loss": 0}, BATCH, B) is None


def test_a_submodule_that_is_not_there():
    with raises("`logits_from='tail'` is no submodule of Net"):
        observer(logits_from="tail")


# --- Targets ---


def test_the_key_is_heard_by_losses_bounds_and_labels():
    batch = {"labels": (TARGETS + 1) % C, "fine": TARGETS}
    observing, logits = observer(target_key="fine"), normal(B, C)
    assert_observed(observed(observing, {"logits": logits}, batch), losses_and_bounds(logits)[0], logits)
    labels = observing.labels(batch, B)
    assert labels is not None
    assert torch.equal(labels, TARGETS)


@pytest.mark.parametrize("targets", [TARGETS, TARGETS[:, None], TARGETS.int(), TARGETS > 1])
def test_labels_are_targets_of_one_whole_number_each(targets: Tensor):
    labels = observer().labels((INPUTS, targets), B)
    assert labels is not None
    assert labels.tolist() == targets.flatten().tolist()


@pytest.mark.parametrize("targets", [TARGETS.float(), TARGETS.expand(2, B).T, list(range(B)), {"boxes": 1}])
def test_other_targets_are_no_labels(targets: Any):
    assert observer().labels((INPUTS, targets), B) is None


def test_targets_of_another_number_than_drawn():
    with raises("A batch of 6 was drawn, but a tuple of 2 has 5 targets: each position in the data set must give one"):
        observer().labels((INPUTS, TARGETS[:5]), B)


# --- Recomputing ---


def test_recomputing_leaves_statistics_flags_and_random_state_alone():
    module = Net()
    module.frozen.eval()
    module.body[2].eval()
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    assert len(set(flags)) == 2
    torch.manual_seed(3)
    state = torch.get_rng_state()
    logits = recompute_logits(module, BATCH)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == flags
    for name, value in module.state_dict().items():
        assert torch.equal(value, statistics[name]), name
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(logits, module.eval()(INPUTS))


def test_recomputing_puts_the_flags_back_even_if_it_fails():
    module = Net()
    module.frozen.eval()
    with pytest.raises(RuntimeError):
        recompute_logits(module, (normal(B, 7), TARGETS))
    assert [name for name, part in module.named_modules() if not part.training] == ["frozen"]


def test_randomness_in_evaluation_mode_is_not_noticed_by_training():
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)) + torch.rand(C)

    module = Noisy()
    before = torch.get_rng_state()
    first, second = recompute_logits(module, BATCH), recompute_logits(module, BATCH)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


@pytest.mark.parametrize("batch", [(INPUTS, TARGETS, TARGETS), {"x": INPUTS, "y": TARGETS}, INPUTS])
def test_recomputing_needs_a_pair(batch: Any):
    message = (
        r"A forward pass of its own calls the module on the inputs of a pair \(inputs, targets\), but the batch is "
        f"{describe(batch)}: use `logits_from`"
    )
    with raises(message):
        recompute_logits(Net(), batch)


def test_recomputing_needs_forward():
    class Headless(LightningModule):
        pass

    with raises("which Headless does not define: name the submodule that takes the inputs and gives the logits"):
        recompute_logits(Headless(), BATCH)


def test_recomputing_needs_a_forward_that_gives_logits():
    class Two(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), None

    module = Two()
    with raises("needs `forward` of Two to give the logits, but it gave a tuple: use `logits_from`"):
        recompute_logits(module, BATCH)
    assert all(part.training for part in module.modules())


# --- In training ---


DATA = TensorDataset(normal(N, 3, seed=1), torch.arange(N) % C)


class Witness(Callback):
    """Keeps the inputs of the batches."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.inputs.append(batch[0])


def test_training_goes_on_as_if_nothing_had_been_recomputed(make_trainer: MakeTrainer):
    def fit(*callbacks: Callback) -> tuple[Tensor, dict[str, Tensor]]:
        module, witness = Net(), Witness()
        module.frozen.eval()
        torch.manual_seed(7)
        trainer = make_trainer(callbacks=[*callbacks, witness], max_epochs=3)
        trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0))
        assert not module.frozen.training
        return torch.cat(witness.inputs), module.state_dict()

    plain_batches, plain = fit()
    batches, watched = fit(AdaptiveSamplingCallback(Uniform(), recompute=True))
    assert len(batches) == 3 * N
    assert torch.equal(batches, plain_batches)
    assert plain.keys() == watched.keys()
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name


def test_recomputed_losses_are_those_after_the_step(make_trainer: MakeTrainer):
    strategy, module = Recording(), Net()
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(strategy, recompute=True)], limit_train_batches=1)
    trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0))
    ((draw, losses, bounds),) = strategy.told
    inputs, targets = DATA.tensors
    logits = module.eval()(inputs[draw.indices]).detach()
    torch.testing.assert_close(losses, cross_entropy(logits, targets[draw.indices], reduction="none").double())
    torch.testing.assert_close(bounds, squared_gradient_norms(CrossEntropy(), logits, targets[draw.indices]))


class Apart(Net):
    """Its loss does not depend on all that it computes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.head(torch.zeros(len(batch[0]), 8))
        return self.body(batch[0]).square().mean()


def test_a_gradient_that_does_not_come_by(make_trainer: MakeTrainer):
    callback = AdaptiveSamplingCallback(logits_from="head", gradient_bound="autograd")
    with raises("No gradient came back to the output of 'head', which `gradient_bound='autograd'` needs: name a sub"):
        make_trainer(callbacks=[callback]).fit(Apart(), AdaptiveDataLoader(DATA, B, seed=0))


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


def half_precision() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)  # pyright: ignore
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


SETTINGS: dict[str, tuple[type[Net], Callable[[], dict[str, Any]], float]] = {
    "plain": (Net, dict, 1e-5),
    "accumulated": (Net, lambda: {"accumulate_grad_batches": 3}, 1e-5),
    "clipped": (Net, lambda: {"gradient_clip_val": 1e-3}, 1e-5),
    "float64": (Net, lambda: {"precision": "64-true"}, 1e-12),
    "bf16": (Net, lambda: {"precision": "bf16-mixed"}, 0.05),
    "scaled half": (Net, half_precision, 0.02),
    "scaled half, accumulated": (Net, lambda: {**half_precision(), "accumulate_grad_batches": 3}, 0.02),
    "manual": (Manual, dict, 1e-5),
}


@pytest.mark.parametrize(("kind", "options", "tolerance"), SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_observed_gradients_are_those_of_each_sample_s_own_loss(
    make_trainer: MakeTrainer, kind: type[Net], options: Any, tolerance: float, weights: str
):
    module, strategy, logits = kind(), Recording(), list[Tensor]()
    callback = AdaptiveSamplingCallback(strategy, logits_from="head", gradient_bound="autograd", weights=weights)  # pyright: ignore[reportArgumentType]
    handle = module.head.register_forward_hook(lambda module, inputs, output: logits.append(output.detach()))
    trainer = make_trainer(callbacks=[callback], max_epochs=2, **options())
    trainer.fit(module, AdaptiveDataLoader(DATA, B, seed=0))
    handle.remove()
    assert len(strategy.told) == len(logits) == 2 * N // B
    for (draw, losses, bounds), seen in zip(strategy.told, logits, strict=True):
        targets = DATA.tensors[1][draw.indices]
        expected = squared_gradient_norms(CrossEntropy(), seen, targets)
        torch.testing.assert_close(bounds, expected, rtol=tolerance, atol=tolerance / 100)
        torch.testing.assert_close(
            losses, cross_entropy(seen.double(), targets, reduction="none"), rtol=1e-5, atol=1e-6
        )
        assert float(bounds.min()) < 0.8 * float(bounds.max())
    assert len(module.head._forward_hooks) == 0
