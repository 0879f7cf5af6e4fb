import math
import pickle
from collections.abc import Callable
from typing import Any

import jsonargparse
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import lightning_as
from lightning_as import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from lightning_as.losses import gradient_bound, squared_gradient_norms
from tests.helpers.samples import WEIGHTS, B, C, classes, normal, soft, some_ignored

NARROW = (torch.bfloat16, torch.float16, torch.float32)
Loss = Callable[[Tensor, Tensor], Tensor]
# A loss, its logits and its targets.
CASES: dict[str, tuple[Loss, Tensor, Tensor]] = {
    "plain": (CrossEntropy(), normal(B, C), classes(B)),
    "plain, ignored": (CrossEntropy(), normal(B, C), some_ignored(B).int()),
    "plain, bytes": (CrossEntropy(), normal(B, C), classes(B).to(torch.uint8)),
    "smoothed": (CrossEntropy(0.2), normal(B, C), classes(B)),
    "weighted": (CrossEntropy(class_weights=WEIGHTS), normal(B, C), classes(B)),
    "soft": (CrossEntropy(), normal(B, C), soft(B, C)),
    "plain, a class ignored": (CrossEntropy(ignore_index=2), normal(B, C), some_ignored(B, ignored=2)[:, None]),
    "tokens, ignored": (CrossEntropy(ignore_index=255), normal(B, 5, C), some_ignored(B, 5, ignored=255)),
    "dense, ignored": (CrossEntropy(0.1, WEIGHTS), normal(B, C, 3, 2), some_ignored(B, 3, 2)),
    "binary": (BinaryCrossEntropy(3.0), normal(B), classes(B, count=2)),
    "binary, labels": (BinaryCrossEntropy(WEIGHTS), normal(B, C), classes(B, C, count=2)),
    "squares": (MeanSquaredError(), normal(B, C), normal(B, C, seed=1)),
    "a function": (lambda z, y: (z - y).abs().pow(1.5).sum(1), normal(B, C), normal(B, C, seed=1)),
}
each_case = pytest.mark.parametrize(("loss", "logits", "targets"), CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize(("loss", "logits", "targets"), list(CASES.values())[:-1], ids=list(CASES)[:-1])
def test_losses_are_wide_of_each_sample_alone_and_outlive_a_pickle(loss: Loss, logits: Tensor, targets: Tensor):
    for dtype in NARROW:
        narrow = logits.to(dtype).requires_grad_()
        losses = loss(narrow, targets)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses.double(), loss(narrow.double(), targets), rtol=1e-5, atol=1e-6)
        losses.sum().backward()
        assert narrow.grad.dtype == dtype
        assert narrow.grad.any()
    assert loss(logits[:0], targets[:0]).shape == (0,)
    copy = pickle.loads(pickle.dumps(loss))
    assert repr(copy) == repr(loss)
    assert torch.equal(copy(logits, targets), loss(logits, targets))


@pytest.mark.parametrize(
    ("name", "init_args"),
    [
        ("CrossEntropy", {"label_smoothing": 0.1, "class_weights": [1.0, 2.0], "ignore_index": 255, "class_dim": -1}),
        ("BinaryCrossEntropy", {"pos_weight": 2.0}),
        ("BinaryCrossEntropy", {"pos_weight": [2.0, 1.0]}),
        ("MeanSquaredError", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tests")
def test_can_be_configured_by_class_path_and_say_how(name: str, init_args: dict[str, Any]):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    # Of a callable that returns a class, such as Tensor, jsonargparse takes the class path to be that of the result.
    parser.add_argument("--loss", type=Callable[[Tensor, Any], Any])
    config = parser.parse_object({"loss": {"class_path": f"lightning_as.{name}", "init_args": init_args}})
    loss = parser.instantiate_classes(config)["loss"]
    assert type(loss) is getattr(lightning_as, name)
    assert repr(loss) == f"{name}({', '.join(f'{key}={value}' for key, value in init_args.items())})"
    for key, value in init_args.items():
        assert not isinstance(value, list) or getattr(type(loss)(**{key: value}), key) is not value  # a copy


@pytest.mark.parametrize(
    ("loss", "name", "values"),
    [
        (CrossEntropy, "label_smoothing", [1.0]),
        (CrossEntropy, "class_weights", [[1.0, -1.0], [math.nan]]),
        (BinaryCrossEntropy, "pos_weight", [-1.0, [1.0, math.inf]]),
    ],
)
def test_refuses_arguments_out_of_range(loss: Callable[..., Loss], name: str, values: list[Any]):
    for value in values:
        with pytest.raises(ValueError, match=rf"`{name}` must be (in \[0, 1\)|finite and not negative), got"):
            loss(**{name: value})


@pytest.mark.parametrize(
    ("loss", "shape", "target_shape", "message"),
    [
        (CrossEntropy(), (6,), (6,), r"`logits` must have the shape \(B, C\) or .*, got \(6,\)"),
        (CrossEntropy(), (6, 4), (6, 2), r"`targets` .* \(6,\) or .* \(6, 4\), got the shape \(6, 2\)"),
        (CrossEntropy(), (6, 4, 3, 2), (6, 2, 3), r"`targets` .* \(6, 3, 2\) or .*, got the shape \(6, 2, 3\)"),
        (CrossEntropy(class_weights=[]), (6, 4), (6,), r"`class_weights` has 0 .* `logits` of \(6, 4\) need 4"),
        (BinaryCrossEntropy(), (), (), r"`logits` must have the shape \(B,\) or \(B, L, ...\), got \(\)"),
        (BinaryCrossEntropy(), (6, 4), (6, 1), r"`targets` .* `logits`, \(6, 4\), got \(6, 1\)"),
        (BinaryCrossEntropy([1.0]), (6, 4), (6, 4), r"`pos_weight` has 1 .* `logits` of \(6, 4\) need 4"),
        (BinaryCrossEntropy([1.0] * 6), (6,), (6,), r"`pos_weight` has 6 .* `logits` of \(6,\) need 1"),
        (MeanSquaredError(), (), (), r"`predictions` must have the shape \(B,\) or \(B, ...\), got \(\)"),
        (MeanSquaredError(), (6, 1), (1, 6), r"`targets` .* `predictions`, \(6, 1\), got \(1, 6\)"),
        (lambda z, y: z.square(), (6, 4), (6,), r"`loss` must give one loss per sample, \(6,\), got .* \(6, 4\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit_and_classes_that_are_no_integers(loss, shape: Any, target_shape: Any, message):
    with pytest.raises(ValueError, match=message):
        squared_gradient_norms(loss, torch.zeros(shape), torch.zeros(target_shape, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"`targets` of the shape \(6,\) must be integers, got torch.float32"):
        squared_gradient_norms(CrossEntropy(), normal(6, 4), torch.zeros(6))


@each_case
def test_norms_agree_with_autograd_one_sample_at_a_time_in_any_mode(loss: Loss, logits: Tensor, targets: Tensor):
    rows = [logits[at : at + 1].clone().requires_grad_() for at in range(B)]
    losses = [loss(row, targets[at : at + 1]).squeeze(0) for at, row in enumerate(rows)]
    torch.testing.assert_close(torch.stack(losses), loss(logits, targets), rtol=1e-12, atol=0)
    expected = [torch.autograd.grad(one, row)[0].square().sum() for one, row in zip(losses, rows, strict=True)]
    norms = squared_gradient_norms(loss, logits.clone().requires_grad_(), targets)
    assert not norms.requires_grad
    assert norms.any()
    torch.testing.assert_close(norms, torch.stack(expected), rtol=1e-12, atol=1e-18)
    with torch.inference_mode():  # no graph can hold what is made here
        made = logits.clone(), targets.clone()
        assert torch.equal(squared_gradient_norms(loss, *made), norms)
    assert torch.equal(squared_gradient_norms(loss, *made), norms)
    with torch.no_grad():
        assert torch.equal(squared_gradient_norms(loss, logits, targets), norms)
    for dtype in NARROW:
        narrow = squared_gradient_norms(loss, logits.to(dtype), targets)
        assert narrow.dtype == torch.float64
        exact = isinstance(loss, (CrossEntropy, BinaryCrossEntropy, MeanSquaredError))
        wide = squared_gradient_norms(loss, logits.to(dtype).double(), targets)
        torch.testing.assert_close(narrow, wide, rtol=0 if exact else 1e-5, atol=0)


def test_losses_of_ones_own_may_be_a_subclass_take_any_targets_and_hold_float32_tensors():
    class Twice(CrossEntropy):
        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            return 2 * super().__call__(logits, targets)

    logits, targets = normal(B, C), classes(B)
    of_a_mapping = squared_gradient_norms(lambda z, y: CrossEntropy()(z, y["labels"]), logits, {"labels": targets})
    torch.testing.assert_close(of_a_mapping, gradient_bound(logits, targets), rtol=1e-12, atol=0)
    doubled = squared_gradient_norms(Twice(), logits, targets)
    torch.testing.assert_close(doubled, 4 * gradient_bound(logits, targets), rtol=1e-12, atol=0)
    weighted = torch.nn.CrossEntropyLoss(weight=torch.full((C,), 2.0), reduction="none")
    norms = squared_gradient_norms(weighted, logits.bfloat16(), targets)
    torch.testing.assert_close(norms, 4 * gradient_bound(logits.bfloat16(), targets), rtol=1e-4, atol=0)


def test_norms_touch_no_gradient_no_logits_and_no_random_state():
    scale, plain, net = torch.nn.Parameter(torch.tensor(2.0)), CrossEntropy(), torch.nn.Linear(5, C)
    logits = net(normal(B, 5).float())
    logits.retain_grad()
    before, state = logits.detach().clone(), torch.get_rng_state()
    for loss in (plain, lambda z, y: plain(scale * z, y)):
        assert squared_gradient_norms(loss, logits, classes(B)).all()
    assert scale.grad is logits.grad is net.weight.grad is None
    assert torch.equal(logits.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)
    logits.sum().backward()  # the caller's graph is whole


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_the_bound_agrees_with_autograd_and_takes_any_logits(count: int):
    logits, targets = 2 * normal(200, count), classes(200, count=count)
    for scale in (1, 8):  # half of the predictions nearly sure
        z = (logits * scale).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(z, targets, reduction="sum"), z)
        bound = gradient_bound(z, targets)
        assert not bound.requires_grad
        # autograd rounds softmax − 1, which ours does not: 1e-16 of it, squared with the entries of sure predictions.
        torch.testing.assert_close(bound, gradient.square().sum(1), rtol=1e-12, atol=1e-19)
        assert torch.equal(z.detach(), logits * scale)
    for narrow in (logits.to(dtype) for dtype in NARROW):
        assert torch.equal(gradient_bound(narrow, targets), gradient_bound(narrow.double(), targets))
    assert gradient_bound(logits * 1e300, targets).isfinite().all()
    for bad in (targets + count, targets - count):
        with pytest.raises(RuntimeError):
            gradient_bound(logits, bad)
    with pytest.raises(ValueError, match="`targets` must be one for each of the 200 instances, got 199"):
        gradient_bound(logits, targets[1:])


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("margin", [20.0, 36.0, 60.0, 150.0])
@pytest.mark.parametrize("count", [2, 10])
def test_sure_predictions_keep_their_small_bound_to_full_precision(margin: float, count: int):
    logits = torch.zeros(3, count)
    logits[:, 1] = margin
    others = math.exp(-margin) / (1 + (count - 1) * math.exp(-margin))  # softmax of each wrong class
    exact = ((count - 1) * others) ** 2 + (count - 1) * others**2
    targets = torch.tensor([1, -100, 0], dtype=torch.int32)
    norms = squared_gradient_norms(CrossEntropy(), logits, targets)
    assert norms[:2].tolist() == pytest.approx([exact, 0.0], rel=1e-9, abs=0)
    wrong = (1 - others) ** 2 + (1 - (count - 1) * others) ** 2 + (count - 2) * others**2
    assert norms[2].item() == pytest.approx(wrong)
    assert targets.tolist() == [1, -100, 0]
