from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_as.plugin.hooks import LinearGradients, LogitsHook, submodules
from tests.helpers.gradients import own_gradients
from tests.helpers.tiny import normal, refused

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


def armed(output: Any, weights: Tensor | None = None, keep_gradient: bool = False) -> tuple[Any, Any]:
    """A hook on a submodule that has just given `output`, and what came through the hook."""
    module: Any = LightningModule()
    module.net = nn.Identity()
    hook = LogitsHook(module, "net", keep_gradient)
    hook.arm(B, weights)
    return hook, module.net(output)


@pytest.mark.parametrize("name", ["head", "body.2"])
def test_of_the_passes_while_it_is_armed_the_last_with_a_gradient_and_of_that_size_is_seen(name: str):
    module, inputs = Net(), normal(B, 3)
    expected: list[Tensor] = []
    module.get_submodule(name).register_forward_hook(lambda module, inputs, output: expected.append(output.detach()))
    hook: Any = LogitsHook(module, name, keep_gradient=True)
    hook.arm(B, torch.zeros(B))
    with torch.no_grad():
        module(inputs)
    with torch.inference_mode():
        module(inputs)
    module(normal(B + 1, 3)).sum().backward()
    assert hook.logits is None
    assert bool((module.head.weight.grad != 0).any())  # not scaled either
    hook.arm(B, None)
    module(normal(B, 3, seed=1)).sum().backward()
    module(inputs).sum().backward()
    assert torch.equal(hook.logits, expected[-1])
    assert not hook.logits.requires_grad
    assert hook.gradient is not None
    hook.arm(B, None)  # for the next batch
    assert hook.logits is hook.gradient is hook.squared_norms() is None
    module(inputs).sum().backward()
    hook.disarm()
    module(inputs).sum().backward()
    assert hook.logits is hook.gradient is None
    hook.remove()
    assert len(module.get_submodule(name)._forward_hooks) == 1
    hook.remove()  # a second time does nothing


def test_an_output_without_a_row_per_instance_is_passed_through_unseen():
    scalar, rows = torch.tensor(1.0), normal(B, 2)
    odd = ((rows, None), {"logits": rows}, SimpleNamespace(logits="none"), SimpleNamespace(logits=scalar))
    for output in (*odd, scalar, normal(2 * B, 2)):
        for weights in (None, torch.ones(B)):
            hook, passed = armed(output, weights)
            assert passed is output
            assert hook.logits is None


def test_an_output_with_logits_in_it_as_hugging_face_gives_is_seen():
    output = SimpleNamespace(logits=normal(B, 2))
    hook, passed = armed(output, keep_gradient=True)
    assert passed is output
    assert torch.equal(hook.logits, output.logits)
    assert hook.gradient is None
    with refused("`weights` scale the gradient of a tensor, but 'net' gives a SimpleNamespace: name the submodule in"):
        armed(output, torch.ones(B))
    with refused("the output of 'net', but no gradient comes back there: name the last submodule with parameters"):
        armed(normal(B, 2), torch.ones(B))


@pytest.mark.parametrize("shape", [(B,), (B, C), (B, C, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_scale_the_rows_of_what_goes_back_but_not_what_is_kept(shape: tuple[int, ...], dtype: torch.dtype):
    leaf, incoming = normal(*shape).to(dtype).requires_grad_(), normal(*shape, seed=1).to(dtype)
    hook, passed = armed(leaf * 1, WEIGHTS, keep_gradient=True)
    assert torch.equal(passed, leaf)
    assert passed.dtype == dtype
    passed.mul_(2)  # a module may change it in place
    passed.backward(incoming)
    assert not hook.gradient.requires_grad
    assert torch.equal(hook.gradient, 2 * incoming)
    rows = WEIGHTS.to(dtype).view(-1, *[1] * (len(shape) - 1))
    assert torch.equal(leaf.grad, rows * (2 * incoming))  # pyright: ignore[reportArgumentType]
    norms = torch.stack([row.square().sum() for row in 2 * incoming.double()])
    torch.testing.assert_close(hook.squared_norms(), norms)


def test_a_submodule_that_is_not_there_and_names_for_messages_that_are_cut_after_thirty():
    for name in ("heads", "body.9", "forward"):
        with refused(rf"`logits_from='{name}'` is no submodule of Net\. It has: conv, body, body\.0, .*head\."):
            LogitsHook(Net(), name, keep_gradient=False)
    assert submodules(nn.Linear(1, 1)) == "none"
    many = nn.Sequential(*(nn.Identity() for _ in range(31)))
    assert submodules(many) == ", ".join(map(str, range(30))) + ", … (31 in all)"
    assert submodules(many[:30]) == ", ".join(map(str, range(30)))


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
