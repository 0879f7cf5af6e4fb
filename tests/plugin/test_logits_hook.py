from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_as.plugin.logits_hook import LogitsHook
from tests.helpers.tiny import normal, refused

B, C = 6, 4
WEIGHTS = torch.tensor([0.1, 1.0, 7.0, 0.5, 2.0, 3.0])


def module_of(net: nn.Module, automatic: bool = True) -> Any:
    module: Any = LightningModule()
    module.net, module.automatic_optimization = net, automatic
    return module


def armed(output: Any, weights: Tensor | None = None, keep_gradient: bool = False) -> tuple[Any, Any]:
    """A hook on a submodule that has just given `output`, and what came through the hook."""
    module = module_of(nn.Identity())
    hook = LogitsHook(module, "net", keep_gradient)
    hook.arm(B, weights)
    return hook, module.net(output)


def test_calls_with_a_gradient_and_of_that_size_count_and_with_each_batch_anew():
    module, inputs = module_of(nn.Linear(3, C)), normal(B, 3)
    hook: Any = LogitsHook(module, "net", keep_gradient=True)
    hook.arm(B, torch.zeros(B))
    with torch.no_grad():
        module.net(inputs)
    with torch.inference_mode():
        module.net(inputs)
    module.net(normal(B + 1, 3)).sum().backward()
    assert hook.logits is None
    assert bool((module.net.weight.grad != 0).any())  # not scaled either
    hook.arm(B, None)
    with torch.no_grad():
        module.net(-inputs)
    logits = module.net(inputs)
    logits.sum().backward()
    assert torch.equal(hook.logits, logits)
    assert not hook.logits.requires_grad
    assert torch.equal(hook.squared_norms(), torch.full((B,), float(C)))
    hook.arm(B, None)  # for the next batch
    assert hook.logits is hook.squared_norms() is None
    hook.disarm()
    module.net(inputs).sum().backward()
    assert hook.logits is None


def test_an_output_without_a_row_per_instance_is_passed_through_unseen():
    scalar, rows = torch.tensor(1.0), normal(B, 2)
    odd = ((rows, None), {"other": rows}, SimpleNamespace(logits="none"), SimpleNamespace(logits=scalar))
    for output in (*odd, scalar, normal(2 * B, 2)):
        for weights in (None, torch.ones(B)):
            hook, passed = armed(output, weights)
            assert passed is output
            assert hook.logits is None


def test_an_output_with_logits_in_it_as_hugging_face_gives_is_seen():
    rows = normal(B, 2).requires_grad_()
    for output in (SimpleNamespace(logits=rows), {"logits": rows}):
        hook, passed = armed(output, keep_gradient=True)
        assert passed is output
        assert torch.equal(hook.logits, rows)
        with refused(f"`weights` scale the gradient of a tensor, but 'net' gives a {type(output).__name__}: name the"):
            armed(output, torch.ones(B))
    hook, _ = armed(normal(B, 2), torch.ones(B))
    with refused("the output of 'net', but no gradient comes back there: name the last submodule with parameters"):
        hook.begin_backward()


@pytest.mark.parametrize("shape", [(B,), (B, C), (B, C, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_scale_the_rows_of_what_goes_back_but_not_what_is_kept(shape: tuple[int, ...], dtype: torch.dtype):
    leaf, incoming = normal(*shape).to(dtype).requires_grad_(), normal(*shape, seed=1).to(dtype)
    hook, passed = armed(leaf * 1, WEIGHTS, keep_gradient=True)
    assert torch.equal(passed, leaf)
    assert passed.dtype == dtype
    passed.mul_(2)  # a module may change it in place
    passed.backward(incoming)
    rows = WEIGHTS.to(dtype).view(-1, *[1] * (len(shape) - 1))
    assert torch.equal(leaf.grad, rows * (2 * incoming))  # pyright: ignore[reportArgumentType]
    norms = torch.stack([row.square().sum() for row in 2 * incoming.double()])
    torch.testing.assert_close(hook.squared_norms(), norms)


class Step:
    """A submodule that is called on what it takes of a batch, under a hook, and what is found then."""

    def __init__(self, automatic: bool = True, weights: Tensor | None = None) -> None:
        self.module = module_of(nn.Linear(3, C), automatic)
        self.batch = {"pair": [normal(B, 3), normal(B, 3, seed=1)], "labels": torch.arange(B)}
        self.fake = normal(B, 3, seed=2).requires_grad_()
        self.hook: Any = LogitsHook(self.module, "net", keep_gradient=True)
        self.hook.arm(B, weights, batch=self.batch)

    def __call__(self, *inputs: Tensor, backward: bool = True) -> Tensor:
        """Call it on each, and go back; the rows of the gradient of the weights, of the last."""
        outputs = [self.module.net(one) for one in inputs]
        if backward:
            self.hook.begin_backward()
            sum(output.sum() for output in outputs).backward()  # pyright: ignore[reportAttributeAccessIssue]
            self.hook._in_backward = False
        return outputs[0].detach()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_of_several_calls_in_a_step_the_one_on_a_tensor_of_the_batch_counts(weights: Tensor | None):
    for order in (1, -1):
        step = Step(weights=weights)
        real = step.batch["pair"][0]
        inputs = [real[:, :].view(B, 3), step.fake][::order]
        step(*inputs)
        assert torch.equal(step.hook.logits, step.module.net(real))
        # Only the rows of the drawn batch are scaled.
        scale = torch.ones(B) if weights is None else weights
        expected = (scale[:, None] * real + step.fake).sum(0).expand(C, 3)
        torch.testing.assert_close(step.module.net.weight.grad, expected)


SEVERAL = "`logits_from='net'` is called several times in a training step, and it is not clear which .*: "


def test_of_several_others_none_counts_which_is_an_error_that_lists_them():
    for on_batch in (False, True):
        step = Step()
        one, other = step.batch["pair"] if on_batch else (step.fake, step.fake * 2)
        step(one, other)
        mark = ", on the batch" if on_batch else ""
        with refused(SEVERAL + rf"1. \(6, 3\) → \(6, 4\){mark}, 2. \(6, 3\) → \(6, 4\){mark}. Name .*hand_over"):
            _ = step.hook.logits
        step = Step(weights=WEIGHTS)
        with refused(SEVERAL + ".* have the module take the weights as an attribute and multiply its losses"):
            step(*(step.batch["pair"] if on_batch else (step.fake, step.fake * 2)))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_call_for_the_log_is_not_in_the_graph_of_the_loss(weights: Tensor | None):
    for order in (1, -1):
        step = Step(weights=weights)
        features = [normal(B, 3, seed=4), normal(B, 3, seed=5)]
        logged, trained = (step.module.net(one) for one in features[::order])
        step.hook.begin_backward()
        trained.sum().backward()
        assert torch.equal(step.hook.logits, trained)
        assert not torch.equal(step.hook.logits, logged)
        scale = torch.ones(B) if weights is None else weights
        expected = (scale[:, None] * features[::order][1]).sum(0).expand(C, 3)
        torch.testing.assert_close(step.module.net.weight.grad, expected)
    if weights is not None:  # one on the batch for the log alone, while the loss is of something else
        step = Step(weights=weights)
        step(step.batch["pair"][0], backward=False)
        step(step.fake)
        with refused(SEVERAL):
            _ = step.hook.logits


def test_a_step_that_is_evaluated_again_counts_as_it_was_first_with_each_evaluation_weighted():
    step = Step(weights=WEIGHTS)
    features = step.batch["pair"][0] * 1  # not a tensor of the batch
    first = step(features)
    step.module.zero_grad()
    with torch.no_grad():
        step.module.net.weight.add_(1)
    step(features)
    assert torch.equal(step.hook.logits, first)
    torch.testing.assert_close(step.module.net.weight.grad, (WEIGHTS[:, None] * features).sum(0).expand(C, 3))


def test_in_manual_optimization_the_last_backward_pass_on_the_batch_counts():
    real = Step().batch["pair"][0]
    for passes, counts in (([0, 1], 0), ([1, 0], 0), ([0, 0], 0), ([1], 1), ([1, 1], None)):
        step = Step(automatic=False)
        logits = [step([step.batch["pair"][0], step.fake][which]) for which in passes]
        if counts is None:
            with refused(SEVERAL):
                _ = step.hook.logits
        else:
            assert torch.equal(step.hook.logits, logits[len(passes) - 1 - passes[::-1].index(counts)])
    step = Step(automatic=False, weights=WEIGHTS)
    step(step.fake)  # whose gradient was scaled when nobody knew better
    with refused(SEVERAL):
        step(step.batch["pair"][0])
    step = Step(automatic=False, weights=WEIGHTS)
    step(step.batch["pair"][0])
    step(step.fake)
    expected = (WEIGHTS[:, None] * real + step.fake).sum(0).expand(C, 3)
    torch.testing.assert_close(step.module.net.weight.grad, expected)
    assert torch.equal(step.hook.logits, step.module.net(real))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_makes_no_second_call(reentrant: bool):
    step = Step(weights=WEIGHTS)
    inputs = step.fake
    output: Any = checkpoint(step.module.net, inputs, use_reentrant=reentrant)
    step.hook.begin_backward()
    output.sum().backward()
    assert torch.equal(step.hook.logits, output)
    torch.testing.assert_close(step.module.net.weight.grad, (WEIGHTS[:, None] * inputs).sum(0).expand(C, 3))


def test_what_shares_no_memory_or_has_none_is_on_no_batch():
    step = Step()
    step.batch["graph"] = torch.eye(3).to_sparse()
    step(step.fake, step.batch["pair"][1])
    assert torch.equal(step.hook.logits, step.module.net(step.batch["pair"][1]))
