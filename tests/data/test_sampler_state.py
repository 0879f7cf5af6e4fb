"""A sampler goes on from the whole of a state, or stays as it is, whatever the strategy and whatever is wrong."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import AdaptiveBatchSampler, Bins
from lightning_as.core.state import checksums
from lightning_as.strategies import Strategy
from tests.helpers.catalogue import CATALOGUE, VARIANTS
from tests.helpers.driver import EPOCH, Driver
from tests.helpers.statistics import saved, seeded

TAGS = (torch.arange(96) % 4)[torch.randperm(96, generator=seeded())]
EVERY = CATALOGUE | VARIANTS
NOT_NEGATIVE = ("leaves", "probabilities", "weights", "accumulated")
NO_INDICES = ("last", "counts", "doubts")  # but numbers of batches, or any levels
MAY_BE_UNKNOWN = ("squares", "numbers")
OPTIONAL = ("within", "weights", "constants", "features", "entropy", "reward")


def trained(make: Callable[[], Strategy], batches: int) -> AdaptiveBatchSampler:
    """A sampler with two draws that are pending."""
    sampler = AdaptiveBatchSampler(Bins(TAGS), batch_size=16)
    strategy = make()
    strategy.keep_record(True)
    Driver(strategy, sampler.bins).run(batches)
    sampler.attach(strategy)
    batches_ahead = iter(sampler)
    next(batches_ahead), next(batches_ahead)
    return sampler


def places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The entries of a nested state, of equal ones the first, with the way to them."""
    items = part.items() if isinstance(part, dict) else enumerate(part[:1]) if isinstance(part, list) else ()
    for key, value in list(items)[:20]:
        yield (*path, key), value
        yield from places(value, (*path, key))


def damages(path: tuple[Any, ...], part: Any) -> list[Any]:
    """What must be refused in the place of a part, even if it was saved like that."""
    name = path[-1]
    none = [None] * (name not in OPTIONAL)
    if not isinstance(part, Tensor):
        return [*none, "odd", [1]] + ([math.nan] if isinstance(part, float) else [-1] if type(part) is int else [])
    others: list[Any] = [*none, 1, part.to(torch.float16), part.unsqueeze(0)]
    if not part.numel() or path[0] in ("tags", "generator"):
        return others
    if part.is_floating_point():
        values = [math.nan] * (name not in MAY_BE_UNKNOWN) + [-math.inf] + [-5.0] * (name in NOT_NEGATIVE)
    else:
        values = (
            []
            if part.dtype in (torch.bool, torch.uint8)
            else [-1] + [min(10**6, torch.iinfo(part.dtype).max)] * (name not in NO_INDICES)
        )
    for value in values:
        other = part.clone()
        other.view(-1)[-1] = value
        others.append(other)
    return others


def replaced(state: dict[str, Any], path: tuple[Any, ...], part: Any, drop: bool = False) -> dict[str, Any]:
    state = copy.deepcopy(state)
    owner: Any = state
    for key in path[:-1]:
        owner = owner[key]
    if drop:
        del owner[path[-1]]
    else:
        owner[path[-1]] = part
    return state


@pytest.mark.parametrize("make", EVERY.values(), ids=list(EVERY))
def test_what_is_damaged_is_refused_and_changes_nothing(make: Callable[[], Strategy]):
    source, sampler = trained(make, 2 * EPOCH + 1), trained(make, EPOCH)
    state, before = saved(source.state_dict()), checksums(sampler.state_dict())
    wrong: list[tuple[Any, Any]] = []
    silent: list[Any] = []
    for path, part in places({key: part for key, part in state.items() if key != "checksums"}):
        if isinstance(part, Tensor) and part.numel():
            flipped = part.clone()
            flipped.view(-1).view(torch.uint8)[-1] ^= 1
            wrong.append((path, replaced(state, path, flipped)))
        if path[0] != "format" and not isinstance(path[-1], int):
            wrong.append((path, replaced(state, path, None, drop=True)))
        for other in damages(path, part) if part is not None else []:
            changed = replaced(state, path, other)
            sums = checksums({key: part for key, part in changed.items() if key != "checksums"})
            wrong.append((path, changed | {"checksums": sums}))
    for path, changed in wrong:
        try:
            sampler.load_state_dict(changed)
            silent.append(path)
        except ValueError:
            continue
    assert silent == []
    assert checksums(sampler.state_dict()) == before
    sampler.load_state_dict(state)
    assert checksums(sampler.state_dict()) == checksums(source.state_dict())
