import pytest
import torch

from lightning_as import AdaptiveSampling, Bins, ClosenessSampling, PrioritizedSampling, Uniform
from lightning_as.strategies.rebinned import RebinnedSampling


def test_strategies_that_go_by_all_of_the_data_are_refused_a_shard_of_it():
    shard = Bins(torch.arange(40) % 3).in_shard(0, 2)
    for strategy in (AdaptiveSampling(), ClosenessSampling(), Uniform()):
        strategy.start(shard)
    for strategy in (PrioritizedSampling(), RebinnedSampling()):
        with pytest.raises(ValueError, match=f"sharded=True`, but {type(strategy).__name__} goes by all of them"):
            strategy.start(shard)
    with pytest.raises(ValueError, match="give the shares of the training"):
        ClosenessSampling(score=["loss", "closeness"]).start(shard)
    ClosenessSampling(score={0: "loss", 0.5: "closeness"}).start(shard)
