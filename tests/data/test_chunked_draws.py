"""Samplers over data in chunks: from which they draw, and what goes on after a resume."""

from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveSampling,
    Bins,
    ClosenessSampling,
    InChunks,
    InfoBatch,
    Strategy,
    Uniform,
)
from lightning_as.core.chunk_order import Chunks
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from tests.helpers.strategies import learn

N, SIZE = 100, 16
DATA = TensorDataset(torch.arange(N))


@pytest.mark.parametrize(
    ("strategy", "bins"),
    [
        (AdaptiveSampling(bin_statistic="mean"), "chunk"),
        (ClosenessSampling(warm_up=0), [index % 5 for index in range(N)]),
        (Uniform(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_draws_come_from_few_chunks_and_go_on_after_a_resume(strategy: Strategy, bins: Any):
    def make() -> AdaptiveBatchSampler:
        loader = AdaptiveDataLoader(InChunks(DATA, SIZE), 10, bins, seed=0, open_chunks=2)
        sampler = loader.sampler
        assert isinstance(sampler, AdaptiveBatchSampler)
        sampler.attach(strategy if not made else type(strategy)(**options))
        made.append(sampler)
        return sampler

    made: list[AdaptiveBatchSampler] = []
    options: dict[str, Any] = {"warm_up": 0} if isinstance(strategy, ClosenessSampling) else {}
    options |= {"bin_statistic": "mean"} if isinstance(strategy, AdaptiveSampling) else {}
    sampler = make()
    saved: dict[str, Any] = {}
    later: list[Any] = []
    for epoch in range(3):
        for number, batch in enumerate(sampler):
            assert len({index // SIZE for index in batch}) <= 5
            later += [batch] if saved else []
            draw = sampler.commit()
            torch.testing.assert_close(
                draw.probabilities, sampler.strategy.probabilities()[draw.indices], rtol=1e-12, atol=0
            )
            learn(sampler.strategy, batch, torch.tensor(batch).double() / 30)
            if (epoch, number) == (1, 3):
                saved = sampler.state_dict()
    other = make()
    other.load_state_dict(saved)
    again = []
    for _ in range(2):
        for batch in other:
            again.append(batch)
            other.commit()
            learn(other.strategy, batch, torch.tensor(batch).double() / 30)
    assert again == later


@pytest.mark.parametrize("strategy", [ClosenessSampling, Uniform])
def test_processes_read_chunks_of_their_own(strategy: type[Strategy]):
    bins = Bins.single(N).in_chunks(Chunks.of([20] * 5, 1))
    samplers = [AdaptiveBatchSampler(bins, 5, seed=0, num_replicas=2, rank=rank) for rank in range(2)]
    drawn = []
    for sampler in samplers:
        sampler.attach(strategy())
        drawn.append([index for batch in sampler for index in batch])
    assert sorted(drawn[0] + drawn[1]) == list(range(N))
    chunks = [{index // 20 for index in own} for own in drawn]
    assert len(chunks[0] & chunks[1]) == 1  # the one across the cut


def test_what_draws_from_everywhere_is_refused():
    data = InChunks(DATA, SIZE)
    sampler = AdaptiveDataLoader(data, 10, None).sampler
    assert isinstance(sampler, AdaptiveBatchSampler)
    for strategy, message in (
        (InfoBatch(), "InfoBatch draws from all of them: use ClosenessSampling, AdaptiveSampling or Uniform"),
        (Uniform(replacement=True), "`replacement=True` draws from all chunks"),
        (ClosenessSampling(points="independent"), "`points='independent'` are of all chunks"),
        (AdaptiveSampling(), "P would forget those that are not"),
        (AdaptiveSampling(bin_statistic="mean", floor=0), "with a `floor`"),
        (AdaptiveSampling(bin_statistic="mean"), "give `bins='chunk'`"),
    ):
        for _ in range(2):  # the second time as well
            with pytest.raises(ValueError, match=message):
                sampler.attach(strategy)
    everywhere = AdaptiveDataLoader(data, 10, None, open_chunks=None).sampler
    assert isinstance(everywhere, AdaptiveBatchSampler)
    everywhere.attach(InfoBatch())


def test_a_sampler_that_knows_of_no_chunks_is_refused():
    data, sampler = InChunks(DATA, SIZE), AdaptiveBatchSampler(Bins.single(N), 10)
    with pytest.raises(ValueError, match="but the bins of `sampler` in none"):
        AdaptiveDataLoader(data, sampler=sampler)
    AdaptiveDataLoader(data, sampler=sampler, open_chunks=None)


def test_a_state_of_other_chunks_is_refused():
    def sampler(size: int) -> AdaptiveBatchSampler:
        found = AdaptiveDataLoader(InChunks(DATA, size), 10, None, seed=0).sampler
        assert isinstance(found, AdaptiveBatchSampler)
        found.attach(ClosenessSampling())
        return found

    with pytest.raises(ValueError, match="of 7 chunks of 100 instances, but here are 10 chunks of 100 instances"):
        sampler(10).load_state_dict(sampler(SIZE).state_dict())
