import pytest
import torch
from torch import Tensor

from lightning_as import AdaptiveBatchSampler, Bins, Draw, KeepOrSkip
from lightning_as.core.stream import Stream
from lightning_as.strategies.stream_filter import StreamFilter


class All(StreamFilter):
    """The least that one can be."""

    def keep(self, keys: Tensor, uniform: float) -> tuple[Tensor, Draw]:
        ones = torch.ones(len(keys), dtype=torch.float64)
        return torch.arange(len(keys)), Draw(keys, torch.zeros_like(keys), ones, ones)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def test_what_it_has_by_default():
    strategy = All()
    strategy.keep_record(True)
    strategy.start(Stream())
    strategy.begin_pass()
    assert strategy.record is None
    assert strategy.probabilities().tolist() == strategy.bin_probabilities.tolist() == [1]
    assert not strategy.repeated(torch.tensor([5, 5])).any()
    assert not strategy.scoring


def test_a_sampler_over_positions_refuses_it_and_stays_what_it_was():
    sampler, strategy = AdaptiveBatchSampler(Bins.single(8), 2), KeepOrSkip()
    before = sampler.strategy
    with pytest.raises(ValueError, match="AdaptiveIterableLoader"):
        sampler.attach(strategy)
    assert sampler.strategy is before
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = strategy.bins
