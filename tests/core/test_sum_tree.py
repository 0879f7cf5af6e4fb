from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_as.core.sum_tree import SMALLEST_WEIGHT, SumTree
from tests.helpers.statistics import p_value, tensors_in

pytestmark = pytest.mark.usefixtures("implementation")

SIZES = [[1], [2], [31], [32], [33], [1000], [1023], [1024], [1025], [40, 1, 17, 3, 90], [1, 1, 1], [1, 3000, 2]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers in (0, 1] over many orders."""
    return (1 - torch.rand(*shape, dtype=torch.float64, generator=generator)).pow(6)


def uniforms(tree: SumTree, size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(tree.height, size, dtype=torch.float64, generator=generator)


def filled(sizes: list[int], leaves: Tensor) -> SumTree:
    tree = SumTree(sizes, channels=leaves.shape[1])
    tree.load(leaves)
    return tree


def tree_of_leaf(sizes: list[int]) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_totals_leaves_and_draws_agree_with_brute_force_after_random_updates(sizes, channels):
    generator = seeded()
    tree = SumTree(sizes, channels)
    places, owner = tree.places(), tree_of_leaf(sizes)
    expected = torch.zeros(len(owner), channels, dtype=torch.float64)
    for _ in range(30):
        chosen = torch.randint(len(owner), (20,), generator=generator).unique()
        expected[chosen] = random(len(chosen), channels, generator=generator)
        tree.set(places[chosen], expected[chosen])
        assert torch.equal(tree.leaves(), expected)
        assert torch.equal(tree.get(places[chosen]), expected[chosen])
        totals = torch.zeros(len(sizes), channels, dtype=torch.float64).index_add_(0, owner, expected)
        torch.testing.assert_close(tree.totals(), totals, rtol=1e-13, atol=0)

    tree.load(random(len(owner), channels, generator=generator))
    trees = torch.randint(len(sizes), (500,), generator=generator)
    coefficients = torch.rand(500, channels, dtype=torch.float64, generator=generator)
    leaves, probability = tree.draw(uniforms(tree, 500, generator), trees, coefficients)
    assert torch.equal(owner[leaves], trees)
    weights = coefficients @ tree.leaves().T
    totals = torch.where(owner == trees.unsqueeze(1), weights, 0).sum(1)
    weight = weights.gather(1, leaves.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(probability, weight / totals, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sizes", [[32], [30], [25]])
def test_a_tree_of_one_level_inverts_the_cumulative_sum(sizes):
    generator = seeded()
    weights = random(sizes[0], generator=generator)
    tree = filled(sizes, weights.unsqueeze(1))
    assert tree.height == 1
    uniform = uniforms(tree, 2000, generator)
    drawn, _ = tree.draw(uniform)
    expected = np.searchsorted(weights.cumsum(0).numpy(), (uniform[0] * weights.cumsum(0)[-1]).numpy(), "right")
    assert drawn.tolist() == expected.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", [[5000], [1, 700, 33, 2]], ids=str)
def test_sums_do_not_drift_over_ten_thousand_batches(sizes, channels):
    generator = seeded()
    tree = SumTree(sizes, channels)
    places = tree.places()
    for _ in range(10_000):
        chosen = torch.randint(sum(sizes), (16,), generator=generator).unique()
        tree.set(places[chosen], random(len(chosen), channels, generator=generator) * 1e6)
    assert torch.equal(tree.memory, filled(sizes, tree.leaves()).memory)


def test_a_place_that_is_named_twice_with_equal_values_is_set_once():
    tree = SumTree([100])
    places = tree.places()[[7, 50, 7]]
    tree.set(places, torch.tensor([[2.0], [3.0], [2.0]], dtype=torch.float64))
    assert tree.totals().item() == 5


def test_places_are_ascending_and_distinct_even_with_their_channels():
    for sizes in SIZES:
        for channels in (1, 3):
            tree = SumTree(sizes, channels)
            places = tree.places()
            assert len(places) == sum(sizes)
            assert (places.diff() > 0).all()
            # Each leaf keeps what it is given: no two share memory.
            values = torch.arange(len(places) * channels, dtype=torch.float64).view(-1, channels)
            tree.set(places, values)
            assert torch.equal(tree.get(places), values)


@pytest.mark.parametrize("scale", [1.0, 1e-270, 1e200])
@pytest.mark.parametrize("size", [1, 5, 33, 1025, 3000])
def test_zero_weights_are_never_drawn_even_by_extreme_uniforms(size, scale):
    generator = seeded()
    weights = random(size, generator=generator) * scale
    weights[torch.rand(size, generator=generator) < 0.7] = 0
    if size > 2:
        weights[[0, 1, -2, -1]] = 0
    weights[size // 2] = scale
    tree = filled([size], weights.unsqueeze(1))
    extremes = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53, 0.5], dtype=torch.float64)
    grid = torch.cartesian_prod(*[extremes] * tree.height).view(-1, tree.height).T
    uniform = torch.cat([grid, uniforms(tree, 5000, generator)], dim=1).contiguous()
    for coefficients in (None, torch.ones(uniform.shape[1], 1, dtype=torch.float64)):
        leaves, probability = tree.draw(uniform, coefficients=coefficients)
        assert (leaves < size).all()
        assert (weights[leaves] > 0).all()
        torch.testing.assert_close(probability, weights[leaves] / weights.sum(), rtol=1e-12, atol=0)


def test_weights_that_the_coefficients_cancel_are_never_drawn():
    leaves = torch.tensor([[1.0, 1.0], [3.0, 1.0], [2.0, 2.0]], dtype=torch.float64).repeat(40, 1)
    tree = filled([120], leaves)
    uniform = torch.cat(
        [torch.full((tree.height, 1), 1 - 2.0**-53, dtype=torch.float64), uniforms(tree, 3000, seeded())], dim=1
    )
    drawn, probability = tree.draw(
        uniform, coefficients=torch.tensor([[1.0, -1.0]], dtype=torch.float64).repeat(3001, 1)
    )
    assert set((drawn % 3).tolist()) == {1}
    torch.testing.assert_close(probability, torch.full_like(probability, 1 / 40))


def test_a_weight_of_at_most_the_smallest_counts_as_zero():
    weights = torch.tensor([[SMALLEST_WEIGHT], [2 * SMALLEST_WEIGHT], [SMALLEST_WEIGHT]], dtype=torch.float64)
    tree = filled([3], weights)
    drawn, probability = tree.draw(
        torch.tensor([[0.0, 0.5, 1 - 2.0**-53]], dtype=torch.float64),
        coefficients=torch.ones(3, 1, dtype=torch.float64),
    )
    assert drawn.tolist() == [1, 1, 1]
    assert probability.isfinite().all()


def test_many_weights_of_at_most_the_smallest_count_as_zero_together_too():
    """Half of the leaves weigh 1e-281, but the 13 of a row sum up to more than the smallest weight."""
    weights = torch.full((2000, 1), SMALLEST_WEIGHT / 10, dtype=torch.float64)
    weights[1000:] = 10 * SMALLEST_WEIGHT
    tree = filled([2000], weights)
    uniform = torch.cat([torch.full((tree.height, 1), 0.0, dtype=torch.float64), uniforms(tree, 2000, seeded())], 1)
    drawn, probability = tree.draw(uniform, coefficients=torch.ones(2001, 1, dtype=torch.float64))
    assert probability.isfinite().all()
    assert (drawn >= 1000).all()


@pytest.mark.parametrize("size", [1, 20, 100, 1025])
def test_draws_from_one_tree_follow_the_weights(size):
    generator = seeded(1)
    weights = random(size, generator=generator)
    if size == 1:
        drawn, probability = filled([1], weights.unsqueeze(1)).draw(uniforms(SumTree([1]), 10, generator))
        assert drawn.tolist() == [0] * 10
        assert probability.tolist() == [1.0] * 10
        return
    weights[::3] = 0
    tree = filled([size], weights.unsqueeze(1))
    drawn, _ = tree.draw(uniforms(tree, 200_000, generator))
    assert p_value(drawn, weights) > 1e-3


def test_draws_from_several_trees_with_coefficients_follow_the_weighted_channels():
    generator = seeded(2)
    sizes = [50, 1, 400, 7]
    leaves = random(sum(sizes), 3, generator=generator)
    tree, owner = filled(sizes, leaves), tree_of_leaf(sizes)
    coefficients = torch.rand(len(sizes), 3, dtype=torch.float64, generator=generator)
    trees = torch.randint(len(sizes), (300_000,), generator=generator)
    drawn, probability = tree.draw(uniforms(tree, len(trees), generator), trees, coefficients[trees])
    weights = (leaves * coefficients[owner]).sum(1)
    for j in range(len(sizes)):
        law = torch.where(owner == j, weights, 0)
        law /= law.sum()
        torch.testing.assert_close(probability[trees == j], law[drawn[trees == j]], rtol=1e-12, atol=0)
        if sizes[j] > 1:
            assert p_value(drawn[trees == j], law) > 1e-3


def test_equal_uniforms_give_equal_draws():
    generator = seeded()
    leaves = random(700, 3, generator=generator)
    uniform = uniforms(filled([700], leaves), 500, generator)
    first, second = filled([700], leaves).draw(uniform), filled([700], leaves).draw(uniform)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_load_and_leaves_are_a_round_trip_and_load_equals_set(sizes):
    leaves = random(sum(sizes), 3, generator=seeded())
    loaded, updated = filled(sizes, leaves), SumTree(sizes, 3)
    assert torch.equal(loaded.leaves(), leaves)
    updated.set(updated.places(), leaves)
    torch.testing.assert_close(loaded.memory, updated.memory, rtol=1e-14, atol=0)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_collapse_writes_each_leafs_weight_into_one_channel(sizes):
    generator = seeded()
    leaves, owner = random(sum(sizes), 3, generator=generator), tree_of_leaf(sizes)
    coefficients = torch.rand(len(sizes), 3, dtype=torch.float64, generator=generator) - 0.5
    tree = filled(sizes, leaves)
    tree.collapse(coefficients, channel=1)
    expected = leaves.clone()
    expected[:, 1] = (leaves * coefficients[owner]).sum(1)
    torch.testing.assert_close(tree.leaves(), expected, rtol=1e-13, atol=1e-15)
    assert torch.equal(tree.leaves()[:, [0, 2]], leaves[:, [0, 2]])
    assert torch.equal(tree.memory, filled(sizes, tree.leaves()).memory)


def test_more_leaves_than_2_to_the_24_are_drawn_from():
    size = 2**24 + 5
    tree = SumTree([size])
    chosen = torch.tensor([0, 2**24 - 1, 2**24, 2**24 + 1, 2**24 + 4])
    weights = torch.tensor([[1.0], [2.0], [3.0], [0.0], [4.0]], dtype=torch.float64)
    places = tree.places()[chosen]
    tree.set(places, weights)
    generator = seeded()
    drawn, probability = tree.draw(uniforms(tree, 50_000, generator))
    numbers = torch.searchsorted(chosen, drawn)
    assert torch.equal(chosen[numbers], drawn)
    assert p_value(numbers, weights.flatten()) > 1e-3
    torch.testing.assert_close(probability, weights.flatten()[numbers] / 10)
    assert sum(tensors_in(tree).values()) < 9 * size


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", [[100_000], [10_000] * 10, [99_000, 500, 500]], ids=["one", "ten", "unequal"])
def test_the_sums_cost_a_fraction_of_the_leaves(sizes, channels):
    assert sum(tensors_in(SumTree(sizes, channels)).values()) < 1.35 * 8 * channels * sum(sizes)


@pytest.mark.parametrize("sizes", [[], [0], [3, 0], [-1]], ids=str)
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="`sizes` must be one or more positive"):
        SumTree(sizes)


@pytest.mark.parametrize("channels", [0, -1])
def test_there_must_be_a_channel(channels):
    with pytest.raises(ValueError, match="`channels` must be at least 1"):
        SumTree([3], channels)


def test_one_channel_is_set_read_and_drawn_by_alone():
    generator = seeded()
    weights = torch.rand(90, 3, dtype=torch.float64, generator=generator)
    tree = filled([40, 50], weights)
    places = tree.places()[[3, 41, 89]]
    values = torch.tensor([5.0, 0.0, 2.0], dtype=torch.float64)
    tree.set(places, values, channel=2)
    weights[[3, 41, 89], 2] = values
    assert torch.equal(tree.leaves(), weights)
    assert torch.equal(tree.get(places, channel=2), values)
    torch.testing.assert_close(tree.totals(), torch.stack([weights[:40].sum(0), weights[40:].sum(0)]))
    trees = torch.ones(50_000, dtype=torch.int64)
    drawn, probability = tree.draw(uniforms(tree, 50_000, generator), trees)
    law = weights[40:, 0] / weights[40:, 0].sum()
    torch.testing.assert_close(probability, law[drawn - 40], rtol=1e-12, atol=0)
    assert p_value(drawn - 40, law) > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_one_uniform_for_all_levels_inverts_the_cumulative_law(sizes, channels):
    generator = seeded(7)
    leaves, owner = random(sum(sizes), channels, generator=generator), tree_of_leaf(sizes)
    leaves[torch.rand(len(leaves), generator=generator) < 0.2] = 0.0
    for number in range(len(sizes)):
        leaves[(owner == number).nonzero()[0]] += 0.1  # a tree must not be empty
    tree = filled(sizes, leaves)
    coefficients = torch.rand(channels, dtype=torch.float64, generator=generator).expand(400, channels)
    for number in range(len(sizes)):
        weights = leaves[owner == number] @ coefficients[0]
        cumulative = weights.cumsum(0) / weights.sum()
        uniform = torch.rand(400, dtype=torch.float64, generator=generator).sort().values
        uniform[0], uniform[-1] = 0.0, 1 - 2**-53
        trees = torch.full((400,), number)
        drawn, probability = tree.draw(uniform, trees, coefficients)
        drawn = drawn - sum(sizes[:number])
        assert (drawn.diff() >= 0).all()
        assert (weights[drawn] > 0).all()
        torch.testing.assert_close(probability, weights[drawn] / weights.sum(), rtol=1e-12, atol=0)
        rounding = 1e-14
        assert (uniform < cumulative[drawn] + rounding).all()
        assert (uniform >= cumulative[drawn] - weights[drawn] / weights.sum() - rounding).all()
