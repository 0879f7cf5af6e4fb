from __future__ import annotations

import io

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.passes import Candidates, batches_of_candidates

TAGS = torch.arange(23) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [1, 10, 23])
def test_draws_go_through_shuffled_passes_whatever_their_size(size: int):
    candidates, generator = Candidates(Bins(TAGS)), seeded()
    draws = [candidates.draw(size, generator) for _ in range(-(-4 * 23 // size))]
    drawn = torch.cat([draw.indices for draw in draws])[: 4 * 23].view(4, 23)
    assert torch.equal(drawn.sort(1).values, torch.arange(23).expand(4, 23))
    assert len(drawn.unique(dim=0)) == 4
    assert torch.equal(draws[0].bins, TAGS[draws[0].indices])
    assert draws[0].probabilities.tolist() == [1 / 23] * size
    assert draws[0].weights is None


def test_a_restored_state_goes_on_in_the_middle_of_a_pass():
    candidates, generator = Candidates(Bins(TAGS)), seeded()
    candidates.draw(10, generator)
    file = io.BytesIO()
    torch.save([candidates.state_dict(), generator.get_state()], file)
    file.seek(0)
    state, random = torch.load(file, weights_only=True)
    expected = [candidates.draw(9, generator).indices.tolist() for _ in range(5)]
    other = Candidates(Bins(TAGS))
    other.load_state_dict(state)
    assert [other.draw(9, generator_at(random)).indices.tolist()] == expected[:1]
    restored, going_on = Candidates(Bins(TAGS)), generator_at(random)
    restored.load_state_dict(state)
    assert [restored.draw(9, going_on).indices.tolist() for _ in range(5)] == expected


def generator_at(state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def test_keep_is_one_over_a_whole_number():
    assert [batches_of_candidates(keep) for keep in (0.5, 0.1, 0.25, 1 / 3, 0.333, 0.02)] == [2, 10, 4, 3, 3, 50]
    for keep in (1.0, 0.4, 0.33, 0.0, -0.5, 2.0, 0.999):
        with pytest.raises(ValueError, match=rf"`keep` must be 1 over a whole number .* got {keep}: use 0.5"):
            batches_of_candidates(keep)


def test_more_candidates_than_instances_are_refused():
    candidates = Candidates(Bins([0, 1, 0]))
    with pytest.raises(ValueError, match="4 candidates cannot be had of 3 instances: use smaller batches"):
        candidates.draw(4, torch.Generator())
