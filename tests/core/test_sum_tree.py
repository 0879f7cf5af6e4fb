import pickle

import pytest
import torch
from torch import Tensor

from lightning_as.core.sum_tree import SMALLEST_WEIGHT, SumTree
from tests.helpers.statistics import double, p_value, seeded

pytestmark = pytest.mark.usefixtures("execution")

SIZES = [[1], [2], [96], [97], [1025], [40, 1, 17, 3, 90], [1, 3000, 2]]
ENDS = double(0.0, 2.0**-53, 1 - 2.0**-53)


def random(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers in (0, 1] over many orders."""
    return (1 - torch.rand(*shape, dtype=torch.float64, generator=generator)).pow(6)


def filled(sizes: list[int], leaves: Tensor) -> SumTree:
    tree = SumTree(sizes, channels=leaves.shape[1])
    tree.load(leaves)
    return tree


def tree_of_leaf(sizes: list[int]) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_leaves_totals_and_collapse_agree_with_plain_tensors(sizes: list[int], channels: int):
    generator, tree, owner = seeded(), SumTree(sizes, channels), tree_of_leaf(sizes)
    expected = torch.zeros(sum(sizes), channels, dtype=torch.float64)
    for step in range(300):
        chosen = torch.randint(len(owner), (20,), generator=generator)  # with duplicates, of equal values
        values = random(len(owner), channels, generator=generator)[chosen] * 1e6
        channel = None if step % 2 else step % channels
        if channel is None:
            expected[chosen] = values
        else:
            expected[chosen, channel] = values = values[:, 0]
        tree.set(chosen, values, owner[chosen], channel)
        assert torch.equal(tree.leaves(), expected)
        assert torch.equal(tree.get(chosen, owner[chosen], channel), values)
        totals = torch.zeros(len(sizes), channels, dtype=torch.float64).index_add_(0, owner, expected)
        torch.testing.assert_close(tree.totals(), totals, rtol=1e-13, atol=0)
    assert torch.equal(tree.sum_rows, filled(sizes, expected).sum_rows)  # to the bit: nothing has drifted

    coefficients = torch.rand(len(sizes), channels, dtype=torch.float64, generator=generator) - 0.5
    tree.collapse(coefficients, channel=channels - 1)
    expected[:, -1] = (expected * coefficients[owner]).sum(1)
    torch.testing.assert_close(tree.leaves(), expected, rtol=1e-13, atol=1e-9)


@pytest.mark.parametrize(("channels", "scale"), [(1, 1.0), (3, 1.0), (1, 1e-270), (1, 1e200)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_draws_from_several_trees_at_once_invert_the_distribution_of_each(
    sizes: list[int], channels: int, scale: float
):
    generator, owner = seeded(7), tree_of_leaf(sizes)
    leaves = random(sum(sizes), channels, generator=generator)
    leaves[torch.rand(len(leaves), generator=generator) < 0.5] = 0.0
    leaves[torch.tensor(sizes).cumsum(0) - (torch.tensor(sizes) + 1) // 2] += 0.1  # no tree is empty
    leaves *= scale
    coefficients = torch.rand(len(sizes), channels, dtype=torch.float64, generator=generator)
    tree = filled(sizes, leaves)
    uniforms = torch.cat([ENDS, torch.rand(400, dtype=torch.float64, generator=generator)]).sort().values
    trees = torch.arange(len(sizes)).repeat(403)
    for weighing in (None, coefficients):
        counted = leaves[:, 0] if weighing is None else (leaves * weighing[owner]).sum(1)
        both = tree.draw(uniforms.repeat_interleave(len(sizes)), trees, weighing)
        for number in range(len(sizes)):
            drawn, probability = (part[trees == number] for part in both)
            drawn, weights = drawn - sum(sizes[:number]), counted[owner == number]
            shares = weights / weights.sum()
            assert (drawn.diff() >= 0).all()
            assert (weights[drawn] > 0).all()
            torch.testing.assert_close(probability, shares[drawn], rtol=1e-12, atol=0)
            assert (uniforms < shares.cumsum(0)[drawn] + 1e-14).all()
            assert (uniforms >= (shares.cumsum(0) - shares)[drawn] - 1e-14).all()


def test_weights_that_cancel_or_are_too_small_count_as_zero_alone_and_together():
    cancelling = torch.tensor([[1.0, 1.0], [3.0, 1.0], [2.0, 2.0]], dtype=torch.float64).repeat(40, 1)
    uniforms = torch.cat([ENDS, torch.rand(3000, dtype=torch.float64, generator=seeded())])
    drawn, probability = filled([120], cancelling).draw(uniforms, coefficients=double(1, -1).unsqueeze(0))
    assert set((drawn % 3).tolist()) == {1}
    torch.testing.assert_close(probability, torch.full_like(probability, 1 / 40))
    # Half of the leaves weigh 1e-281, but the 13 of a row sum up to more than the smallest weight.
    tiny = torch.full((2000, 1), SMALLEST_WEIGHT / 10, dtype=torch.float64)
    tiny[1000:] = 10 * SMALLEST_WEIGHT
    drawn, probability = filled([2000], tiny).draw(uniforms, coefficients=double(1).unsqueeze(0))
    assert (drawn >= 1000).all()
    assert probability.isfinite().all()


@pytest.mark.slow
def test_more_leaves_than_2_to_the_24_are_drawn_from():
    size = 2**24 + 5
    tree, chosen = SumTree([size]), torch.tensor([0, 2**24 - 1, 2**24, 2**24 + 1, 2**24 + 4])
    weights = double(1, 2, 3, 0, 4)
    tree.set(chosen, weights.unsqueeze(1))
    drawn, probability = tree.draw(torch.rand(50_000, dtype=torch.float64, generator=seeded()))
    numbers = torch.searchsorted(chosen, drawn)
    assert torch.equal(chosen[numbers], drawn)
    assert p_value(numbers, weights) > 1e-3
    torch.testing.assert_close(probability, weights[numbers] / 10)


@pytest.mark.slow
def test_a_hundred_million_float32_leaves_are_drawn_as_float64_ones_but_for_the_rounding_of_each():
    generator = seeded()
    weights = torch.rand(10**8, dtype=torch.float64, generator=generator).pow_(4)
    tree = SumTree([10**8], dtype=torch.float32)
    tree.load(weights.unsqueeze(1))
    uniforms = torch.rand(20_000, dtype=torch.float64, generator=generator)
    drawn, probability = tree.draw(uniforms)
    total = weights.sum()
    # Each leaf is off by 2**-24 of it at most. The sums add up what is left of that with either sign.
    torch.testing.assert_close(tree.totals()[0, 0], total, rtol=1e-10, atol=0)
    torch.testing.assert_close(probability, weights[drawn] / total, rtol=2**-23, atol=0)
    ends = weights.cumsum_(0).div_(total)
    assert float((ends[drawn] - uniforms).min()) > -1e-10
    assert float((uniforms - ends[drawn - 1]).min()) > -1e-10


@pytest.mark.parametrize("sizes", [[100_000], [10_000] * 10, [99_000, 500, 500]], ids=["one", "ten", "unequal"])
def test_the_sums_cost_a_fraction_of_the_leaves(sizes: list[int]):
    tensors = [value for value in vars(SumTree(sizes, 3)).values() if isinstance(value, Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) < 1.35 * 8 * 3 * sum(sizes)


def test_a_copy_of_a_tree_is_one_of_its_own():
    tree = filled([70, 30], random(100, 2, generator=seeded()))
    twin = pickle.loads(pickle.dumps(tree))
    twin.set(torch.arange(100), torch.ones(100, 2), tree_of_leaf([70, 30]))
    assert twin.totals()[:, 0].tolist() == [70, 30]
    assert twin.draw(double(0))[1].item() == pytest.approx(1 / 70)
    assert not torch.equal(tree.totals(), twin.totals())


@pytest.mark.parametrize(("sizes", "channels"), [([], 1), ([3, 0], 1), ([-1], 1), ([3], 0)], ids=str)
def test_sizes_and_channels_must_be_positive(sizes: list[int], channels: int):
    with pytest.raises(ValueError, match=r"`sizes` must be one or more positive|`channels` must be at least 1"):
        SumTree(sizes, channels)
