import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_as.losses import gradient_bound

pytestmark = pytest.mark.usefixtures("implementation")


def batch(size: int = 200, classes: int = 10, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, classes, dtype=torch.float64, generator=generator) * scale
    return logits, torch.randint(classes, (size,), generator=generator)


@pytest.mark.parametrize("classes", [1, 2, 10, 100])
def test_agrees_with_autograd_per_sample(classes):
    logits, targets = batch(classes=classes)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets, reduction="sum"), logits)
    # autograd rounds softmax − 1, which ours does not: 1e-16 of it, squared with the entries of sure predictions.
    torch.testing.assert_close(gradient_bound(logits, targets), gradient.square().sum(1), rtol=1e-12, atol=1e-19)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_logits_are_taken_into_float64_first(dtype):
    logits, targets = batch()
    narrow = logits.to(dtype)
    bound = gradient_bound(narrow, targets)
    assert bound.dtype == torch.float64
    assert torch.equal(bound, gradient_bound(narrow.double(), targets))


def test_lies_between_0_and_2_and_reaches_both_ends():
    logits, targets = batch(size=5000, scale=30.0)
    bound = gradient_bound(logits, targets)
    assert 0 <= float(bound.min()) < 1e-20
    assert 2 - 1e-9 < float(bound.max()) <= 2 + 1e-15
    certain = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    assert gradient_bound(certain, torch.tensor([1])).item() == 2
    assert gradient_bound(certain, torch.tensor([0])).item() == 0


def test_carries_no_gradient_and_leaves_the_logits_alone():
    logits, targets = batch()
    before = logits.clone()
    logits.requires_grad_()
    assert not gradient_bound(logits, targets).requires_grad
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("margin", [20.0, 30.0, 36.0, 40.0, 60.0, 150.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_saturated_logits_keep_their_small_bound_to_full_precision(margin, classes):
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 3 % classes] = margin
    rest = torch.exp(torch.tensor(-margin, dtype=torch.float64))
    others = rest / (1 + (classes - 1) * rest)  # softmax of each wrong class; the right one lacks all of them from 1
    exact = ((classes - 1) * others) ** 2 + (classes - 1) * others**2
    bound = gradient_bound(logits, torch.tensor([3 % classes]))
    assert bound.item() == pytest.approx(exact.item(), rel=1e-9, abs=0)


@pytest.mark.parametrize("scale", [1e3, 1e30, 1e300])
def test_huge_logits_give_no_nan(scale):
    logits, targets = batch()
    assert gradient_bound(logits * scale, targets).isfinite().all()
