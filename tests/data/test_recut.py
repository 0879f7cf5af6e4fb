from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Strategy
from lightning_as.data.recut import recut
from lightning_as.data.shard_files import read_shard, tables_of, write_shard
from tests.data.test_sharded_sampler import BATCH, COUNT, MAKE, SIZE, losses_of, make, positions, train
from tests.helpers.tiny import differences


def old(kind: str, rank: int) -> Any:
    """A sampler with some batches behind it, one of a loss that is not finite, and two under way."""
    strategy: Strategy = MAKE[kind]()
    strategy.keep_record(True)
    sampler = make(rank, strategy)
    strategy.plan(None, len(sampler))
    for _ in range(3):
        for batch in sampler:
            draw = train(sampler, batch)
            strategy.record.add(draw.indices, torch.stack([losses_of(positions(sampler)[draw.indices])] * 6))
    batches = iter(sampler)
    ahead = [next(batches) for _ in range(3)]
    train(sampler, ahead[0])
    strategy.skipped = rank + 1
    return sampler


def known(sampler: Any, kind: str) -> Tensor:
    """What the strategy and the record know of each instance, in the data's order; of what is relative in a bin."""
    found = torch.full((SIZE, 3), torch.nan, dtype=torch.float64)
    strategy, where = sampler.strategy, positions(sampler)
    found[where, 0] = strategy.record.columns()["drawn"].double()
    found[where, 1] = strategy.record.columns()["loss"]
    if kind == "adaptive":
        sizes = torch.tensor(sampler.own_bins.sizes)[sampler.own_bins.tags.long()]
        found[where, 2] = strategy.instance_probabilities() * sizes
    if kind == "closeness":
        found[where, 2] = strategy.state_dict()["doubts"].double()
    return found


def together(samplers: list[Any], kind: str) -> Tensor:
    return torch.stack([known(sampler, kind) for sampler in samplers]).nansum(0)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_other_processes_know_of_each_instance_what_was_known(kind: str, count: int, tmp_path: Path):
    before = [old(kind, rank) for rank in range(COUNT)]
    for rank, sampler in enumerate(before):
        state = {key: part for key, part in sampler.state_dict().items() if key != "tags"}
        write_shard(tmp_path, rank, state, tables_of(sampler.strategy))
    after = []
    for rank in range(count):
        strategy: Strategy = MAKE[kind]()
        strategy.keep_record(True)
        sampler = make(rank, strategy, count, seed=5)
        sampler.batch_size = BATCH * COUNT // count  # the same global batch
        state = recut(sampler, COUNT, lambda rank, tables: read_shard(tmp_path, rank, tables))
        sampler.load_state_dict(state | {"tags": sampler.bins.tags})
        after.append(sampler)
    expected, found = together(before, kind), together(after, kind)
    assert float(expected[:, 0].sum()) == COUNT * BATCH * (3 * len(before[0]))
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=0, atol=0)
    if kind == "adaptive":  # q is relative to the others of the bin in the shard
        for sampler in after:
            for tag in range(len(sampler.own_bins.sizes)):
                where = positions(sampler)[sampler.own_bins.tags == tag]
                torch.testing.assert_close(found[where, 2], expected[where, 2] / expected[where, 2].mean())
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if kind == "closeness":  # as many passes, and so ranks or none
        for sampler in after:
            states = [each.strategy.state_dict() for each in (sampler, before[0])]
            passes = [state["drawn"] / state["size"] for state in states]
            assert passes[0] == pytest.approx(passes[1], abs=1 / states[0]["size"])
    assert sum(sampler.strategy.skipped for sampler in after) == 1 + 2 + 3
    for sampler in after:
        assert sampler.strategy.record.batches == before[0].strategy.record.batches
        progress, drawn = sampler.strategy.progress, before[0].strategy.progress
        assert (progress.epoch, progress.batch) == (drawn.epoch, drawn.batch - 2)  # which were not trained on
        torch.testing.assert_close(float(sampler.strategy.probabilities().sum()), 1.0)
        assert len(list(sampler)) == len(before[0]) - 1  # the rest of the epoch
    streams = {tuple(sampler.generator.get_state().tolist()) for sampler in after}
    assert len(streams) == count


def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path):
    states = {}
    for rank in range(COUNT):
        states[rank] = old("closeness", rank).state_dict()
    sampler = make(0, MAKE["closeness"](), 1)

    def swapped(rank: int, tables: bool) -> dict[str, Any]:
        return states[(rank + 1) % COUNT]

    with pytest.raises(ValueError, match=r"`shard` is .* not .*"):
        recut(sampler, COUNT, swapped)
    states[1] = states[1] | {"skipped": 77}
    with pytest.raises(ValueError, match="`skipped` is not what was saved"):
        recut(sampler, COUNT, lambda rank, tables: states[rank])
    assert differences(sampler.strategy.state_dict(), make(0, MAKE["closeness"](), 1).strategy.state_dict()) == []
