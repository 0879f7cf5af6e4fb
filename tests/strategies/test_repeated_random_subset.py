from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import RepeatedRandomSubset
from tests.helpers.statistics import p_value

TAGS = torch.arange(23) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(**options: Any) -> RepeatedRandomSubset:
    strategy = RepeatedRandomSubset(**options)
    strategy.start(Bins(TAGS))
    return strategy


def passes(strategy: RepeatedRandomSubset, size: int, count: int, batch: int, generator: torch.Generator) -> list[Any]:
    """Passes of `size` instances each, put together from batches of another size."""
    batches = -(-size * count // batch)
    drawn = torch.cat([strategy.draw(batch, generator).indices for _ in range(batches)])
    return drawn[: size * count].view(count, size).tolist()


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("fraction", "size"), [(0.3, 6), (0.5, 11), (1.0, 23), (0.01, 1), (0.1, 2)])
@pytest.mark.parametrize("batch", [1, 4, 23])
def test_each_pass_is_a_subset_that_differs_from_the_last(fraction, size, batch, replacement):
    strategy = started(fraction=fraction, replacement=replacement)
    subsets = passes(strategy, size, 12, batch, seeded())
    assert all(len(set(subset)) == size for subset in subsets)
    assert all(one != other for one, other in itertools.pairwise(subsets)) or size == 1


@pytest.mark.parametrize(("fraction", "size", "per_permutation"), [(0.3, 6, 3), (0.5, 11, 2), (0.1, 2, 11)])
def test_without_replacement_subsets_are_disjoint_until_the_rest_is_too_short(fraction, size, per_permutation):
    subsets = passes(started(fraction=fraction), size, 4 * per_permutation, 5, seeded(1))
    rounds = [subsets[start : start + per_permutation] for start in range(0, len(subsets), per_permutation)]
    left_out = set()
    for disjoint in rounds:
        union = set().union(*disjoint)
        assert len(union) == size * per_permutation
        left_out.add(tuple(sorted(set(range(23)) - union)))
    assert len(left_out) > 1  # what is left of a permutation is dropped, by chance


def test_with_replacement_subsets_overlap():
    subsets = passes(started(fraction=0.5, replacement=True), 11, 30, 11, seeded(2))
    shared = [len(set(one) & set(other)) for one, other in itertools.pairwise(subsets)]
    assert sum(shared) / len(shared) == pytest.approx(11 * 11 / 23, abs=1)  # hypergeometric, 5 standard errors


@pytest.mark.parametrize("replacement", [False, True])
def test_every_instance_and_every_place_in_a_pass_is_equally_likely(replacement):
    strategy = started(fraction=0.3, replacement=replacement)
    drawn = torch.tensor(passes(strategy, 6, 6000, 100, seeded(3)))
    uniform = torch.full((23,), 1 / 23, dtype=torch.float64)
    for place in (0, 3, 5):
        assert p_value(drawn[:, place], uniform) > 1e-3
    assert torch.equal(strategy.probabilities(), uniform)
    draw = strategy.draw(50, seeded())
    assert draw.probabilities.tolist() == [1 / 23] * 50
    assert torch.equal(draw.bins, TAGS[draw.indices])


def test_a_pass_goes_on_over_the_border_of_an_epoch():
    strategy, other = started(fraction=0.5), started(fraction=0.5)
    generator, its = seeded(4), seeded(4)
    for _ in range(8):
        strategy.start_epoch(generator)
        assert torch.equal(strategy.draw(4, generator).indices, other.draw(4, its).indices)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_restored_state_goes_on_amid_a_pass(steps, replacement):
    strategy, generator = started(fraction=0.4, replacement=replacement), seeded(5)
    for _ in range(steps):
        strategy.draw(4, generator)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expected = [strategy.draw(4, generator).indices.tolist() for _ in range(20)]
    restored, other = started(fraction=0.4, replacement=replacement), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert [restored.draw(4, other).indices.tolist() for _ in range(20)] == expected


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
def test_a_fraction_out_of_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\], a share of the data set; got "):
        RepeatedRandomSubset(fraction=fraction)
