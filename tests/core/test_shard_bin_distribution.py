from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core import shard_bin_distribution
from lightning_as.core.bin_distribution import GradientBinDistribution
from lightning_as.core.bins import Bins
from lightning_as.core.shard_bin_distribution import ShardBinDistribution
from tests.helpers.statistics import seeded

COUNT, BETA, BATCH = 3, 4, 20
WHOLE = Bins([0] * 50 + [1] * 30 + [2] * 19 + [3])


def make(rank: int, **options: Any) -> tuple[Bins, ShardBinDistribution]:
    bins = WHOLE.in_shard(rank, COUNT)
    return bins, ShardBinDistribution(bins, GradientBinDistribution(WHOLE.sizes, None, **options), BETA)


class AllReduce:
    """As of processes, but of threads."""

    def __init__(self) -> None:
        self.barrier, self.given = Barrier(COUNT, timeout=30), list[Tensor]()

    def __call__(self, own: Tensor) -> Tensor:
        self.given.append(own.clone())
        self.barrier.wait()
        total = torch.stack(self.given[-COUNT:]).sum(0)
        self.barrier.wait()
        return total


@pytest.mark.parametrize("statistic", ["sum", "sum_over_q", "mean", "second_moment"])
def test_p_of_the_whole_data_is_that_of_one_process_with_all_the_draws(statistic: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_bin_distribution, "over_processes", AllReduce())
    alone = GradientBinDistribution(WHOLE.sizes, BETA, 0.5, statistic)
    parts = [make(rank, delta_p=0.5, statistic=statistic) for rank in range(COUNT)]
    generator = seeded()
    for _ in range(2 * BETA):
        told, for_all = [], []
        for bins, _ in parts:
            assert bins.shard is not None
            own = bins.tags[torch.randint(len(bins), (BATCH,), generator=generator)].long()
            bounds, q = torch.rand(2, BATCH, generator=generator, dtype=torch.float64)
            share = (torch.tensor(bins.sizes).double() / torch.tensor(bins.whole_sizes))[own]
            told.append((own, bounds, q / share))
            for_all.append((bins.shard.whole_bins[own], bounds, q))
        alone.update(*(torch.cat(part) for part in zip(*for_all, strict=True)))
        with ThreadPoolExecutor(COUNT) as threads:
            list(threads.map(lambda part, batch: part[1].update(*batch), parts, told))
    assert float(alone.probabilities.std()) > 0.01
    for bins, part in parts:
        assert bins.shard is not None
        torch.testing.assert_close(part.whole.probabilities, alone.probabilities)
        shares = torch.tensor(bins.sizes).double() / torch.tensor(bins.whole_sizes)
        expected = alone.probabilities[bins.shard.whole_bins] * shares
        torch.testing.assert_close(part.probabilities, expected / expected.sum())
    _, resumed = make(0)
    resumed.load_state_dict(parts[0][1].state_dict())
    assert torch.equal(resumed.probabilities, parts[0][1].probabilities)


def test_a_shard_whose_bins_have_no_probability_is_drawn_from_by_its_sizes():
    bins = next(part for part in (WHOLE.in_shard(rank, COUNT) for rank in range(COUNT)) if len(part.sizes) == 3)
    whole = GradientBinDistribution(WHOLE.sizes, None)
    whole.set(torch.tensor([0.0, 0.0, 0.0, 1.0]).double())
    sizes = torch.tensor(bins.sizes).double()
    torch.testing.assert_close(ShardBinDistribution(bins, whole, BETA).probabilities, sizes / sizes.sum())
