from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_as.plugin.hooks import LogitsHook, submodules

B = 4


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.heads = nn.ModuleDict({"first": nn.Linear(5, 2)})

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["first"](self.body(x))


class Gives(nn.Module):
    """Gives what it is called with."""

    def forward(self, output: Any) -> Any:
        return output


class Around(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Gives()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def armed(output: Any, weights: Tensor | None = None, keep_gradient: bool = False) -> tuple[LogitsHook, Any]:
    """A hook on a submodule that has just given `output`, and what came through the hook."""
    module = Around()
    hook = LogitsHook(module, "net", keep_gradient)
    hook.arm(B, weights)
    return hook, module.net(output)


def seen(hook: LogitsHook) -> Tensor:
    assert hook.logits is not None
    return hook.logits


@pytest.mark.parametrize(("name", "width"), [("body", 5), ("heads.first", 2)])
def test_the_output_of_the_named_submodule_is_seen_without_its_graph(name: str, width: int):
    module = Module()
    part = module.get_submodule(name)
    expected: list[Any] = []
    part.register_forward_hook(lambda module, inputs, output: expected.append(output))
    hook = LogitsHook(module, name, keep_gradient=False)
    hook.arm(B, None)
    module(normal(B, 3))
    assert seen(hook).shape == (B, width)
    assert torch.equal(seen(hook), expected[0])
    assert not seen(hook).requires_grad


def test_without_weights_the_output_is_the_very_same_object():
    output = normal(B, 2).requires_grad_()
    assert armed(output)[1] is output


@pytest.mark.parametrize("name", ["head", "heads.second", "forward"])
def test_a_submodule_that_is_not_there(name: str):
    message = rf"`logits_from='{name}'` is no submodule of Module. It has: body, heads, heads.first\."
    with pytest.raises(MisconfigurationException, match=message):
        LogitsHook(Module(), name, keep_gradient=False)


def test_nothing_is_seen_unless_it_is_armed():
    module = Module()
    hook = LogitsHook(module, "body", keep_gradient=True)
    module(normal(B, 3)).sum().backward()
    assert hook.logits is None
    hook.arm(B, torch.zeros(B))
    module(normal(B, 3)).sum().backward()
    assert hook.logits is not None
    assert hook.gradient is not None
    hook.disarm()
    assert hook.logits is None
    assert hook.gradient is None
    module.zero_grad()
    module(normal(B, 3)).sum().backward()
    assert hook.logits is None
    assert hook.gradient is None
    assert module.body.weight.grad is not None
    assert bool((module.body.weight.grad != 0).any())  # the weights, which were 0, are gone


def test_armed_again_it_has_forgotten_the_batch_before():
    module = Module()
    hook = LogitsHook(module, "body", keep_gradient=True)
    hook.arm(B, None)
    module(normal(B, 3)).sum().backward()
    hook.arm(B, None)
    assert hook.logits is None
    assert hook.gradient is None


def test_passes_without_a_gradient_and_of_other_sizes_are_not_seen():
    module = Module()
    hook = LogitsHook(module, "body", keep_gradient=False)
    hook.arm(B, torch.zeros(B))
    with torch.no_grad():
        module(normal(B, 3))
    with torch.inference_mode():
        module(normal(B, 3))
    assert hook.logits is None
    module(normal(B + 1, 3)).sum().backward()
    assert hook.logits is None
    assert module.body.weight.grad is not None
    assert bool((module.body.weight.grad != 0).any())


def test_of_several_passes_the_last_counts():
    module = Module()
    hook = LogitsHook(module, "body", keep_gradient=True)
    hook.arm(B, None)
    for seed in (0, 1):
        inputs = normal(B, 3, seed=seed)
        module(inputs).square().sum().backward()
    outputs = module.body(inputs).detach()
    assert torch.equal(seen(hook), outputs)
    outputs.requires_grad_()
    module.heads["first"](outputs).square().sum().backward()
    assert hook.gradient is not None
    assert torch.equal(hook.gradient, outputs.grad)  # pyright: ignore[reportArgumentType]


def test_an_output_with_logits_in_it_as_hugging_face_gives_is_seen():
    logits = normal(B, 2)
    hook, output = armed(SimpleNamespace(loss=torch.tensor(1.0), logits=logits))
    assert torch.equal(seen(hook), logits)
    assert output.logits is logits


@pytest.mark.parametrize(
    "output",
    [
        (normal(B, 2), None),
        {"logits": normal(B, 2)},
        SimpleNamespace(logits="none"),
        SimpleNamespace(),
        None,
        normal(2 * B, 2),
        torch.tensor(1.0),
        SimpleNamespace(logits=torch.tensor(1.0)),
    ],
    ids=["a tuple", "a mapping", "no tensor", "without logits", "None", "other rows", "a scalar", "scalar logits"],
)
@pytest.mark.parametrize("weights", [None, torch.ones(B)], ids=["", "weights"])
def test_an_output_without_a_row_per_instance_is_passed_through_unseen(output: Any, weights: Tensor | None):
    hook, passed = armed(output, weights)
    assert passed is output
    assert hook.logits is None


def test_weights_on_an_output_with_logits_in_it_are_refused():
    message = (
        r"`weights` scale the gradient of a tensor, but 'net' gives a SimpleNamespace: name the submodule in it that "
        "gives the logits themselves"
    )
    with pytest.raises(MisconfigurationException, match=message):
        armed(SimpleNamespace(logits=normal(B, 2)), torch.ones(B))


@pytest.mark.parametrize("shape", [(B,), (B, 2), (B, 2, 3, 3)])
def test_weights_scale_what_goes_back_but_not_what_is_kept(shape: tuple[int, ...]):
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5])
    output = normal(*shape).requires_grad_()
    hook, passed = armed(output, weights, keep_gradient=True)
    assert torch.equal(passed, output)
    passed.square().sum().backward()
    assert hook.gradient is not None
    assert torch.equal(hook.gradient, 2 * output)
    assert output.grad is not None
    assert torch.equal(output.grad, weights.view(-1, *[1] * (len(shape) - 1)) * 2 * output)
    assert not hook.gradient.requires_grad


def test_a_gradient_is_only_kept_if_it_is_asked_for():
    hook, passed = armed(normal(B, 2).requires_grad_())
    passed.sum().backward()
    assert hook.gradient is None


def test_an_output_that_needs_no_gradient_is_seen_all_the_same():
    hook, _ = armed(normal(B, 2), keep_gradient=True)
    assert torch.equal(seen(hook), normal(B, 2))
    assert hook.gradient is None


@pytest.mark.parametrize("weights", [None, torch.tensor([0.0, 1.0, 2.0, 0.5])], ids=["", "weights"])
def test_the_output_may_be_changed_in_place_afterwards(weights: Tensor | None):
    leaf = normal(B, 2).requires_grad_()
    hook, passed = armed(leaf * 1, weights)
    passed.mul_(3)
    passed.sum().backward()
    rows = torch.ones(B) if weights is None else weights
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 3 * rows[:, None].expand(B, 2))
    assert hook.logits is not None


def test_removed_it_leaves_the_module_as_it_was():
    module = Module()
    hook = LogitsHook(module, "body", keep_gradient=True)
    assert len(module.body._forward_hooks) == 1
    hook.arm(B, torch.zeros(B))
    hook.remove()
    assert len(module.body._forward_hooks) == 0
    module(normal(B, 3))
    assert hook.logits is None
    hook.remove()  # a second time does nothing


def test_the_names_for_messages_are_cut_after_thirty():
    assert submodules(nn.Linear(1, 1)) == "none"
    assert submodules(Module()) == "body, heads, heads.first"
    many = nn.Sequential(*(nn.Identity() for _ in range(31)))
    assert submodules(many) == ", ".join(map(str, range(30))) + ", … (31 in all)"
    assert submodules(many[:30]) == ", ".join(map(str, range(30)))
