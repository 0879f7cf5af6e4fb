from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveDataModule,
    AdaptiveSampling,
    Bins,
    ClosenessSampling,
    Strategy,
    Uniform,
)
from lightning_as.core.draw import Draw, importance_weights
from lightning_as.core.shards import over_processes
from lightning_as.data import sharing
from lightning_as.data.chunks import InChunks
from lightning_as.data.sharded_sampler import ShardedBatchSampler
from tests.helpers.statistics import p_value, saved, seeded
from tests.helpers.tiny import differences

SIZE, COUNT, BATCH = 499, 3, 20  # no multiples of each other
TAGS = torch.arange(SIZE) % 4 * (torch.arange(SIZE) > 9)
TAGS[17] = 4  # a bin that two of the shards have nothing of
MAKE = {
    "closeness": lambda: ClosenessSampling(warm_up=0, relaxation=0, points="independent"),
    "adaptive": lambda: AdaptiveSampling(beta=3, points="independent"),
    "uniform": lambda: Uniform(replacement=True),
}


def make(rank: int, strategy: Strategy | None = None, count: int = COUNT, **options: Any) -> ShardedBatchSampler:
    sampler = ShardedBatchSampler(Bins(TAGS), BATCH, **{"num_replicas": count, "rank": rank, **options})
    if strategy is not None:
        sampler.attach(strategy)
    return sampler


def positions(sampler: ShardedBatchSampler) -> Tensor:
    assert sampler.own_bins.shard is not None
    return sampler.own_bins.shard.positions.long()


def losses_of(where: Tensor) -> Tensor:
    return (where.double() * 0.7).sin().square() * 3


def train(sampler: ShardedBatchSampler, batch: list[int]) -> Draw:
    draw = sampler.commit()
    where = positions(sampler)[draw.indices]
    assert where.tolist() == batch
    sampler.strategy.update(draw, losses_of(where), losses_of(where) / 2)
    return draw


def trained(kind: str, rank: int, epochs: int = 6) -> ShardedBatchSampler:
    sampler = make(rank, MAKE[kind]())
    sampler.strategy.plan(None, len(sampler))
    for _ in range(epochs):
        for batch in sampler:
            train(sampler, batch)
    return sampler


@pytest.mark.parametrize("kind", MAKE)
def test_places_of_a_global_batch_go_to_instances_by_the_mean_of_all_processes_distributions(kind: str):
    places, mean, drawn = torch.zeros(SIZE), torch.zeros(SIZE).double(), []
    weighted = []
    values = torch.rand(SIZE, generator=seeded()).double()
    for rank in range(COUNT):
        sampler = trained(kind, rank)
        own, r, bins = positions(sampler), sampler.strategy.probabilities(), sampler.own_bins
        places[own] += 1
        mean[own] = r / COUNT
        if kind != "uniform":
            assert float((r * len(r)).std()) > 0.1
        weights = importance_weights(r, bins.mean_size)
        weighted.append(float((r * weights * values[own]).sum()) / COUNT)
        for _ in range(500):
            draw = sampler.strategy.draw(BATCH, sampler.generator)
            torch.testing.assert_close(draw.probabilities, r[draw.indices])
            assert torch.equal(bins.of(draw.indices), draw.bins)
            drawn.append(own[draw.indices])
    assert bool((places == 1).all())
    torch.testing.assert_close(float(mean.sum()), 1.0)
    assert p_value(torch.cat(drawn), mean) > 1e-4
    torch.testing.assert_close(sum(weighted), float(values.mean()))  # by enumeration: without bias


@pytest.mark.parametrize("kind", MAKE)
def test_it_goes_on_where_a_state_was_taken_with_batches_under_way(kind: str):
    sampler, resumed = trained(kind, 1, epochs=3), make(1, MAKE[kind](), seed=9)
    batches = iter(sampler)
    ahead = [next(batches) for _ in range(3)]
    train(sampler, ahead.pop(0))
    state = saved(sampler.state_dict())
    resumed.load_state_dict(state)
    again = iter(resumed)
    for _ in range(5):
        batch = ahead.pop(0) if ahead else next(batches)
        assert next(again) == batch
        train(sampler, batch)
        train(resumed, batch)
    assert differences(sampler.strategy.state_dict(), resumed.strategy.state_dict()) == []
    with pytest.raises(ValueError, match="of another part of the data"):
        make(0, MAKE[kind]()).load_state_dict(state)


@pytest.mark.parametrize("kind", MAKE)
def test_a_batch_of_which_nothing_came_through_counts(kind: str):
    """Where processes wait for each other, all must have learnt as often."""
    sampler = trained(kind, 0, epochs=1)
    strategy, batches = sampler.strategy, iter(sampler)
    next(batches)
    before = strategy.state_dict()
    nothing = torch.empty(0, dtype=torch.int64)
    strategy.update(sampler.commit().select(nothing), nothing.double(), nothing.double())
    ages = [state["over_bins"]["age"] for state in (before, strategy.state_dict())] if kind == "adaptive" else [0, 1]
    assert (ages[1] - ages[0]) % 3 == 1
    assert not strategy.skipped


def test_without_a_strategy_all_processes_together_see_what_a_shuffled_epoch_does():
    seen = [index for rank in range(COUNT) for batch in make(rank) for index in batch]
    assert len(seen) == len(set(seen)) == SIZE // (BATCH * COUNT) * BATCH * COUNT
    assert [list(make(rank, seed=1)) == list(make(rank)) for rank in range(COUNT)] == [False] * COUNT
    assert torch.equal(make(0).common_generator.get_state(), make(1).common_generator.get_state())


def test_one_that_is_made_before_the_processes_takes_its_shard_when_they_are_there(monkeypatch: pytest.MonkeyPatch):
    early = ShardedBatchSampler(Bins(TAGS), BATCH)
    assert len(early.own_bins) == SIZE
    monkeypatch.setattr(sharing, "is_initialized", lambda: True)
    monkeypatch.setattr(sharing, "get_world_size", lambda: COUNT)
    monkeypatch.setattr(sharing, "get_rank", lambda: 1)
    assert list(early) == list(make(1))
    strategy = ClosenessSampling()
    early.attach(strategy)
    assert strategy.bins is early.own_bins
    assert len(strategy.bins) == len(make(1).own_bins)


def test_loaders_have_one_if_they_are_told_to_and_of_chunks_none():
    dataset = TensorDataset(torch.arange(50.0), torch.arange(50) % 2)
    plain, wrapped = DataLoader(dataset, 10), AdaptiveDataModule(dataset, 10, sharded=True)
    loaders = [
        AdaptiveDataLoader(dataset, 10, sharded=True),
        AdaptiveDataLoader.like(plain, sharded=True),
        wrapped.train_dataloader(),
    ]
    for loader in loaders:
        assert isinstance(loader.sampler, ShardedBatchSampler)
        assert sorted(torch.cat([batch[0] for batch in loader]).tolist()) == list(range(50))
    assert not isinstance(AdaptiveDataLoader(dataset, 10).sampler, ShardedBatchSampler)
    with pytest.raises(ValueError, match="which `sharded=True` would cut"):
        AdaptiveDataLoader(InChunks(dataset, 10), 10, sharded=True)
    loader = AdaptiveDataLoader(InChunks(dataset, 10), 10, sharded=True, open_chunks=None)
    assert isinstance(loader.sampler, ShardedBatchSampler)


def test_without_processes_a_sum_over_them_is_what_there_is():
    assert over_processes(torch.ones(2)).tolist() == [1, 1]


def test_the_distribution_is_nearly_that_of_one_process_that_knows_the_same():
    """Within the bound of docs/scale.md, (ln s) / 2√n + CV / √m for a bin with m of the n instances of a shard."""
    size, count = 40_000, 4
    tags = (torch.rand(size, generator=seeded()) < 0.02).long()
    losses = torch.rand(size, generator=seeded(1)).double() * 3

    def known(bins: Bins) -> Tensor:
        strategy = ClosenessSampling(warm_up=0, relaxation=0, gamma=0.3)
        strategy.start(bins)
        where = torch.arange(size) if bins.shard is None else bins.shard.positions.long()
        indices = torch.arange(len(where))
        draw = Draw(indices, bins.of(indices), strategy.probabilities())
        strategy.update(draw, losses[where], torch.zeros_like(losses[where]))
        strategy.draw(10, seeded())
        return strategy.probabilities()

    whole, bins = known(Bins(tags)), Bins(tags)
    for rank in range(count):
        shard = bins.in_shard(rank, count)
        assert shard.shard is not None
        ratio = known(shard) / count / whole[shard.shard.positions.long()]
        for tag in (0, 1):
            away, held = ratio[shard.tags == tag] - 1, int((shard.tags == tag).sum())
            bound = 1.151 / len(shard) ** 0.5 + 0.638 / held**0.5
            assert float(away.square().mean().sqrt()) < 2 * bound
            assert float(away.abs().max()) < 4 * bound
