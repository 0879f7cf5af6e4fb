import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_as import AdaptiveIterableLoader, KeepOrSkip
from tests.helpers.statistics import saved
from tests.helpers.streams import SIZE, Resumable, Shards, keys_of, loader_of
from tests.helpers.tiny import BATCH, differences, tiny_dataset


def train(loader: AdaptiveIterableLoader, epochs: int, batches: int | None = None) -> list[Any]:
    """Play the callback for some epochs, the last of which may break off; the batches that were trained on."""
    strategy, trained = loader.sampler.strategy, []
    assert strategy is not None
    for epoch in range(epochs):
        for done, batch in enumerate(loader, 1):
            draw = loader.sampler.commit()
            losses = 0.1 + (batch["x"].double().sum(1).abs() / 3)
            strategy.update(draw, losses, losses)
            trained.append(batch)
            if epoch == epochs - 1 and done == batches:
                return trained
        loader.sampler.end_epoch()
    return trained


def attached(stream: Any, **options: Any) -> AdaptiveIterableLoader:
    loader = loader_of(stream, **options)
    loader.sampler.attach(KeepOrSkip(relaxation=0))
    loader.sampler.strategy.plan(None, 6)  # pyright: ignore[reportOptionalMemberAccess]
    return loader


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_a_callback_it_is_a_plain_loader_whose_stream_goes_on(num_workers: int):
    stream = Shards()
    plain = list(DataLoader(stream, BATCH, drop_last=True))
    loader = loader_of(stream, num_workers=num_workers, batches_per_epoch=4)
    first, second = list(loader), list(loader)
    assert differences([first, second[:2]], [plain[:4], plain[4:]]) == []
    stream.set_epoch(1)  # as the loader has told it
    assert differences(second[2:], list(DataLoader(stream, BATCH))[:2]) == []


def test_loader_processes_change_nothing():
    """Shards of a batch come in turn, so that the order is the same."""
    alone, several = (attached(Shards(), num_workers=num_workers) for num_workers in (0, 2))
    one, other = (train(loader, 5) for loader in (alone, several))
    assert differences(one, other) == []
    assert all(len(batch["y"]) == BATCH for batch in one)
    assert len(one) == 30
    state, same = (loader.sampler.state_dict()["strategy_state"] for loader in (alone, several))
    assert differences(state, same) == []
    kept = [key for batch in keys_of(one[12:]) for key in batch]
    assert len(set(kept)) < len(kept)  # several passes, as much is skipped
    assert len(kept) > 1.3 * SIZE


def test_what_is_kept_are_the_samples_of_the_draw():
    loader = attached(Shards())
    features, labels = tiny_dataset().tensors
    for _ in range(3):
        for batch in loader:
            at = [int(key) for key in batch["__key__"]]
            assert torch.equal(batch["x"], features[at])
            assert torch.equal(batch["y"], labels[at])
            assert batch["tags"][1].tolist() == at
            draw = loader.sampler.commit()
            loader.sampler.strategy.update(draw, labels[at].double(), labels[at].double())  # pyright: ignore


@pytest.mark.parametrize("done", [3, 6, 10, 17, 18])
def test_a_stream_that_can_be_resumed_goes_on_exactly(done: int):
    """Within an epoch and between two, of six batches, and within a pass and between two."""
    whole = train(attached(Resumable()), 5)
    broken = attached(Resumable())
    epochs, batches = divmod(done, 6)
    train(broken, epochs + (batches > 0), batches or None)
    state = saved(broken.sampler.state_dict())
    rest = attached(Resumable(), seed=9)
    rest.sampler.load_state_dict(state)
    again = saved(rest.sampler.state_dict())
    assert differences(again, state) == []
    found = train(rest, 5 - epochs)
    assert len(found) == 30 - done
    assert differences(found, whole[done:]) == []


def test_a_stream_that_goes_on_elsewhere_is_noticed():
    broken = attached(Resumable())
    train(broken, 3, 5)
    state = saved(broken.sampler.state_dict())
    assert state["stream"]["kept"]
    grown = attached(Resumable(SIZE + 3 * BATCH))
    grown.stream.order = lambda: list(range(SIZE + 3 * BATCH))[::-1]  # pyright: ignore[reportAttributeAccessIssue]
    grown.sampler.load_state_dict(state)
    with pytest.warns(UserWarning, match="does not go on where it was .* shuffle buffer"):
        trained = train(grown, 4)
    assert all(len(batch["y"]) == BATCH for batch in trained)
    assert len(trained) == 1 + 3 * 6
    for batch in trained:
        assert batch["tags"][1].tolist() == [int(key) for key in batch["__key__"]]


def test_samples_of_several_lengths_become_batches_of_what_is_kept():
    class Ragged(Shards):
        def sample(self, i: int) -> Any:
            return f"{i}", torch.full((1 + i % 5,), float(i))

    def padded(samples: list[Any]) -> Any:
        return torch.nn.utils.rnn.pad_sequence([sample[1] for sample in samples], batch_first=True, padding_value=-1)

    for num_workers in (0, 2):
        for batch in loader_of(Ragged(), key=0, collate_fn=padded, num_workers=num_workers):
            assert batch.shape == (BATCH, 5)


class Short(Shards):
    def __iter__(self) -> Iterator[Any]:
        yield from map(self.sample, range(BATCH - 1))


class Once(IterableDataset[Any]):
    def __init__(self) -> None:
        self.samples = iter([{"__key__": str(i)} for i in range(BATCH)])

    def __iter__(self) -> Iterator[Any]:
        return self.samples


@pytest.mark.parametrize(
    ("stream", "samples"), [(Short(), BATCH - 1), (Once(), 0), (Shards(0), 0)], ids=["short", "once", "empty"]
)
def test_a_stream_without_a_batch_ends_with_an_error(stream: Any, samples: int):
    with pytest.raises(ValueError, match=rf"ended after {samples} samples, but `batch_size` is 16: use a smaller one"):
        list(loader_of(stream))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": tiny_dataset()},
            "`dataset` must be an IterableDataset, .*: use an AdaptiveDataLoader, for it ",
        ),
        ({"dataset": iter([1])}, "must be an IterableDataset, got a list_iterator: make it one, by its `__iter__`"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1"),
        ({"batches_per_epoch": None}, "`batches_per_epoch` is missing, and Shards has no length: give the number"),
        ({"key": None}, "`key` must be the name or place of a sample's key, or a function of the sample, got None"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str):
    given: dict[str, Any] = {"dataset": Shards(), "batch_size": 4, "key": "__key__", "batches_per_epoch": 3, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        AdaptiveIterableLoader(**given)


def test_a_length_of_the_data_set_is_that_of_an_epoch():
    class Sized(Shards):
        def __len__(self) -> int:
            return self.size

    assert len(AdaptiveIterableLoader(Sized(), 20, "__key__")) == SIZE // 20


def test_the_global_generator_does_not_move():
    before = torch.get_rng_state()
    train(attached(Shards(), num_workers=1), 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("persistent", [False, True])
def test_when_its_processes_are_ended_the_stream_begins_anew(persistent: bool):
    loader = attached(Shards(), num_workers=1, persistent_workers=persistent)
    first = train(loader, 1, 3)
    assert loader.sampler.strategy is not None
    loader.end_workers()
    assert not multiprocessing.active_children()
    again = train(loader, 1, 1)
    loader.end_workers()
    assert keys_of(first)[:1] == keys_of(again)


def test_where_there_are_none_it_goes_on():
    loader = attached(Shards())
    first = train(loader, 1, 3)
    loader.end_workers()
    assert not set(keys_of(first)[0]) & {key for keys in keys_of(train(loader, 1, 3)) for key in keys}
