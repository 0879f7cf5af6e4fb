import itertools
import pickle
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import AdaptiveBatchSampler, AdaptiveSampling, Bins, Draw, OnlineBatchSelection
from lightning_as.data.batch_sampler import FORMAT
from tests.helpers.looking import no_looking
from tests.helpers.statistics import saved
from tests.helpers.tiny import differences

SIZE, BATCH, EPOCH = 97, 8, 12
TAGS = torch.arange(SIZE) % 5


def make(tags: Tensor = TAGS, **options: Any) -> AdaptiveBatchSampler:
    return AdaptiveBatchSampler(Bins(tags), **{"batch_size": BATCH, **options})


def adaptive(**options: Any) -> AdaptiveBatchSampler:
    sampler = make(**options)
    sampler.attach(AdaptiveSampling(beta=3))
    return sampler


def train(sampler: AdaptiveBatchSampler, batch: Any) -> Draw:
    """What the callback does after a batch; the losses depend on the instances alone."""
    draw = sampler.commit()
    assert draw.indices.tolist() == torch.as_tensor(batch).tolist()
    losses = (draw.indices.double() * 0.7).sin().square()
    sampler.strategy.update(draw, losses, losses / 2)
    return draw


def run(sampler: AdaptiveBatchSampler, count: int, ahead: int = 0) -> list[list[int]]:
    """Train so many batches, through as many epochs as it takes, with a loader that is some batches ahead."""
    trained: list[list[int]] = []
    while True:
        iterator, queue = iter(sampler), []
        while True:
            queue += itertools.islice(iterator, ahead + 1 - len(queue))
            if len(trained) == count:
                return trained
            if not queue:
                break
            trained.append(train(sampler, queue.pop(0)).indices.tolist())


def test_without_a_strategy_epochs_of_any_length_are_shuffled_without_replacement():
    sampler = make()
    first, second = list(sampler), list(sampler)
    assert [len(batch) for batch in first] == [BATCH] * EPOCH == [BATCH] * len(sampler)
    assert len(set(itertools.chain(*first))) == EPOCH * BATCH
    assert first != second
    assert list(make()) == first
    assert list(make(seed=1)) != first
    longer = make(batches_per_epoch=30)
    assert (len(longer), len(list(longer)), len(make(batch_size=SIZE))) == (30, 30, 1)
    assert set(itertools.chain(*longer)) == set(range(SIZE))


def test_there_is_one_list_of_pending_draws_and_between_epochs_the_batch_size_may_change():
    sampler = adaptive()
    with pytest.raises(RuntimeError, match="No drawn batch is pending"):
        sampler.commit()
    old = iter(sampler)
    next(old)
    batch = next(iter(sampler))
    with pytest.raises(RuntimeError, match="iterated anew while an epoch was under way"):
        next(old)
    train(sampler, batch)
    sampler.end_epoch()
    other = adaptive(batch_size=4)
    other.load_state_dict(saved(sampler.state_dict()))
    assert len(next(iter(other))) == 4
    assert torch.equal(other.strategy.probabilities(), sampler.strategy.probabilities())


@pytest.mark.parametrize("ahead", [0, 4])
@pytest.mark.parametrize("trained", [0, 1, 5, 11, 12, 15])
def test_resumed_it_goes_on_with_the_same_draws(ahead: int, trained: int):
    whole, stopped, resumed = adaptive(), adaptive(), adaptive(seed=99)
    expected = run(whole, 3 * EPOCH, ahead)
    assert run(stopped, trained, ahead) == expected[:trained]
    stopped.strategy.skipped = 7
    resumed.load_state_dict(saved(stopped.state_dict()))
    assert run(resumed, 3 * EPOCH - trained, ahead) == expected[trained:]
    assert torch.equal(resumed.strategy.probabilities(), whole.strategy.probabilities())
    assert resumed.strategy.skipped == 7
    assert resumed.strategy.progress.state_dict() == whole.strategy.progress.state_dict()


@pytest.mark.parametrize(
    ("other", "changes", "message"),
    [
        (make, {}, r"strategy AdaptiveSampling, but here it is Uniform: give .* saved with, AdaptiveSampling\(…\)"),
        (lambda: adaptive(batch_size=9), {}, r"middle of an epoch with `batch_size` 8, but here it is 9: use 8"),
        (lambda: adaptive(tags=(TAGS + 1) % 5), {}, r"here are 97 .* 97 are in another bin, the first at position 0"),
        (lambda: adaptive(tags=TAGS[:50]), {}, r"other bins: it is of 97 instances in 5 bins, but here are 50 inst"),
        (adaptive, {"format": None}, r"an older layout of lightning_as \(1, this version has 8\): resume with that"),
        (adaptive, {"format": 3}, r"an older layout of lightning_as \(3, this version has 8\): resume with that"),
        (adaptive, {"format": 9}, r"a newer layout of lightning_as \(9, this version has 8\): resume with the newer"),
    ],
)
def test_a_state_of_something_else_changes_nothing(other: Callable[[], Any], changes: dict[str, Any], message: str):
    source, sampler = adaptive(), other()
    run(source, 2)
    state = {key: value for key, value in {**saved(source.state_dict()), **changes}.items() if value is not None}
    assert saved(source.state_dict())["format"] == FORMAT == 8
    generator, probabilities = sampler.generator.get_state(), sampler.strategy.probabilities()
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(state)
    assert torch.equal(sampler.generator.get_state(), generator)
    assert torch.equal(sampler.strategy.probabilities(), probabilities)


def test_processes_share_a_pass_and_a_resumed_one_goes_on_in_it():
    """Before anything is known all are equal, so that over the processes and batches none comes twice."""
    tags, seen = torch.arange(96) % 4, list[list[int]]()
    for rank in range(3):
        sampler, resumed = (make(tags, num_replicas=3, rank=rank, seed=seed) for seed in (0, 9))
        for one in (sampler, resumed):
            one.attach(AdaptiveSampling())
        batches, first = iter(sampler), list[list[int]]()
        for _ in range(2):
            first.append(next(batches))
            sampler.commit()
        resumed.load_state_dict(saved(sampler.state_dict()))
        rest = list(resumed)
        assert rest == list(batches)
        seen += first + rest
    assert sorted(itertools.chain(*seen)) == list(range(96))


def test_off_the_cpu_batches_are_tensors_that_nobody_looks_at_and_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)  # so that not a bit differs
    expected = run(adaptive(), EPOCH)
    monkeypatch.setattr(Bins, "on_host", False)
    sampler, resumed = adaptive(), adaptive(seed=99)
    assert run(sampler, 5) == expected[:5]
    resumed.load_state_dict(saved(sampler.state_dict()))
    assert run(resumed, EPOCH - 5) == expected[5:]
    for batches in (iter(make()), iter(adaptive())):
        next(batches)
        with no_looking():
            batch: Any = next(batches)
        assert isinstance(batch, Tensor)
        assert batch.shape == (BATCH,)


def test_a_strategy_works_where_it_can_and_takes_its_state_with_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    sampler = make(device="meta")
    assert not sampler.bins_at_work.on_host
    sampler.attach(OnlineBatchSelection())
    assert sampler.bins_at_work is sampler.bins
    moved, stayed = adaptive(), adaptive()
    for sampler in (moved, stayed):
        run(sampler, EPOCH)
        sampler.strategy.skipped = 3
    before = moved.strategy.bins
    moved._bins_on_device = copy(moved.bins)  # as if it were on another device
    moved.attach(moved.strategy)
    assert moved.strategy.bins is not before
    assert moved.strategy.skipped == 3
    assert torch.equal(moved.strategy.probabilities(), stayed.strategy.probabilities())
    moved.to("cpu")
    assert moved.strategy.bins is moved.bins
    assert run(moved, EPOCH) == run(stayed, EPOCH)
    make().attach(moved.strategy)  # of another partition, though it is equal: it begins anew
    assert not torch.equal(moved.strategy.probabilities(), stayed.strategy.probabilities())


def test_attached_again_a_strategy_keeps_its_state_and_another_starts_anew():
    sampler = adaptive()
    strategy = sampler.strategy
    run(sampler, EPOCH)
    assert (strategy.progress.epoch, strategy.progress.batch) == (0, EPOCH)
    probabilities = strategy.probabilities()
    sampler.detach()
    assert len(set(itertools.chain(*sampler))) == EPOCH * BATCH
    assert differences(sampler.state_dict(strategy)["strategy_state"], strategy.state_dict()) == []
    sampler.attach(strategy)
    assert torch.equal(strategy.probabilities(), probabilities)
    sampler.attach(AdaptiveSampling())
    assert not torch.equal(sampler.strategy.probabilities(), probabilities)


def test_processes_and_copies_draw_the_same_and_leave_the_global_generator_alone():
    whole = list(make(batch_size=2 * BATCH))
    for rank in range(2):
        assert list(make(num_replicas=2, rank=rank)) == [batch[rank::2] for batch in whole]
    state = torch.get_rng_state()
    assert list(pickle.loads(pickle.dumps(adaptive()))) == list(adaptive())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": 98}, "`batch_size` is 98 .* only 97 instances"),
        ({"batch_size": 50, "num_replicas": 2}, "`batch_size` is 50 in each of 2"),
        ({"batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1, got 0"),
        ({"rank": 1}, "`rank` must be from 0 to .* got 1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**options)
