"""The compiled loops against the torch code that they stand for; where numba is missing they run as plain Python."""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import Tensor

from lightning_as.core import compiled
from lightning_as.core.sum_tree import SumTree
from lightning_as.losses import gradient_bound

SIZES = [[1], [2], [33], [1, 700, 33, 2], [40, 1, 17, 3, 90], [9300], [5000] * 3]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniforms(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


def both(monkeypatch: pytest.MonkeyPatch, make):
    """What `make` makes with the compiled loops, and with torch."""
    pair = []
    for available in (True, False):
        monkeypatch.setattr(compiled, "available", available)
        pair.append(make())
    return pair


def trees(monkeypatch: pytest.MonkeyPatch, sizes: list[int], channels: int, generator: torch.Generator):
    """Two trees with the same leaves, a third of which are 0; whole numbers, of which every sum is exact."""
    fast, plain = both(monkeypatch, lambda: SumTree(sizes, channels))
    leaves = torch.randint(1, 1000, (sum(sizes), channels), generator=generator).double()
    leaves[uniforms(sum(sizes), generator=generator) < 1 / 3] = 0.0
    starts = torch.tensor(sizes).cumsum(0) - 1
    leaves[starts] = 5.0  # a tree must not be empty
    for tree in (fast, plain):
        tree.load(leaves)
    return fast, plain


@pytest.mark.parametrize(("sizes", "channels"), list(product(SIZES, [1, 2, 3])), ids=str)
def test_draws_are_those_of_torch_to_the_bit(monkeypatch, sizes, channels):
    generator = seeded()
    fast, plain = trees(monkeypatch, sizes, channels, generator)
    assert torch.equal(fast.memory, plain.memory)
    which = torch.randint(len(sizes), (300,), generator=generator)
    coefficients = uniforms(300, channels, generator=generator)
    many = uniforms(fast.height, 300, generator=generator)
    many[:, 0], many[:, 1] = 0.0, 1 - 2**-53
    for numbers, counts, chosen in product((many, many[0]), (None, coefficients), (None, which)):
        ours, theirs = fast.draw(numbers, chosen, counts), plain.draw(numbers, chosen, counts)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(("sizes", "channels"), list(product(SIZES, [1, 2, 3])), ids=str)
def test_updates_give_the_sums_of_torch(monkeypatch, sizes, channels):
    generator = seeded(1)
    fast, plain = trees(monkeypatch, sizes, channels, generator)
    for step in range(20):
        chosen = torch.randint(sum(sizes), (30,), generator=generator)  # with duplicates
        values = uniforms(sum(sizes), channels, generator=generator)[chosen]
        channel = None if step % 2 else step % channels
        for tree in (fast, plain):
            tree.set(tree.places()[chosen], values if channel is None else values[:, channel], channel)
        assert torch.equal(fast.leaves(), plain.leaves())
        torch.testing.assert_close(fast.memory, plain.memory, rtol=1e-13, atol=0)


def test_tensors_may_be_strided_or_of_inference_mode(monkeypatch):
    fast, plain = trees(monkeypatch, [70, 30], 2, seeded())
    generator = seeded(2)
    numbers = uniforms(50, fast.height, generator=generator).T
    coefficients = uniforms(1, 2, generator=generator).expand(50, 2)
    which = torch.randint(2, (100,), generator=generator)[::2]
    values = uniforms(2, 50, generator=generator).T
    for mode in (False, True):
        with torch.inference_mode(mode):
            drawn = [
                tree.draw(numbers.clone(memory_format=torch.preserve_format), which, coefficients)
                for tree in (fast, plain)
            ]
            assert torch.equal(drawn[0][0], drawn[1][0])
            fast.set(fast.places()[::2], values)
            plain.set(plain.places()[::2], values.contiguous())
            assert torch.equal(fast.leaves(), plain.leaves())


def test_what_is_not_there_is_refused(monkeypatch):
    fast, plain = trees(monkeypatch, [70, 30], 2, seeded())
    one = torch.zeros(fast.height, 1, dtype=torch.float64)
    for number in (-1, 2, 10**6):
        with pytest.raises(IndexError):
            plain.draw(one, torch.tensor([number]))
        with pytest.raises(IndexError):
            fast.draw(one, torch.tensor([number]))
        with pytest.raises(IndexError):
            fast.set(torch.tensor([number if number < 2 else 10**6]), torch.ones(1, 2, dtype=torch.float64))
    for wrong in (one.repeat(1, 2), one.repeat(2, 1)):
        with pytest.raises(ValueError, match="uniform"):
            fast.draw(wrong, torch.tensor([0]))
    with pytest.raises(ValueError, match="coefficient"):
        fast.draw(one, torch.tensor([0]), torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="one value"):
        fast.set(fast.places()[:2], torch.ones(1, 2, dtype=torch.float64))
    fast.load(torch.zeros(100, 2))
    with pytest.raises(ValueError, match="no weight"):
        fast.draw(one, torch.tensor([1]))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_a_copy_of_a_tree_is_one_of_its_own(monkeypatch, duplicate):
    tree, _ = trees(monkeypatch, [70, 30], 2, seeded())
    twin = duplicate(tree)
    twin.set(twin.places(), torch.ones(100, 2, dtype=torch.float64))
    assert twin.totals()[:, 0].tolist() == [70, 30]
    assert twin.draw(torch.zeros(twin.height, 1, dtype=torch.float64))[1].item() == pytest.approx(1 / 70)
    assert not torch.equal(tree.totals(), twin.totals())


@pytest.mark.parametrize("classes", [1, 2, 10, 100])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:invalid value")  # NaN, where the loops are plain Python
def test_gradient_bounds_are_those_of_torch(monkeypatch, classes, scale, dtype):
    generator = seeded()
    logits = (torch.randn(200, classes, dtype=torch.float64, generator=generator) * scale).to(dtype)
    targets = torch.randint(classes, (200,), generator=generator)
    logits[0, 0], logits[1, 0], logits[2] = float("nan"), float("inf"), float("-inf")
    ours, theirs = both(monkeypatch, lambda: gradient_bound(logits, targets))
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-300, equal_nan=True)
    strided = logits.T.contiguous().T
    monkeypatch.setattr(compiled, "available", True)
    torch.testing.assert_close(gradient_bound(strided, targets), ours, rtol=0, atol=0, equal_nan=True)
