from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_as.core.passes import Passes


def counting(length: int = 5) -> Callable[[], tuple[Tensor, ...]]:
    """Lists 0 1 2 3 4, 10 11 12 13 14, … with twice as much beside each."""
    made = [-1]

    def new() -> tuple[Tensor, ...]:
        made[0] += 1
        rows = torch.arange(length) + 10 * made[0]
        return rows, 2.0 * rows.double()

    return new


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 20])
def test_batches_of_any_size_go_through_one_list_after_another(size):
    passes, new = Passes(), counting()
    taken = [passes.take(size, new) for _ in range(-(-20 // size))]
    indices, twice = (torch.cat(rows) for rows in zip(*taken, strict=True))
    assert indices.tolist()[:20] == [10 * number + entry for number in range(4) for entry in range(5)]
    assert torch.equal(twice, 2.0 * indices)


def test_a_new_list_is_made_only_when_it_is_needed():
    passes, new = Passes(), counting()
    assert passes.left == 0
    passes.take(5, new)
    assert passes.left == 0
    (indices, _) = passes.take(1, new)
    assert indices.tolist() == [10]
    assert passes.left == 4


def test_a_pass_that_is_begun_drops_what_is_left():
    passes, new = Passes(), counting()
    passes.take(2, new)
    passes.begin(new())
    assert passes.take(6, new)[0].tolist() == [10, 11, 12, 13, 14, 20]


@pytest.mark.parametrize("taken", [0, 3, 5])
def test_a_state_goes_on_and_is_a_copy(taken):
    passes, new = Passes(), counting()
    passes.take(taken, new)
    file = io.BytesIO()
    state = passes.state_dict()
    torch.save(state, file)
    file.seek(0)
    if taken:
        passes.take(0, new)
        state["rows"][0].zero_()
        assert passes.take(2, counting(9))[0][0] == taken % 5
    restored = Passes()
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.left == 5 - taken if taken else restored.left == 0
    assert restored.take(2, counting())[0].tolist() == [taken % 5, taken % 5 + 1]
