from __future__ import annotations

import io

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.strategies import Uniform
from tests.helpers.statistics import p_value

TAGS = torch.arange(23) % 3


def started() -> Uniform:
    strategy = Uniform()
    strategy.start(Bins(TAGS))
    return strategy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [1, 5, 23, 40])
def test_epochs_are_permutations_that_differ_even_if_batches_straddle_them(size):
    strategy, generator = started(), seeded()
    drawn = torch.cat([strategy.draw(size, generator).indices for _ in range(-(-4 * 23 // size))])[: 4 * 23].view(4, 23)
    assert torch.equal(drawn.sort(1).values, torch.arange(23).expand(4, 23))
    assert len(drawn.unique(dim=0)) == 4


def test_start_epoch_reshuffles_and_drops_what_was_left():
    strategy, generator = started(), seeded()
    first = strategy.draw(10, generator).indices
    strategy.start_epoch(generator)
    second = torch.cat([strategy.draw(10, generator).indices, strategy.draw(13, generator).indices])
    assert second.sort().values.tolist() == list(range(23))
    assert second[:10].tolist() != first.tolist()


def test_the_law_is_uniform_and_draws_carry_it():
    strategy = started()
    law = strategy.probabilities()
    assert law.tolist() == [1 / 23] * 23
    draw = strategy.draw(23, seeded())
    assert torch.equal(draw.bins, TAGS[draw.indices])
    assert torch.equal(draw.probabilities, law[draw.indices])


def test_with_replacement_draws_follow_the_uniform_law_and_repeat():
    strategy = Uniform(replacement=True)
    strategy.start(Bins(TAGS))
    generator = seeded()
    strategy.start_epoch(generator)
    draw = strategy.draw(23_000, generator)
    assert p_value(draw.indices, strategy.probabilities()) > 1e-3
    assert draw.probabilities.unique().tolist() == [1 / 23]
    assert torch.equal(draw.bins, TAGS[draw.indices])
    assert len(strategy.draw(23, generator).indices.unique()) < 23


def test_an_update_changes_nothing():
    first, second = started(), started()
    one, other = seeded(), seeded()
    for _ in range(5):
        draw, expected = first.draw(7, one), second.draw(7, other)
        assert torch.equal(draw.indices, expected.indices)
        first.update(draw, torch.rand(7, generator=seeded(1)).double(), torch.ones(7).double())
    assert torch.equal(first.probabilities(), second.probabilities())


def test_a_restored_state_goes_on_in_the_middle_of_an_epoch():
    strategy, generator = started(), seeded()
    strategy.draw(7, generator)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expected = [strategy.draw(7, generator).indices.tolist() for _ in range(8)]
    restored, other = started(), seeded(9)
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert [restored.draw(7, other).indices.tolist() for _ in range(8)] == expected


def test_started_again_it_begins_anew():
    strategy = started()
    strategy.draw(7, seeded())
    strategy.start(Bins(TAGS))
    assert torch.equal(strategy.draw(23, seeded(5)).indices, started().draw(23, seeded(5)).indices)
