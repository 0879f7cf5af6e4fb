from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException as Misconfigured
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, RandomSampler

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, Bins, Draw, Uniform

N, B = 24, 4
LABELS = torch.tensor([5, 2, 2, 9] * 6)


class Numbers(Dataset[Any]):
    """Sample i is (i, its label), after a transform."""

    def __init__(self, transform: Any = int) -> None:
        self.labels, self.source, self.transform = LABELS, (torch.arange(N) // 10 * 3).tolist(), transform

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.transform(index), int(self.labels[index])


class InBatches(Numbers):
    """Loads several samples at once."""

    takes_tensors = False

    def __getitems__(self, indices: Any) -> Any:
        assert isinstance(indices, Tensor if self.takes_tensors else list)
        return [(100 + index, int(self.labels[index])) for index in torch.as_tensor(indices).tolist()]


class Clock(Uniform):
    """Draws only the instance that is the number of updates so far."""

    draws = updates = 0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        self.draws += 1
        return Draw(torch.full((size,), self.updates), torch.zeros(size).long(), torch.ones(size).double())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.updates += 1


def numbers(loader: AdaptiveDataLoader) -> list[list[int]]:
    """The instances of an epoch, batch by batch."""
    return [batch[0].tolist() for batch in loader]


def flat(epoch: list[list[int]]) -> list[int]:
    return [index for batch in epoch for index in batch]


def plus_thousand(samples: list[Any]) -> Tensor:
    return torch.tensor([sample[0] + 1000 for sample in samples])


SHORT, RANDOM = AdaptiveBatchSampler(Bins.single(N - 1), B), RandomSampler(range(N))
WEIGHTED, BATCHES = torch_data.WeightedRandomSampler([1.0] * N, N), torch_data.BatchSampler(RANDOM, B, False)


def load(dataset: Any, **options: Any) -> AdaptiveDataLoader:
    if isinstance(dataset, DataLoader):
        return AdaptiveDataLoader.like(dataset, **options)
    return AdaptiveDataLoader(dataset, **{"batch_size": B, **options})


@pytest.mark.parametrize(
    ("dataset", "options", "error", "message"),
    [
        (Numbers(), {"bins": Bins.single(N + 1)}, ValueError, "`bins` are of 25 instances, but the data set has 24"),
        (torch_data.ChainDataset([]), {}, Misconfigured, "ChainDataset is an IterableDataset, which has no posi"),
        (Dataset(), {"bins": None}, Misconfigured, "The Dataset has no length: give it a `__len__`"),
        (Numbers(), {"batch_size": None}, ValueError, "`batch_size` is missing: give the number of instances"),
        (Numbers(), {"batch_size": N + 1}, ValueError, "`batch_size` is 25 in each of 1 .* has only 24"),
        (Numbers(), {"sampler": SHORT}, ValueError, "`sampler` has bins of 23 instances, but the data set has 24"),
        (Numbers(), {"sampler": RANDOM}, Misconfigured, "not from a RandomSampler: leave out `overfit_batches`"),
        (DataLoader(Numbers(), sampler=WEIGHTED), {}, Misconfigured, "train DataLoader has a WeightedRandomSampler, "),
        (DataLoader(Numbers(), sampler=[1, 2, 3]), {}, Misconfigured, "a list, in whose place .* step: leave it out"),
        (DataLoader(Numbers(), batch_sampler=BATCHES), {}, Misconfigured, "has no `batch_size`, but a BatchSampler of"),
        (DataLoader(Numbers(), None, sampler=RANDOM), {}, Misconfigured, "but a RandomSampler of its own: give it"),
    ],
)
def test_bad_arguments(dataset: Any, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        load(dataset, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_collated_of_transformed_samples_or_loaded_at_once(num_workers: int):
    options: dict[str, Any] = {"batch_size": B, "num_workers": num_workers, "seed": 0}
    for values, labels in AdaptiveDataLoader(Numbers(float), **options):
        assert values.is_floating_point()
        assert torch.equal(LABELS[values.long()], labels)
    collated = AdaptiveDataLoader(Numbers(), **options, collate_fn=plus_thousand)
    assert torch.cat(list(collated)).sort().values.tolist() == list(range(1000, 1000 + N))
    assert sorted(flat(numbers(AdaptiveDataLoader(InBatches(), **options)))) == list(range(100, 100 + N))
    subset = AdaptiveDataLoader(torch_data.Subset(InBatches(), list(range(8, 16))), **options)
    assert sorted(flat(numbers(subset))) == list(range(108, 116))
    assert len(collated.dataset) == N
    assert collated.dataset[[3, 3, 1]].tolist() == [1003, 1003, 1001]
    assert collated.dataset[7] == (7, int(LABELS[7]))  # a single sample can be looked at
    assert collated.state_dict() == {}  # which says that it can be resumed, and leaves that to the callback
    collated.load_state_dict({})


def test_the_seed_decides_and_is_by_default_the_one_that_torch_was_given():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.rand(1)
        default, same, other = (numbers(AdaptiveDataLoader(Numbers(), B, seed=seed)) for seed in (None, 3, 4))
    assert default == same != other


@pytest.mark.parametrize(("workers", "prefetch", "persistent"), [(0, None, False), (1, 3, True), (2, None, False)])
def test_a_batch_is_drawn_when_it_is_asked_for_or_so_far_ahead(workers, prefetch, persistent):
    options = {"num_workers": workers, "prefetch_factor": prefetch, "persistent_workers": persistent}
    loader = AdaptiveDataLoader(Numbers(), B, batches_per_epoch=8, **options)
    iterator = iter(loader)
    strategy, sampler = Clock(), loader.sampler
    sampler.attach(strategy)  # after `iter`, as in Lightning
    ahead = (2 if prefetch is None else prefetch) * workers
    for epoch in range(2):
        seen = []
        assert strategy.draws == 8 * epoch
        for position, batch in enumerate(iterator):
            assert strategy.draws == 8 * epoch + min(position + ahead + 1, 8)
            seen.append(batch[0].tolist())
            strategy.update(sampler.commit(), torch.ones(B), torch.ones(B))
        assert seen == [[8 * epoch + max(0, position - ahead)] * B for position in range(8)]
        iterator = iter(loader)
    for hot in (7, 0, 23):  # what changes between two epochs is seen by workers, too
        strategy.updates = hot
        assert numbers(loader) == [[hot] * B] * 8


WORKERS = {"num_workers": 2, "timeout": 7.0, "prefetch_factor": 5, "persistent_workers": True}
SETTINGS: dict[str, Any] = {"pin_memory": True, "worker_init_fn": abs, **WORKERS}


def test_it_hands_all_settings_on_to_torch_also_those_of_another_loader():
    dataset, options = Numbers(), {"collate_fn": plus_thousand, "multiprocessing_context": "spawn", **SETTINGS}
    plain: DataLoader[Any] = DataLoader(dataset, 6, shuffle=False, **options)
    for loader in (AdaptiveDataLoader(dataset, 6, **options), AdaptiveDataLoader.like(plain)):
        assert {name: getattr(loader, name) for name in SETTINGS} == SETTINGS
        assert loader.multiprocessing_context.get_start_method() == "spawn"
        assert loader.dataset.collate_fn is plus_thousand
        assert loader.dataset.dataset is dataset
        sampler = loader.sampler
        assert (sampler.batch_size, len(loader), sampler.bins.sizes) == (6, 4, [12, 6, 6])
    loader = AdaptiveDataLoader.like(plain, batch_size=3, bins="single", batches_per_epoch=5, num_workers=0, seed=1)
    sampler = loader.sampler
    assert (sampler.batch_size, len(loader), loader.num_workers, sampler.bins.sizes) == (3, 5, 0, [N])
    # Without workers torch refuses what is about them.
    assert (loader.timeout, loader.prefetch_factor, loader.persistent_workers) == (0, None, False)
    expected = AdaptiveDataLoader(Numbers(), 3, "single", 5, seed=1, collate_fn=plus_thousand)
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in expected]
    subset = AdaptiveDataLoader.like(DataLoader(dataset, 5, sampler=torch_data.SubsetRandomSampler([3, 4, 10, 11, 20])))
    assert len(subset.sampler.bins) == 5
    assert sorted(flat(numbers(subset))) == [3, 4, 10, 11, 20]


def test_off_the_cpu_a_data_set_gets_tensors_if_it_takes_them_and_there_are_no_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Bins, "on_host", False)
    loader = AdaptiveDataLoader(InBatches(), B)
    for takes in (False, True):
        monkeypatch.setattr(InBatches, "takes_tensors", takes)
        assert sorted(flat(numbers(loader))) == list(range(100, 100 + N))
    with pytest.raises(ValueError, match="`num_workers` is 2, but `sampler` draws on a GPU"):
        AdaptiveDataLoader(Numbers(), sampler=AdaptiveBatchSampler(Bins.single(N), B), num_workers=2)
