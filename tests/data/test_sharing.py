import pytest
import torch

from lightning_as.data import sharing
from lightning_as.data.sharing import SharedSampler


def test_it_is_one_process_of_as_many_as_there_are_now(monkeypatch: pytest.MonkeyPatch):
    sampler, told = SharedSampler(), SharedSampler(3, 1)
    for rank, processes in ((0, 1), (1, 2)):
        assert (sampler.rank, sampler.num_replicas, sampler.sharing) == (rank, processes, processes)
        assert sampler.share(torch.arange(6)).tolist() == list(range(rank, 6, processes))
        assert told.share(torch.arange(6)).tolist() == [1, 4]
        monkeypatch.setattr(sharing, "is_initialized", lambda: True)
        monkeypatch.setattr(sharing, "get_world_size", lambda: 2)
        monkeypatch.setattr(sharing, "get_rank", lambda: 1)
