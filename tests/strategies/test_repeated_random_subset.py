import itertools
from typing import Any

import pytest
import torch

from lightning_as.strategies import RepeatedRandomSubset
from tests.helpers.statistics import p_value, seeded
from tests.helpers.strategies import started

N = 23


def passes(size: int, count: int, batch: int, seed: int = 0, **options: Any) -> list[list[int]]:
    """Passes of `size` instances each, put together from batches of another size; an epoch begins at each batch."""
    strategy, generator, drawn = started(RepeatedRandomSubset(**options), N), seeded(seed), []
    for _ in range(-(-size * count // batch)):
        strategy.start_epoch(generator)
        drawn.append(strategy.draw(batch, generator).indices)
    return torch.cat(drawn)[: size * count].view(count, size).tolist()


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("fraction", "size"), [(0.3, 6), (1.0, 23), (0.01, 1), (0.1, 2)])
@pytest.mark.parametrize("batch", [4, 23])
def test_each_pass_is_a_subset_that_differs_from_the_last(fraction: float, size: int, batch: int, replacement: bool):
    subsets = passes(size, 12, batch, fraction=fraction, replacement=replacement)
    assert all(len(set(subset)) == size for subset in subsets)
    assert all(one != other for one, other in itertools.pairwise(subsets)) or size == 1
    rounded = started(RepeatedRandomSubset(fraction=0.29), 100)  # 29, not 28.99…
    rounded.draw(1, seeded())
    assert len(rounded.state_dict()["subsets"]["rows"][0]) == 29


@pytest.mark.parametrize(("fraction", "size"), [(0.3, 6), (0.5, 11), (0.1, 2), (0.01, 1)])
def test_without_replacement_subsets_are_disjoint_until_the_rest_is_too_short(fraction: float, size: int):
    per_permutation = N // size
    subsets = passes(size, 4 * per_permutation, 5, seed=1, fraction=fraction)
    left_out = set()
    for start in range(0, len(subsets), per_permutation):
        union = set().union(*subsets[start : start + per_permutation])
        assert len(union) == size * per_permutation
        left_out.add(tuple(sorted(set(range(N)) - union)))
    assert len(left_out) > 1 or size == 1  # what is left of a permutation is dropped, by chance


@pytest.mark.parametrize("replacement", [False, True])
def test_every_place_in_a_pass_is_equally_likely_and_with_replacement_subsets_overlap(replacement: bool):
    subsets = passes(6, 4000, 100, seed=3, fraction=0.3, replacement=replacement)
    for place in (0, 3, 5):
        assert p_value(torch.tensor(subsets)[:, place], torch.full((N,), 1 / N, dtype=torch.float64)) > 1e-3
    shared = [len(set(one) & set(other)) for one, other in itertools.pairwise(subsets)]
    # Independent subsets share 36/23 in the mean; without replacement only every third pair is independent.
    assert sum(shared) / len(shared) == pytest.approx(36 / N / (1 if replacement else 3), abs=0.08)
