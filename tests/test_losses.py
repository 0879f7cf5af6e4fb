import math
import pickle
from collections.abc import Callable
from typing import Any

import jsonargparse
import pytest
import torch
from torch import Tensor

from lightning_as.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    MeanSquaredError,
    gradient_bound,
    squared_gradient_norms,
)

B, C = 6, 4
WEIGHTS = [0.5, 0.0, 2.0, 1.25]
Loss = Callable[[Tensor, Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, count: int = C) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(1))


def soft(*shape: int) -> Tensor:
    return normal(*shape, seed=2).softmax(1)


def some_ignored(*shape: int) -> Tensor:
    """Class indices; sample 0 has one ignored pixel and sample 1 nothing else."""
    targets = classes(*shape)
    targets.view(shape[0], -1)[0, 0] = -100
    targets[1] = -100
    return targets


# --- Written from the formulas, number by number ---


def naive_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, weights: list[float] | None) -> Tensor:
    """−Σ_c w_c t_c log softmax_c, with t smoothed towards 1 / C; the mean over the pixels that have a target."""
    losses = []
    for z, y in zip(logits.double(), targets, strict=True):
        pixels = []
        columns = z.reshape(z.shape[0], -1).T.tolist()
        wanted = y.reshape(len(z), -1).T.tolist() if y.shape == z.shape else y.flatten().tolist()
        for column, target in zip(columns, wanted, strict=True):
            if target == -100:
                continue
            count = len(column)
            shares = target if isinstance(target, list) else [float(c == target) for c in range(count)]
            shares = [(1 - smoothing) * share + smoothing / count for share in shares]
            log_sum = math.log(math.fsum(math.exp(entry) for entry in column))
            factors = weights or [1.0] * count
            pixels.append(-math.fsum(w * t * (x - log_sum) for w, t, x in zip(factors, shares, column, strict=True)))
        losses.append(sum(pixels) / len(pixels) if pixels else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


def naive_binary_cross_entropy(logits: Tensor, targets: Tensor, weight: Callable[[int], float]) -> Tensor:
    """−w_l y log σ(z) − (1 − y) log(1 − σ(z)), the mean over a sample's entries; (B, L, entries) both."""
    losses = []
    for z, y in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
        entries = []
        for label, (row, wanted) in enumerate(zip(z, y, strict=True)):
            for entry, target in zip(row, wanted, strict=True):
                sigmoid = 1 / (1 + math.exp(-entry))
                positive = weight(label) * target * math.log(sigmoid)
                entries.append(-positive - (1 - target) * math.log(1 - sigmoid))
        losses.append(sum(entries) / len(entries))
    return torch.tensor(losses, dtype=torch.float64)


# --- The losses ---


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("make", [classes, some_ignored, soft])
@pytest.mark.parametrize("spatial", [(), (5,), (3, 2), (2, 1, 3)], ids=str)
def test_cross_entropy_is_its_formula(spatial, make, smoothing, weights):
    logits = normal(B, C, *spatial)
    targets = make(B, C, *spatial) if make is soft else make(B, *spatial)
    losses = CrossEntropy(smoothing, weights)(logits, targets)
    expected = naive_cross_entropy(logits, targets, smoothing, weights)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_cross_entropy_takes_class_indices_of_any_integer_type(dtype):
    logits, targets = normal(B, C), classes(B)
    assert torch.equal(CrossEntropy()(logits, targets.to(dtype)), CrossEntropy()(logits, targets))
    norms = squared_gradient_norms(CrossEntropy(), logits, targets.to(dtype))
    assert torch.equal(norms, squared_gradient_norms(CrossEntropy(), logits, targets))


def test_cross_entropy_takes_one_hot_integers_as_probabilities():
    logits, targets = normal(B, C), classes(B)
    one_hot = torch.nn.functional.one_hot(targets, C)
    torch.testing.assert_close(CrossEntropy(0.1)(logits, one_hot), CrossEntropy(0.1)(logits, targets))


@pytest.mark.parametrize(
    ("pos_weight", "weight"),
    [(None, lambda label: 1.0), (2.5, lambda label: 2.5), ([0.5, 3.0, 0.0], lambda label: [0.5, 3.0, 0.0][label])],
    ids=["unweighted", "one weight", "weights"],
)
@pytest.mark.parametrize("shape", [(B, 3), (B, 3, 3), (B, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("kind", ["integers", "bools", "probabilities"])
def test_binary_cross_entropy_is_its_formula(shape, kind, pos_weight, weight):
    logits = normal(*shape)
    targets = classes(*shape, count=2)
    targets = {"integers": targets, "bools": targets.bool(), "probabilities": normal(*shape, seed=3).sigmoid()}[kind]
    losses = BinaryCrossEntropy(pos_weight)(logits, targets)
    expected = naive_binary_cross_entropy(logits.reshape(B, 3, -1), targets.reshape(B, 3, -1), weight)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pos_weight", [1.5, [1.5]], ids=str)
@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [((B,), (B,)), ((B, 1), (B,)), ((B,), (B, 1)), ((B, 1, 3, 2), (B, 3, 2)), ((B, 1, 3, 2), (B, 1, 3, 2))],
    ids=str,
)
def test_binary_cross_entropy_does_without_the_dimension_of_a_single_label(shape, target_shape, pos_weight):
    logits, targets = normal(*shape), classes(*target_shape, count=2)
    expected = naive_binary_cross_entropy(logits.reshape(B, 1, -1), targets.reshape(B, 1, -1), lambda label: 1.5)
    torch.testing.assert_close(BinaryCrossEntropy(pos_weight)(logits, targets), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [((B,), (B,)), ((B, 1), (B,)), ((B,), (B, 1)), ((B, 3), (B, 3)), ((B, 1, 3, 2), (B, 1, 3, 2))],
    ids=str,
)
def test_mean_squared_error_is_its_formula(shape, target_shape):
    predictions, targets = normal(*shape), normal(*target_shape, seed=1)
    pairs = zip(predictions.reshape(B, -1).tolist(), targets.reshape(B, -1).tolist(), strict=True)
    expected = [sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) / len(p) for p, t in pairs]
    losses = MeanSquaredError()(predictions, targets)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


# A loss, its logits and its targets.
CASES: dict[str, tuple[Loss, Tensor, Tensor]] = {
    "plain": (CrossEntropy(), normal(B, C), classes(B)),
    "plain, ignored": (CrossEntropy(), normal(B, C), some_ignored(B)),
    "smoothed": (CrossEntropy(0.2), normal(B, C), classes(B)),
    "weighted": (CrossEntropy(class_weights=WEIGHTS), normal(B, C), classes(B)),
    "soft": (CrossEntropy(), normal(B, C), soft(B, C)),
    "dense": (CrossEntropy(), normal(B, C, 3, 2), classes(B, 3, 2)),
    "dense, ignored": (CrossEntropy(0.1, WEIGHTS), normal(B, C, 3, 2), some_ignored(B, 3, 2)),
    "binary": (BinaryCrossEntropy(3.0), normal(B), classes(B, count=2)),
    "binary, labels": (BinaryCrossEntropy(WEIGHTS), normal(B, C), classes(B, C, count=2)),
    "squares": (MeanSquaredError(), normal(B, C), normal(B, C, seed=1)),
    "squares, column": (MeanSquaredError(), normal(B, 1), normal(B, seed=1)),
    "a function": (lambda z, y: (z - y).abs().pow(1.5).sum(1), normal(B, C), normal(B, C, seed=1)),
}
each_case = pytest.mark.parametrize(("loss", "logits", "targets"), CASES.values(), ids=CASES.keys())
OURS = {name: case for name, case in CASES.items() if name != "a function"}
each_loss = pytest.mark.parametrize(("loss", "logits", "targets"), OURS.values(), ids=OURS.keys())


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_taken_into_float32_first(loss, logits, targets, dtype):
    narrow = logits.to(dtype).requires_grad_()
    losses = loss(narrow, targets)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), loss(narrow.double(), targets), rtol=1e-5, atol=1e-6)
    losses.sum().backward()
    assert narrow.grad is not None
    assert narrow.grad.dtype == dtype
    assert narrow.grad.any()


@each_loss
def test_an_empty_batch_has_no_losses(loss, logits, targets):
    assert loss(logits[:0], targets[:0]).shape == (0,)


@each_loss
def test_the_gradient_of_the_mean_loss_is_the_mean_of_the_samples_gradients(loss, logits, targets):
    size = logits[0].numel()
    inputs, net = normal(B, 5, seed=4), torch.nn.Linear(5, size, dtype=torch.float64)
    total = torch.zeros_like(net.weight)
    for row, target in zip(inputs, targets, strict=True):
        alone = loss(net(row).view(1, *logits.shape[1:]), target.unsqueeze(0))
        total += torch.autograd.grad(alone.squeeze(0), net.weight)[0]
    (expected,) = torch.autograd.grad(loss(net(inputs).view_as(logits), targets).mean(), net.weight)
    assert expected.any()
    torch.testing.assert_close(total / B, expected, rtol=1e-10, atol=1e-14)


# --- Their surroundings ---


@each_loss
def test_pickles(loss, logits, targets):
    copy = pickle.loads(pickle.dumps(loss))
    assert repr(copy) == repr(loss)
    assert torch.equal(copy(logits, targets), loss(logits, targets))


def test_repr_tells_the_arguments():
    assert repr(CrossEntropy(0.1, [1.0, 2.0])) == "CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 2.0])"
    assert repr(BinaryCrossEntropy(2.0)) == "BinaryCrossEntropy(pos_weight=2.0)"
    assert repr(MeanSquaredError()) == "MeanSquaredError()"


@pytest.mark.parametrize(
    ("name", "init_args", "expected"),
    [
        ("CrossEntropy", {"label_smoothing": 0.1, "class_weights": [1.0, 2.0]}, CrossEntropy(0.1, [1.0, 2.0])),
        ("BinaryCrossEntropy", {"pos_weight": 2.0}, BinaryCrossEntropy(2.0)),
        ("BinaryCrossEntropy", {"pos_weight": [2.0, 1.0]}, BinaryCrossEntropy([2.0, 1.0])),
        ("MeanSquaredError", {}, MeanSquaredError()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tests")
def test_can_be_configured_by_class_path(name, init_args, expected):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    # Of a callable that returns a class, such as Tensor, jsonargparse takes the class path to be that of the result.
    parser.add_argument("--loss", type=Callable[[Tensor, Any], Any])
    config = parser.parse_object({"loss": {"class_path": f"lightning_as.losses.{name}", "init_args": init_args}})
    loss = parser.instantiate_classes(config)["loss"]
    assert type(loss) is type(expected)
    assert repr(loss) == repr(expected)


def test_keeps_weights_of_its_own():
    weights = [1.0, 2.0]
    losses = CrossEntropy(class_weights=weights), BinaryCrossEntropy(weights)
    weights[0] = 9.0
    assert losses[0].class_weights == losses[1].pos_weight == [1.0, 2.0]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_refuses_a_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\), got"):
        CrossEntropy(smoothing)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_refuses_weights_out_of_range(weight):
    with pytest.raises(ValueError, match="`class_weights` must be finite and not negative, got"):
        CrossEntropy(class_weights=[1.0, weight])
    with pytest.raises(ValueError, match="`pos_weight` must be finite and not negative, got"):
        BinaryCrossEntropy(weight)
    with pytest.raises(ValueError, match="`pos_weight` must be finite and not negative, got"):
        BinaryCrossEntropy([1.0, weight])


@pytest.mark.parametrize(
    ("loss", "shape", "target_shape", "message"),
    [
        (CrossEntropy(), (6,), (6,), r"`logits` must have the shape \(B, C\) or .*, got \(6,\)"),
        (CrossEntropy(), (6, 4), (5,), r"`targets` .* \(6,\) or .* \(6, 4\), got the shape \(5,\)"),
        (CrossEntropy(), (6, 4), (6, 1), r"`targets` .* \(6,\) or .* \(6, 4\), got the shape \(6, 1\)"),
        (CrossEntropy(), (6, 4, 3, 2), (6, 2, 3), r"`targets` .* \(6, 3, 2\) or .*, got the shape \(6, 2, 3\)"),
        (CrossEntropy(class_weights=[]), (6, 4), (6,), r"`class_weights` has 0 .* `logits` of \(6, 4\) need 4"),
        (CrossEntropy(class_weights=[1.0]), (6, 4), (6,), r"`class_weights` has 1 .* `logits` of \(6, 4\) need 4"),
        (BinaryCrossEntropy(), (), (), r"`logits` must have the shape \(B,\) or \(B, L, ...\), got \(\)"),
        (BinaryCrossEntropy(), (6, 4), (6,), r"`targets` .* `logits`, \(6, 4\), got \(6,\)"),
        (BinaryCrossEntropy(), (6, 4), (4, 6), r"`targets` .* `logits`, \(6, 4\), got \(4, 6\)"),
        (BinaryCrossEntropy(), (6, 4), (6, 1), r"`targets` .* `logits`, \(6, 4\), got \(6, 1\)"),
        (BinaryCrossEntropy(), (6,), (), r"`targets` .* `logits`, \(6,\), got \(\)"),
        (BinaryCrossEntropy([1.0]), (6, 4), (6, 4), r"`pos_weight` has 1 .* `logits` of \(6, 4\) need 4"),
        (BinaryCrossEntropy([1.0] * 6), (6,), (6,), r"`pos_weight` has 6 .* `logits` of \(6,\) need 1"),
        (MeanSquaredError(), (), (), r"`predictions` must have the shape \(B,\) or \(B, ...\), got \(\)"),
        (MeanSquaredError(), (6, 4), (6,), r"`targets` .* `predictions`, \(6, 4\), got \(6,\)"),
        (MeanSquaredError(), (6, 1), (6, 4), r"`targets` .* `predictions`, \(6, 1\), got \(6, 4\)"),
        (MeanSquaredError(), (6, 1), (1, 6), r"`targets` .* `predictions`, \(6, 1\), got \(1, 6\)"),
        (MeanSquaredError(), (6,), (), r"`targets` .* `predictions`, \(6,\), got \(\)"),
        (MeanSquaredError(), (6, 1, 3), (6, 3), r"`targets` .* `predictions`, \(6, 1, 3\), got \(6, 3\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(loss, shape, target_shape, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(shape), torch.zeros(target_shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        squared_gradient_norms(loss, torch.zeros(shape), torch.zeros(target_shape, dtype=torch.int64))


def test_refuses_class_indices_that_are_no_integers():
    with pytest.raises(TypeError, match=r"`targets` of the shape \(6,\) must be integers, got torch.float32"):
        CrossEntropy()(normal(6, 4), torch.zeros(6))
    with pytest.raises(TypeError, match=r"`targets` of the shape \(6,\) must be integers, got torch.float32"):
        squared_gradient_norms(CrossEntropy(), normal(6, 4), torch.zeros(6))


# --- The norms ---


@each_case
def test_norms_agree_with_autograd_through_a_net_one_sample_at_a_time(loss, logits, targets):
    inputs, net = normal(B, 5, seed=4), torch.nn.Linear(5, logits[0].numel(), dtype=torch.float64)
    expected = []
    for row, target in zip(inputs, targets, strict=True):
        z = net(row).view(1, *logits.shape[1:])
        (gradient,) = torch.autograd.grad(loss(z, target.unsqueeze(0)).squeeze(0), z)
        expected.append(gradient.square().sum())
    norms = squared_gradient_norms(loss, net(inputs).view_as(logits), targets)
    assert not norms.requires_grad
    assert norms.any()
    torch.testing.assert_close(norms, torch.stack(expected), rtol=1e-12, atol=1e-18)


def test_norms_are_their_formulas():
    logits, labels, numbers = normal(B, C), classes(B, C, count=2), normal(B, C, seed=1)
    binary = (logits.sigmoid() - labels) / C
    torch.testing.assert_close(
        squared_gradient_norms(BinaryCrossEntropy(), logits, labels), binary.square().sum(1), rtol=1e-12, atol=0
    )
    squares = 2 * (logits - numbers) / C
    torch.testing.assert_close(
        squared_gradient_norms(MeanSquaredError(), logits, numbers), squares.square().sum(1), rtol=1e-12, atol=0
    )
    smoothed = logits.softmax(1) - (0.8 * torch.eye(C)[labels[:, 0]] + 0.2 / C)
    norms = squared_gradient_norms(CrossEntropy(0.2), logits, labels[:, 0])
    torch.testing.assert_close(norms, smoothed.square().sum(1), rtol=1e-6, atol=0)  # eye is float32


def test_autograd_agrees_with_the_closed_form():
    logits, targets, loss = normal(B, C), classes(B), CrossEntropy()
    norms = squared_gradient_norms(lambda z, y: loss(z, y), logits, targets)
    torch.testing.assert_close(norms, gradient_bound(logits, targets), rtol=1e-12, atol=0)


def test_plain_cross_entropy_has_the_closed_forms_precision_for_sure_predictions():
    logits = torch.tensor([[60.0, 0.0], [60.0, 0.0], [0.0, 60.0]])
    targets = torch.tensor([0, -100, 1], dtype=torch.int32)
    exact = 2 * math.exp(-120)  # of which autograd loses half: its softmax − 1 is 0
    norms = squared_gradient_norms(CrossEntropy(), logits, targets)
    assert norms.tolist() == pytest.approx([exact, 0.0, exact], rel=1e-9, abs=0)
    assert targets.tolist() == [0, -100, 1]


def test_a_subclass_of_cross_entropy_is_asked_for_its_own_losses():
    class Twice(CrossEntropy):
        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            return 2 * super().__call__(logits, targets)

    logits, targets = normal(B, C), classes(B)
    norms = squared_gradient_norms(Twice(), logits, targets)
    torch.testing.assert_close(norms, 4 * gradient_bound(logits, targets), rtol=1e-12, atol=0)


def test_the_targets_of_a_loss_of_ones_own_can_be_anything():
    logits, targets = normal(B, C), classes(B)
    norms = squared_gradient_norms(lambda z, y: CrossEntropy()(z, y["labels"]), logits, {"labels": targets})
    torch.testing.assert_close(norms, gradient_bound(logits, targets), rtol=1e-12, atol=0)


@each_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_taken_into_float64_for_the_norms_of_the_ready_losses(loss, logits, targets, dtype):
    narrow = logits.to(dtype)
    norms = squared_gradient_norms(loss, narrow, targets)
    assert norms.dtype == torch.float64
    expected = squared_gradient_norms(loss, narrow.double(), targets)
    if isinstance(loss, (CrossEntropy, BinaryCrossEntropy, MeanSquaredError)):
        assert torch.equal(norms, expected)
    else:
        torch.testing.assert_close(norms, expected, rtol=1e-5, atol=0)


def test_a_loss_of_ones_own_may_hold_float32_tensors():
    logits, targets = normal(B, C).float(), classes(B)
    weighted = torch.nn.CrossEntropyLoss(weight=torch.full((C,), 2.0), reduction="none")
    norms = squared_gradient_norms(weighted, logits.bfloat16(), targets)
    expected = 4 * gradient_bound(logits.bfloat16(), targets)
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=0)


@each_case
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_are_the_same_where_gradients_are_off(loss, logits, targets, mode, dtype):
    expected = squared_gradient_norms(loss, logits.to(dtype), targets)
    with mode():
        # made in this mode, so that no graph can hold them
        norms = squared_gradient_norms(loss, logits.to(dtype, copy=True), targets.clone())
    assert torch.equal(norms, expected)


@each_case
def test_norms_of_inference_tensors_can_be_had_after_inference_mode(loss, logits, targets):
    with torch.inference_mode():
        inferred = logits.clone(), targets.clone()
    assert inferred[0].is_inference()
    assert torch.equal(squared_gradient_norms(loss, *inferred), squared_gradient_norms(loss, logits, targets))


def test_norms_touch_no_gradient_no_logits_and_no_random_state():
    scale = torch.nn.Parameter(torch.tensor(2.0))
    net = torch.nn.Linear(5, C)
    net(torch.ones(5)).sum().backward()
    assert net.weight.grad is not None
    logits = net(normal(B, 5).float())
    logits.retain_grad()
    before, gradient, state = logits.detach().clone(), net.weight.grad.clone(), torch.get_rng_state()
    plain = CrossEntropy()
    for loss in (plain, lambda z, y: plain(scale * z, y)):
        assert squared_gradient_norms(loss, logits, classes(B)).all()
    assert scale.grad is None
    assert logits.grad is None
    assert torch.equal(net.weight.grad, gradient)
    assert torch.equal(logits.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)
    logits.sum().backward()  # the caller's graph is whole


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (torch.nn.CrossEntropyLoss(), r"\(\)"),
        (lambda z, y: z.square(), r"\(6, 4\)"),
        (lambda z, y: z.sum(1, keepdim=True), r"\(6, 1\)"),
    ],
)
def test_norms_need_one_loss_per_sample(loss, shape):
    with pytest.raises(ValueError, match=rf"`loss` must give one loss per sample, \(6,\), got the shape {shape}"):
        squared_gradient_norms(loss, normal(B, C), classes(B))
