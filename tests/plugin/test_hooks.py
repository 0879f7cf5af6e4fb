import copy
import io
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_as.plugin.hooks import LinearGradients, UncopiedHook
from lightning_as.plugin.logits_hook import LogitsHook
from tests.helpers.gradients import own_gradients
from tests.helpers.tiny import differences, normal, refused

B, C = 6, 4
WEIGHTS = torch.tensor([0.1, 1.0, 7.0, 0.5, 2.0, 3.0])


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


def watched(module: LightningModule, weights: Tensor | None = None) -> Any:
    gradients = LinearGradients(module)
    gradients.arm(B, weights)
    return gradients


@pytest.mark.parametrize(
    ("name", "compiled"),
    [("head", False), ("head", True), ("body", False), ("body.2", False), (None, False), ("no weights", False)],
)
def test_the_norms_are_those_of_one_sample_at_a_time_wherever_the_weights_come_in(name: str | None, compiled: bool):
    """At the logits, in the middle with nothing to train behind it, in the loss itself, or nowhere."""
    module, inputs, targets = Net().double(), normal(B, 3).double(), torch.arange(B) % C
    weights = None if name == "no weights" else WEIGHTS
    for part in (module.head, module.middle) if name in ("body", "body.2") else ():
        part.requires_grad_(False)
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    wide = [weight for layer in layers for weight in layer.parameters() if weight.requires_grad]
    expected = own_gradients(module, inputs, targets, wide)
    if compiled:
        module.compile(backend="aot_eager")
        module(inputs)
    hook = LogitsHook(module, name, keep_gradient=False) if name and weights is not None else None  # before the others
    gradients = watched(module, weights)
    if hook is not None:
        hook.arm(B, weights)
    losses = cross_entropy(module(inputs), targets, reduction="none")
    (losses * WEIGHTS if name is None else losses).sum().backward()
    torch.testing.assert_close(gradients.squared_norms(), expected, rtol=1e-6, atol=0)
    torch.compiler.reset()


def test_of_the_backward_passes_while_it_is_armed_the_last_counts():
    module, inputs = Net(), normal(B, 3)
    gradients: Any = LinearGradients(module)
    module(inputs).sum().backward()
    assert gradients.squared_norms() is None
    gradients.arm(B, None)
    with torch.no_grad():
        module(normal(B + 1, 3))
    with torch.inference_mode():
        module(inputs)
    assert gradients.squared_norms() is None
    module(inputs).square().sum().backward()
    first = gradients.squared_norms()
    module(inputs).sum().backward()
    assert not torch.allclose(gradients.squared_norms(), first)
    module(inputs).square().sum().backward()
    assert torch.equal(gradients.squared_norms(), first)
    gradients.arm(B, None)
    module(inputs)  # of which nobody makes a loss
    assert gradients.squared_norms() is None
    gradients.disarm()
    module(inputs).sum().backward()
    assert gradients.squared_norms() is None
    gradients.arm(B, None)
    gradients.remove()
    module(inputs).sum().backward()
    assert gradients.squared_norms() is None
    assert all(len(part._forward_hooks) == 0 for part in module.modules())


def test_layers_whose_gradient_cannot_be_seen_are_refused_by_name():
    with refused(r"but LightningModule has no torch.nn.Linear: use a strategy that goes by losses"):
        LinearGradients(LightningModule())
    for shape in ((B + 1, 7), (B + 1, B, 7), (7,)):
        module = Net()
        watched(module)
        given = ", ".join(map(str, shape))
        with refused(rf"the layer 'head' was given \({given},?\) and not one row for each of the 6"):
            module.head(normal(*shape))
        module.frozen(normal(*shape))  # which does not count
        module.head.requires_grad_(False)
        module.head(normal(*shape))
    module, inputs = Net(), normal(B, 3)
    gradients = watched(module)
    module(inputs)
    with refused("The layer 'body.0' was called twice before its backward pass"):
        module(inputs)
    gradients.arm(B, None)
    module(inputs)  # the next batch has nothing to do with it


@pytest.mark.parametrize("linear", [False, True])
def test_a_copy_amid_a_step_trains_as_if_there_were_no_hook_and_its_file_names_nothing_of_ours(linear: bool):
    module, inputs, targets = Net(), normal(B, 3), torch.arange(B) % C
    plain = copy.deepcopy(module)
    hook = LinearGradients(module) if linear else LogitsHook(module, "head", keep_gradient=True)
    hook.arm(B, WEIGHTS)
    torch.save(module, file := io.BytesIO())
    assert b"lightning_as" not in file.getvalue()
    file.seek(0)
    for twin in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        for one in (twin, plain):
            one.zero_grad()
            cross_entropy(one(inputs), targets).backward()
        assert differences(own(twin), own(plain)) == []
    assert hook.squared_norms() is None
    assert UncopiedHook(print).__reduce__()[0] is getattr


def own(module: nn.Module) -> list[Any]:
    return [parameter.grad for parameter in module.parameters()]


def test_hooks_are_on_a_module_while_they_are_armed_and_in_automatic_optimization_until_the_backward_pass():
    module = Net()

    def count() -> int:
        return sum(len(part._forward_hooks) for part in module.modules())

    for automatic in (True, False):
        module.automatic_optimization = automatic
        for weights in (None, WEIGHTS):
            hook = LogitsHook(module, "head", keep_gradient=False)
            assert count() == 0
            hook.arm(B, weights)
            module(normal(B, 3))
            hook.begin_backward()
            assert count() == 1
            hook.end_backward()
            assert count() == (0 if automatic and weights is None else 1)  # an optimizer may evaluate the step again
            assert hook.logits is not None
            hook.disarm()
            assert count() == 0
