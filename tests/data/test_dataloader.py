from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, Bins, Draw, Strategy
from lightning_as.data.dataloader import Batches, as_it_is, make_bins, size_of

N, B = 24, 4
LABELS = torch.tensor([5, 2, 2, 9] * 6)


class Numbers(Dataset[Any]):
    """Sample i is (i, its label), after a transform."""

    def __init__(self, transform: Callable[[int], Any] = lambda i: i) -> None:
        self.labels = LABELS
        self.source = (torch.arange(N) // 10 * 3).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.transform(index), int(self.labels[index])


class InBatches(Numbers):
    """Loads several samples at once."""

    def __getitems__(self, indices: list[int]) -> Any:
        assert isinstance(indices, list)
        return [(100 + index, int(self.labels[index])) for index in indices]


class Unlabelled(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        return index


class Clock(Strategy):
    """Draws only the instance that is the number of updates so far."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.draws = self.updates = 0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        self.draws += 1
        indices = torch.full((size,), self.updates)
        return Draw(indices, torch.zeros_like(indices), torch.ones(size).double(), torch.ones(size).double())

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.updates += 1

    def probabilities(self) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.updates), N).double()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]


def sampler_of(loader: AdaptiveDataLoader) -> AdaptiveBatchSampler:
    assert isinstance(loader.sampler, AdaptiveBatchSampler)
    return loader.sampler


def guided(loader: AdaptiveDataLoader) -> Clock:
    strategy = Clock()
    sampler_of(loader).attach(strategy)
    return strategy


def numbers(loader: AdaptiveDataLoader) -> list[list[int]]:
    """The instances of an epoch, batch by batch."""
    return [batch[0].tolist() for batch in loader]


def flat(epoch: list[list[int]]) -> list[int]:
    return [index for batch in epoch for index in batch]


def plus_thousand(samples: list[Any]) -> Tensor:
    return torch.tensor([sample[0] + 1000 for sample in samples])


# --- Bins ---


def by_tens(dataset: Dataset[Any]) -> list[int]:
    return [i // 10 for i in range(size_of(dataset))]


@pytest.mark.parametrize(
    ("bins", "tags", "labels"),
    [
        ("label", [1, 0, 0, 2] * 6, [2, 5, 9]),
        ("labels", [1, 0, 0, 2] * 6, None),
        ("source", [i // 10 for i in range(N)], None),
        ("single", [0] * N, None),
        (None, [0] * N, None),
        (torch.arange(N) % 3, [i % 3 for i in range(N)], None),
        ([i % 3 for i in range(N)], [i % 3 for i in range(N)], None),
        (by_tens, by_tens(Unlabelled()), None),
        (lambda dataset: torch.tensor(by_tens(dataset)), by_tens(Unlabelled()), None),
        (lambda dataset: Bins.from_labels(dataset.labels), [1, 0, 0, 2] * 6, [2, 5, 9]),
    ],
)
def test_the_bins_can_be_given_in_many_forms(bins: Any, tags: list[int], labels: list[int] | None):
    made = make_bins(Numbers(), bins)
    assert made.tags.tolist() == tags
    assert (None if made.labels is None else made.labels.tolist()) == labels
    assert sampler_of(AdaptiveDataLoader(Numbers(), B, bins)).bins.tags.tolist() == tags


def test_bins_that_are_bins_are_taken_as_they_are():
    bins = Bins.from_quantiles(torch.arange(N), 3)
    assert make_bins(Unlabelled(), bins) is bins
    assert make_bins(Unlabelled(), lambda dataset: bins) is bins
    assert sampler_of(AdaptiveDataLoader(Unlabelled(), B, bins)).bins is bins


def test_by_default_there_is_one_bin_per_class():
    assert sampler_of(AdaptiveDataLoader(Numbers(), B)).bins.tags.tolist() == [1, 0, 0, 2] * 6


def test_labels_that_are_not_to_be_found():
    with pytest.raises(
        ValueError, match=r"`bins='label'` found no integer per instance in the Unlabelled: it has no at"
    ):
        make_bins(Unlabelled(), "label")
    with pytest.raises(
        ValueError, match=r"column `targets` or .* or `_labels` of 24 integers. Give the bin of each in"
    ):
        AdaptiveDataLoader(Unlabelled(), B)
    message = r"`bins='colour'` found no .* in the Numbers: it has no attribute or column `colour` of 24 integers. Give"
    with pytest.raises(ValueError, match=message):
        make_bins(Numbers(), "colour")


@pytest.mark.parametrize("bins", [Bins.single(N + 1), [0] * (N - 1), lambda dataset: torch.zeros(7).long()])
def test_bins_of_another_number_of_instances(bins: Any):
    with pytest.raises(ValueError, match=r"`bins` are of (25|23|7) instances, but the data set has 24: give one bin"):
        make_bins(Numbers(), bins)


@pytest.mark.parametrize(
    ("bins", "error", "message"),
    [
        (torch.rand(N), TypeError, "`tags` must be integers, got torch.float32"),
        ([0] * (N - 1) + [2], ValueError, "Bin 1 is empty"),
        ([0] * (N - 1) + [-1], ValueError, "`tags` must not be negative"),
        (torch.zeros(N, 1).long(), ValueError, "`tags` must be one-dimensional"),
    ],
)
def test_bins_that_are_no_partition(bins: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_bins(Numbers(), bins)


# --- Errors ---


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        yield 1


class Lengthless(Dataset[Any]):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            Endless(),
            r"The Endless is an IterableDataset, which has no positions to draw from: use a map-style data set",
        ),
        (Lengthless(), r"The Lengthless has no length: give it a `__len__`, so that there are positions to draw"),
    ],
)
@pytest.mark.parametrize("bins", ["label", None, torch.zeros(N).long()])
def test_data_sets_without_positions(dataset: Any, message: str, bins: Any):
    for make in (make_bins, lambda data, bins: AdaptiveDataLoader(data, B, bins), lambda data, bins: size_of(data)):
        with pytest.raises(MisconfigurationException, match=message):
            make(dataset, bins)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`batch_size` is missing: give the number of instances per batch, or a `sampler`"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": N + 1}, "`batch_size` is 25 in each of 1 process.*, but the data set has only 24 instances"),
        ({"batch_size": B, "batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1, got 0"),
        (
            {"sampler": AdaptiveBatchSampler(Bins.single(N - 1), B)},
            "`sampler` has bins of 23 instances, but the data set has 24",
        ),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        AdaptiveDataLoader(Numbers(), **options)


# --- Batches ---


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transforms_and_collate_fn_are_kept(num_workers: int):
    squared = AdaptiveDataLoader(Numbers(transform=square), B, num_workers=num_workers, seed=0)
    for values, labels in squared:
        roots = values.sqrt().long()
        assert torch.equal(roots.square(), values.long())
        assert torch.equal(LABELS[roots], labels)
    collated = AdaptiveDataLoader(Numbers(), B, num_workers=num_workers, seed=0, collate_fn=plus_thousand)
    epoch = torch.cat(list(collated))
    assert epoch.sort().values.tolist() == list(range(1000, 1000 + N))


def square(index: int) -> float:
    return float(index**2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_set_that_loads_several_samples_at_once_is_let(num_workers: int):
    loader = AdaptiveDataLoader(InBatches(), B, num_workers=num_workers, seed=0)
    assert sorted(flat(numbers(loader))) == list(range(100, 100 + N))
    subset = AdaptiveDataLoader(Subset(InBatches(), list(range(8, 16))), B, num_workers=num_workers, seed=0)
    assert sorted(flat(numbers(subset))) == list(range(108, 116))


def test_tensors_are_collated_as_torch_does():
    data = TensorDataset(torch.arange(N * 3).view(N, 3), LABELS)
    loader = AdaptiveDataLoader(data, B, seed=0)
    inputs, labels = next(iter(loader))
    drawn = inputs[:, 0] // 3
    assert torch.equal(inputs, data.tensors[0][drawn])
    assert torch.equal(labels, LABELS[drawn])


def test_a_data_set_of_batches_has_the_length_of_the_data_set():
    batches = Batches(Numbers(), plus_thousand)
    assert len(batches) == N
    assert batches[[3, 3, 1]].tolist() == [1003, 1003, 1001]


# --- Epochs ---


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [4, 5])
def test_without_a_callback_each_epoch_is_a_new_permutation_without_the_incomplete_batch(
    num_workers: int, batch_size: int
):
    loader = AdaptiveDataLoader(Numbers(), batch_size, num_workers=num_workers, seed=0)
    epochs = [numbers(loader) for _ in range(3)]
    assert len(loader) == N // batch_size
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [batch_size] * (N // batch_size)
        assert Counter(flat(epoch)).most_common(1)[0][1] == 1
    assert len({str(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [sorted(batch) for batch in epochs[0]]


def test_the_length_of_an_epoch_can_be_set():
    loader = AdaptiveDataLoader(Numbers(), B, batches_per_epoch=9, seed=0)
    assert len(loader) == len(numbers(loader)) == 9
    assert len(AdaptiveDataLoader(Numbers(), B, batches_per_epoch=1)) == 1


def test_the_seed_decides_and_is_by_default_the_one_that_torch_was_given():
    def order(seed: int | None) -> list[list[int]]:
        return numbers(AdaptiveDataLoader(Numbers(), B, seed=seed))

    assert order(3) == order(3)
    assert order(3) != order(4)
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(3)
        assert order(None) == order(3)
        torch.rand(1)
        assert order(None) == order(3)
    finally:
        torch.random.set_rng_state(before)


def test_a_sampler_of_ones_own_is_used():
    sampler = AdaptiveBatchSampler(Bins.single(N), 6, batches_per_epoch=2, seed=1)
    loader = AdaptiveDataLoader(Numbers(), sampler=sampler)
    assert loader.sampler is sampler
    assert [len(batch) for batch in numbers(loader)] == [6, 6]


# --- Guided ---


@pytest.mark.parametrize(
    ("num_workers", "prefetch_factor", "persistent"),
    [(0, None, False), (1, None, False), (1, 3, True), (2, None, True), (2, 1, False), (2, 1, True)],
)
def test_a_batch_is_drawn_prefetch_factor_times_workers_batches_ahead_and_not_more(
    num_workers: int, prefetch_factor: int | None, persistent: bool
):
    loader = AdaptiveDataLoader(
        Numbers(),
        B,
        batches_per_epoch=8,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=persistent,
    )
    strategy, sampler = guided(loader), sampler_of(loader)
    ahead = (2 if prefetch_factor is None else prefetch_factor) * num_workers
    for epoch in range(2):
        seen = []
        for position, batch in enumerate(loader):
            assert strategy.draws == 8 * epoch + min(position + ahead + 1, 8)
            seen.append(batch[0].tolist())
            strategy.update(sampler.commit(), torch.ones(B), torch.ones(B))
        assert seen == [[8 * epoch + max(0, position - ahead)] * B for position in range(8)]


@pytest.mark.parametrize("persistent", [False, True])
def test_what_changes_between_two_epochs_is_seen_by_workers(persistent: bool):
    loader = AdaptiveDataLoader(Numbers(), B, batches_per_epoch=3, num_workers=2, persistent_workers=persistent, seed=0)
    strategy = guided(loader)
    for hot in (7, 0, 23):
        strategy.updates = hot
        assert numbers(loader) == [[hot] * B] * 3
        sampler_of(loader).end_epoch()


def process(index: int) -> int:
    info = get_worker_info()
    return 0 if info is None else info.seed - info.id


def test_persistent_workers_are_the_same_in_the_next_epoch_and_others_are_not():
    def workers(persistent: bool) -> list[set[int]]:
        loader = AdaptiveDataLoader(Numbers(process), B, num_workers=2, persistent_workers=persistent)
        return [set(flat(numbers(loader))) for _ in range(2)]

    first, second = workers(persistent=True)
    assert first == second
    assert len(first) == 1
    first, second = workers(persistent=False)
    assert first != second


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_is_drawn_before_the_first_batch_is_asked_for(num_workers: int, persistent: bool):
    loader = AdaptiveDataLoader(
        Numbers(), B, num_workers=num_workers, persistent_workers=persistent and num_workers > 0
    )
    strategy = guided(loader)
    for _ in range(2):
        drawn = strategy.draws
        iterator = iter(loader)
        assert strategy.draws == drawn
        strategy.updates = 7  # what is decided now counts
        assert next(iterator)[0].tolist() == [7] * B
        assert strategy.draws > drawn
        strategy.updates = 0
        iterator.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_strategy_attached_after_iter_is_the_one_that_draws():
    loader = AdaptiveDataLoader(Numbers(), B, num_workers=2)
    iterator = iter(loader)
    guided(loader).updates = 11
    assert next(iterator)[0].tolist() == [11] * B


def test_an_older_iterator_does_not_go_on():
    loader = AdaptiveDataLoader(Numbers(), B)
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="The train DataLoader was iterated anew while an epoch was under way"):
        next(first)
    next(second)


def test_it_says_that_it_can_be_resumed_and_leaves_that_to_the_callback():
    loader = AdaptiveDataLoader(Numbers(), B)
    assert loader.state_dict() == {}
    loader.load_state_dict({})


# --- Settings ---


def nothing(worker: int) -> None:
    pass


SETTINGS: dict[str, Any] = {
    "num_workers": 2,
    "pin_memory": True,
    "timeout": 7.0,
    "worker_init_fn": nothing,
    "prefetch_factor": 5,
    "persistent_workers": True,
}


def assert_settings(loader: AdaptiveDataLoader, context: str) -> None:
    assert {name: getattr(loader, name) for name in SETTINGS} == SETTINGS
    assert loader.multiprocessing_context.get_start_method() == context  # pyright: ignore
    assert isinstance(loader.dataset, Batches)
    assert loader.dataset.collate_fn is plus_thousand
    assert isinstance(loader.dataset.dataset, Numbers)


def test_all_settings_are_handed_on_to_torch():
    assert_settings(
        AdaptiveDataLoader(Numbers(), B, collate_fn=plus_thousand, multiprocessing_context="forkserver", **SETTINGS),
        "forkserver",
    )


def test_like_another_loader_it_has_its_data_set_and_settings_but_not_its_order():
    dataset = Numbers()
    plain = DataLoader(dataset, 6, shuffle=False, collate_fn=plus_thousand, multiprocessing_context="spawn", **SETTINGS)
    loader = AdaptiveDataLoader.like(plain)
    assert_settings(loader, "spawn")
    assert isinstance(loader.dataset, Batches)
    assert loader.dataset.dataset is dataset
    sampler = sampler_of(loader)
    assert (sampler.batch_size, len(loader), sampler.bins.sizes) == (6, 4, [12, 6, 6])
    unshuffled = AdaptiveDataLoader.like(DataLoader(dataset, 6), seed=0)
    assert flat(numbers(unshuffled)) != list(range(N))


def test_like_another_loader_with_settings_of_ones_own():
    loader = AdaptiveDataLoader.like(
        DataLoader(Numbers(), 6), batch_size=3, bins="single", batches_per_epoch=5, num_workers=1, seed=1
    )
    sampler = sampler_of(loader)
    assert (sampler.batch_size, len(loader), loader.num_workers, sampler.bins.sizes) == (3, 5, 1, [N])
    again = AdaptiveDataLoader(Numbers(), 3, "single", 5, seed=1)
    assert numbers(loader) == numbers(again)


@pytest.mark.parametrize(
    "settings", [{}, {"prefetch_factor": 3}, {"persistent_workers": True}, {"timeout": 5.0}, {"context": "spawn"}]
)
def test_like_another_loader_but_without_its_workers(settings: dict[str, Any]):
    context = settings.pop("context", None)
    plain = DataLoader(Numbers(), 6, num_workers=2, multiprocessing_context=context, **settings)
    loader = AdaptiveDataLoader.like(plain, num_workers=0, seed=0)
    assert loader.num_workers == 0
    assert sorted(flat(numbers(loader))) == list(range(N))


def test_like_a_loader_over_a_subset_it_has_the_subset_alone():
    subset = [3, 4, 10, 11, 20]
    loader = AdaptiveDataLoader.like(DataLoader(Numbers(), 5, sampler=SubsetRandomSampler(subset)))
    assert len(sampler_of(loader).bins) == 5
    assert sorted(flat(numbers(loader))) == subset


@pytest.mark.parametrize("sampler", [WeightedRandomSampler([1.0] * N, N), [1, 2, 3]])
def test_like_a_loader_with_a_sampler_of_its_own(sampler: Any):
    name = type(sampler).__name__
    with pytest.raises(MisconfigurationException, match=f"has a {name}, in whose place adaptive sampling would step"):
        AdaptiveDataLoader.like(DataLoader(Numbers(), B, sampler=sampler))


def test_a_sampler_that_is_none_of_ours():
    with pytest.raises(MisconfigurationException, match="not from a RandomSampler: leave out `overfit_batches`"):
        AdaptiveDataLoader(Numbers(), sampler=RandomSampler(range(N)))  # pyright: ignore[reportArgumentType]


def test_a_single_sample_can_be_looked_at():
    loader = AdaptiveDataLoader(Numbers(), B)
    assert loader.dataset[7] == (7, int(LABELS[7]))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_sampler": BatchSampler(RandomSampler(range(N)), B, drop_last=False)}, "BatchSampler"),
        ({"batch_size": None, "sampler": RandomSampler(range(N))}, "RandomSampler"),
    ],
)
def test_like_a_loader_without_a_batch_size(options: dict[str, Any], name: str):
    loader: DataLoader[Any] = DataLoader(Numbers(), **options)
    message = f"The train DataLoader has no `batch_size`, but a {name} of its own: give it `batch_size=…` and leave its"
    with pytest.raises(MisconfigurationException, match=message):
        AdaptiveDataLoader.like(loader)


class Told(Numbers):
    """Says what it was asked for."""

    def __getitems__(self, indices: Any) -> list[Any]:
        return [indices]


@pytest.mark.usefixtures("off_host")
def test_a_data_set_gets_the_tensor_of_a_sampler_off_the_cpu_if_it_says_that_it_takes_one():
    loader = AdaptiveDataLoader(Told(), B, bins=None, collate_fn=as_it_is)
    assert isinstance(next(iter(loader))[0], list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Told, "takes_tensors", True, raising=False)
        assert isinstance(next(iter(loader))[0], Tensor)


@pytest.mark.usefixtures("off_host")
def test_loader_processes_cannot_share_a_gpu():
    sampler = AdaptiveBatchSampler(Bins.single(len(Numbers())), B)
    with pytest.raises(ValueError, match="`num_workers` is 2, but `sampler` draws on a GPU"):
        AdaptiveDataLoader(Numbers(), sampler=sampler, num_workers=2)
