import pytest
import torch

from lightning_as.core import shards
from lightning_as.core.bins import Bins
from tests.helpers.statistics import seeded


def tags_of(*sizes: int) -> torch.Tensor:
    tags = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
    return tags[torch.randperm(len(tags), generator=seeded())]


def whole_order(tags: torch.Tensor, sizes: list[int]) -> list[int]:
    """By sorting all the keys, in plain Python."""
    offsets = torch.rand(len(sizes), dtype=torch.float64, generator=seeded(0)).tolist()
    numbers, keys = [0] * len(sizes), []
    for position in torch.randperm(len(tags), generator=seeded(1)).tolist():
        bin_ = int(tags[position])
        keys.append(((numbers[bin_] + offsets[bin_]) / sizes[bin_], bin_, position))
        numbers[bin_] += 1
    return [position for _, _, position in sorted(keys)]


@pytest.mark.parametrize("sizes", [(100,), (1, 50, 300, 2, 47), (1,) * 40, (7, 7, 7)])
def test_the_shards_of_any_number_of_processes_are_parts_of_one_order(sizes: tuple[int, ...], monkeypatch):
    monkeypatch.setattr(shards, "_AT_ONCE", 64)
    tags = tags_of(*sizes)
    expected = whole_order(tags, list(sizes))
    for count in (1, 2, 3, 7):
        found = [shards.cut(tags, list(sizes), rank, count) for rank in range(count)]
        assert torch.cat([shard.positions for shard, _ in found]).tolist() == expected
        for rank, (shard, own) in enumerate(found):
            assert (shard.start, shard.start + len(own)) == shards.span(len(tags), rank, count)
            assert torch.equal(shard.whole_bins[own], tags[shard.positions].long())
            assert (shard.size, shard.shards, shard.sizes) == (len(tags), count, list(sizes))


def test_bins_of_a_shard_are_numbered_without_those_that_it_has_nothing_of():
    whole = Bins.from_labels(torch.tensor([7] * 30 + [9] + [8] * 11))
    parts = [whole.in_shard(rank, 3) for rank in range(3)]
    assert sum(len(part.sizes) == 2 for part in parts) == 2
    for part in parts:
        assert part.shard is not None
        assert part.mean_size == 42 / 3
        assert part.whole_sizes == [{7: 30, 8: 11, 9: 1}[label] for label in part.labels.tolist()]
        assert torch.equal(part.labels[part.tags.long()], whole.labels[whole.tags.long()][part.shard.positions])


def test_each_shard_has_its_share_of_each_bin():
    sizes = torch.randint(1, 2000, (30,), generator=seeded()).tolist()
    total = sum(sizes)
    for count in (2, 5, 16):
        edges = [shards.among_first(sizes, rank * total // count) for rank in range(count + 1)]
        shares = torch.stack(edges).diff(dim=0)
        expected = torch.tensor(sizes) / count
        away = (shares - expected).abs()
        assert bool((away <= 1 + len(sizes) * torch.tensor(sizes) / total).all())
        assert float(away.max()) < 4
        assert int(shares.sum()) == total


def test_equal_keys_are_told_apart_by_their_bins(monkeypatch: pytest.MonkeyPatch):
    sizes = [4, 2, 4, 1]
    monkeypatch.setattr(shards, "_keys", lambda _: (torch.zeros(4).double(), torch.tensor(sizes).double()))
    keys = sorted((number / size, bin_) for bin_, size in enumerate(sizes) for number in range(size))
    for at in range(12):
        expected = [sum(bin_ == each for _, each in keys[:at]) for bin_ in range(4)]
        assert shards.among_first(sizes, at).tolist() == expected
