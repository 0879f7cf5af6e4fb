import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from lightning_as import CrossEntropy
from tests.helpers.samples import WEIGHTS, B, C, classes, normal, soft, some_ignored
from tests.helpers.statistics import double


def naive_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, weights: list[float] | None) -> Tensor:
    """−Σ_c w_c t_c log softmax_c, with t smoothed towards 1 / C; the mean over the pixels that have a target."""
    factors, losses = double(*(weights or [1.0] * C)), []
    for z, y in zip(logits.reshape(B, C, -1), targets.reshape(B, -1), strict=True):
        shares = torch.eye(C).double()[y.clamp(min=0)].T if targets.dim() < logits.dim() else y.view(C, -1)
        shares = (1 - smoothing) * shares + smoothing / C
        pixels = -(factors.view(C, 1) * shares * (z.exp() / z.exp().sum(0)).log()).sum(0)
        if targets.dim() < logits.dim():
            pixels = pixels[y != -100]
        losses.append(pixels.sum() / max(1, len(pixels)))
    return torch.stack(losses)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.7])
@pytest.mark.parametrize("spatial", [(), (2, 1, 3)], ids=str)
def test_cross_entropy_is_its_formula(spatial: tuple[int, ...], smoothing: float, weights: list[float] | None):
    logits, loss = normal(B, C, *spatial), CrossEntropy(smoothing, weights)
    for targets in (classes(B, *spatial), some_ignored(B, *spatial), soft(B, C, *spatial)):
        expected = naive_cross_entropy(logits, targets, smoothing, weights)
        torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-12, atol=1e-14)
    indices = classes(B, *spatial)
    for targets in (indices.to(torch.uint8), indices.int(), one_hot(indices, C).movedim(-1, 1)):
        torch.testing.assert_close(loss(logits, targets), loss(logits, indices), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("margin", [1.0, 20.0, 38.0, 80.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_predictions_keep_their_small_loss_to_the_last_digit(dtype: torch.dtype, margin: float):
    logits = torch.zeros(2, C, dtype=dtype)
    logits[:, 1] = margin
    expected = math.log1p((C - 1) * math.exp(-margin))
    targets = torch.tensor([1, 0])
    for loss in (CrossEntropy(), CrossEntropy(class_weights=[1.0] * C)):
        for form in (targets, one_hot(targets, C)):
            losses = loss(logits, form)
            assert losses.tolist() == pytest.approx(
                [expected, margin + expected], rel=4 * torch.finfo(dtype).eps, abs=0
            )
    pixels = CrossEntropy()(logits[:1].T[None], torch.tensor([[1]]))
    assert pixels.item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps, abs=0)
    assert CrossEntropy()(torch.tensor([[1e30, -torch.inf, 0.0]]), torch.tensor([0])).tolist() == [0.0]


@pytest.mark.parametrize("spatial", [(), (5,)], ids=str)
def test_it_has_the_gradient_and_the_mean_over_a_batch_that_torch_has(spatial: tuple[int, ...]):
    weights = double(*WEIGHTS)
    for smoothing, targets in ((0.0, some_ignored(B, *spatial)), (0.2, soft(B, C, *spatial))):
        logits, loss = normal(B, C, *spatial).requires_grad_(), CrossEntropy(smoothing, WEIGHTS)
        expected = cross_entropy(logits, targets, weights, label_smoothing=smoothing)
        torch.testing.assert_close(loss.mean(logits, targets), expected, rtol=1e-12, atol=0)
        given = torch.autograd.grad(loss(logits, targets)[2], logits)[0]
        alone = cross_entropy(logits[2:3], targets[2:3], weights, reduction="none", label_smoothing=smoothing).mean()
        torch.testing.assert_close(given, torch.autograd.grad(alone, logits)[0], rtol=1e-10, atol=1e-15)


def test_no_class_of_narrow_targets_is_taken_for_the_ignored_index():
    logits, targets = normal(B, 200), torch.full((B,), 156)
    narrow = targets.to(torch.uint8)  # in which -100 is 156
    assert torch.equal(CrossEntropy()(logits, narrow), CrossEntropy()(logits, targets))
    assert not CrossEntropy(ignore_index=156)(logits, narrow).any()
    with pytest.raises(ValueError, match="The target -1 is not"):  # which is 255 to int8
        CrossEntropy(ignore_index=255)(logits, torch.full((B,), -1, dtype=torch.int8))


def test_classes_are_where_the_targets_have_no_dimension_or_where_it_is_said():
    logits, targets = normal(B, 5, C), some_ignored(B, 5, ignored=255)
    tokens, by_class = CrossEntropy(ignore_index=255), logits.movedim(-1, 1)
    assert torch.equal(tokens(logits, targets), tokens(by_class, targets))
    assert torch.equal(
        CrossEntropy(class_dim=-1)(logits, logits.softmax(-1)), CrossEntropy()(by_class, by_class.softmax(1))
    )
    square, same = normal(B, C, C), classes(B, C)
    with pytest.raises(ValueError, match=r"Which dimension of the `logits` \(6, 4, 4\) .* CrossEntropy\(class_dim=1\)"):
        CrossEntropy()(square, same)
    assert torch.equal(CrossEntropy(class_dim=-1)(square, same), CrossEntropy(class_dim=1)(square.mT, same))
    shifted = CrossEntropy(class_dim=-1)(square[:, :-1], same[:, 1:])
    assert torch.equal(CrossEntropy(shift=True)(square, same), shifted)
    assert torch.equal(CrossEntropy(shift=True)(square[:, :1], same[:, :1]), torch.zeros(B).double())  # of no next one
    images, masks = normal(B, C, 2, 3), classes(B, 1, 2, 3)  # as torchvision reads them
    assert torch.equal(CrossEntropy()(images, masks), CrossEntropy()(images, masks[:, 0]))
    assert torch.equal(CrossEntropy()(images[..., 0, 0], same[:, :1]), CrossEntropy()(images[..., 0, 0], same[:, 0]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CrossEntropy(ignore_index=0.5), TypeError, "`ignore_index` must be an integer, got 0.5"),  # pyright: ignore
        (lambda: CrossEntropy(class_dim=0), ValueError, "`class_dim` must not be 0, which is the batch"),
        (lambda: CrossEntropy(class_dim=1, shift=True), ValueError, "`shift` .* leave out class_dim=1"),
        (lambda: CrossEntropy(shift=True)(normal(B, C), classes(B)), ValueError, r"must be \(B, T, C\), got \(6, 4\)"),
        (lambda: CrossEntropy(class_dim=2)(normal(B, C), classes(B)), ValueError, "`class_dim=2` is no dimension of"),
        (lambda: CrossEntropy()(normal(B, C), classes(B) + 251), ValueError, "252 .* 4 classes .*ignore_index=252"),
        (lambda: CrossEntropy()(normal(B, C), (1, 2)), TypeError, "`targets` must be a tensor .*, got a tuple"),  # pyright: ignore
    ],
)
def test_what_it_refuses(make: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()
