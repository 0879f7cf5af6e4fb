import io
import itertools
import pickle
from copy import copy
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_as import AdaptiveBatchSampler, AdaptiveSampling, Bins, Draw
from tests.helpers.looking import no_looking

SIZE, BATCH = 97, 8


def make(**options: Any) -> AdaptiveBatchSampler:
    return AdaptiveBatchSampler(Bins(torch.arange(SIZE) % 5), **{"batch_size": BATCH, **options})


def adaptive(**options: Any) -> AdaptiveBatchSampler:
    sampler = make(**options)
    sampler.attach(AdaptiveSampling(beta=3))
    return sampler


def train(sampler: AdaptiveBatchSampler, batch: list[int]) -> Draw:
    """What the callback does after a batch; the losses depend on the instances alone."""
    draw = sampler.commit()
    assert draw.indices.tolist() == batch
    losses = (draw.indices.double() * 0.7).sin().square()
    sampler.strategy.update(draw, losses, losses / 2)
    return draw


def test_without_a_strategy_an_epoch_is_shuffled_without_replacement():
    sampler = make()
    first, second = list(sampler), list(sampler)
    assert [len(batch) for batch in first] == [BATCH] * (SIZE // BATCH) == [BATCH] * len(sampler)
    drawn = list(itertools.chain(*first))
    assert len(set(drawn)) == len(drawn)
    assert first != second
    assert list(make()) == first
    assert list(make(seed=1)) != first


def test_the_length_of_an_epoch_is_settable_beyond_the_data_too():
    sampler = make(batches_per_epoch=30)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 30
    assert set(itertools.chain(*batches)) == set(range(SIZE))
    assert len(make(batch_size=SIZE)) == 1


def test_pending_draws_come_back_in_order_with_the_law_they_were_drawn_from():
    sampler = adaptive()
    batches = iter(sampler)
    laws, ahead = [], []
    for _ in range(3):  # as a loader with workers, three batches ahead
        laws.append(sampler.strategy.probabilities())
        ahead.append(next(batches))
    for _ in range(9):
        draw = train(sampler, ahead.pop(0))
        torch.testing.assert_close(draw.probabilities, laws.pop(0)[draw.indices], rtol=1e-12, atol=0)
        if (batch := next(batches, None)) is not None:
            laws.append(sampler.strategy.probabilities())
            ahead.append(batch)


def test_each_draw_sees_the_update_before():
    sampler = make()
    sampler.attach(AdaptiveSampling(beta=3, q_update="all"))
    seen: set[int] = set()
    for batch in itertools.islice(sampler, 5):
        # Unseen instances take all the mass but for what the smoothing of Q leaves.
        p_unseen = 1 - float(sampler.strategy.probabilities()[list(seen)].sum())
        assert p_unseen > 0.85
        train(sampler, batch)
        seen |= set(batch)
    assert len(seen) > 35


def test_commit_without_a_pending_draw_raises():
    with pytest.raises(RuntimeError, match="No drawn batch is pending"):
        adaptive().commit()


def test_an_iterator_does_not_go_on_after_a_newer_one():
    sampler = adaptive()
    old = iter(sampler)
    next(old)
    new = iter(sampler)
    batch = next(new)
    with pytest.raises(RuntimeError, match="iterated anew while an epoch was under way"):
        next(old)
    train(sampler, batch)


@pytest.mark.parametrize("ahead", [0, 4])
@pytest.mark.parametrize("trained", [0, 1, 5, 11, 12])
def test_resume_continues_with_the_same_draws_and_law(ahead: int, trained: int):
    def run(sampler: AdaptiveBatchSampler, stop: int | None) -> list[list[int]]:
        """Train two epochs, or stop in the first; the loader is `ahead` batches ahead."""
        batches = []
        for _ in range(2):
            iterator, queue = iter(sampler), []
            while True:
                queue += itertools.islice(iterator, ahead + 1 - len(queue))
                if not queue or len(batches) == stop:
                    break
                batches.append(queue.pop(0))
                train(sampler, batches[-1])
            if len(batches) == stop:
                return batches
        return batches

    whole = adaptive()
    expected = run(whole, None)
    stopped = adaptive()
    assert run(stopped, trained) == expected[:trained]
    buffer = io.BytesIO()
    torch.save(stopped.state_dict(), buffer)
    buffer.seek(0)
    resumed = adaptive(seed=99)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    rest = run(resumed, None)
    # `run` goes through two iterators: the rest of the first epoch and the second, or two from an epoch's end.
    expected_rest = expected[trained:] if trained < len(whole) else expected[trained : 2 * len(whole)]
    assert rest[: len(expected_rest)] == expected_rest
    if len(rest) == len(expected_rest):
        assert torch.equal(resumed.strategy.probabilities(), whole.strategy.probabilities())


def test_a_state_of_something_else_raises_with_both_values_and_changes_nothing():
    source = adaptive()
    train(source, next(iter(source)))
    state = source.state_dict()
    other = make()
    before = other.state_dict()["generator"]
    with pytest.raises(ValueError, match=r"strategy AdaptiveSampling, but here it is Uniform"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"`batch_size` 8, but here it is 9: use 8"):
        adaptive(batch_size=9).load_state_dict(state)
    for tags in (torch.zeros(SIZE, dtype=torch.int64), torch.arange(SIZE).add(1) % 5, torch.arange(50) % 5):
        one = AdaptiveBatchSampler(Bins(tags), BATCH)
        one.attach(AdaptiveSampling())
        with pytest.raises(ValueError, match=rf"other bins: 97 instances in 5 bins, here {len(tags)} in"):
            one.load_state_dict(state)
    assert torch.equal(other.state_dict()["generator"], before)


@pytest.mark.usefixtures("off_host")
def test_off_the_cpu_batches_are_tensors_that_nobody_has_looked_at():
    """And a state that is taken in the middle of an epoch goes on as if nothing had been."""
    here = [draw.tolist() for draw in _epoch(adaptive())]
    assert here == [draw.tolist() for draw in _epoch(adaptive(), resumed_at=5)]
    for sampler in (make(), adaptive()):
        batches = iter(sampler)
        next(batches)
        with no_looking():
            batch: Any = next(batches)
        assert isinstance(batch, torch.Tensor)
        assert batch.shape == (BATCH,)


def test_off_the_cpu_draws_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch):
    """The one generator is the CPU's; both ways are the torch code, so that not a bit differs."""
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    here = [draw.tolist() for draw in _epoch(adaptive())]
    monkeypatch.setattr(Bins, "on_host", False)
    assert here == [draw.tolist() for draw in _epoch(adaptive())]


def test_a_strategy_that_needs_the_cpu_stays_there():
    sampler = make(device="meta")
    sampler.attach(AdaptiveSampling(q_update="all"))
    assert sampler.bins_at_work is sampler.bins
    assert sampler.bins_at_work.on_host
    assert not make(device="meta").bins_at_work.on_host


def test_a_strategy_takes_its_state_with_it_to_another_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_as.core.execution._compiled", lambda: None)
    moved, stayed = adaptive(), adaptive()
    for sampler in (moved, stayed):
        _epoch(sampler)
        sampler.strategy.skipped = 3
    before = moved.strategy.bins
    moved._bins_on_device = copy(moved.bins)  # as if it were on another device
    assert moved._bins_on_device.is_copy_of(moved.bins)
    moved.attach(moved.strategy)
    assert moved.strategy.bins is not before
    assert moved.strategy.skipped == 3
    assert torch.equal(moved.strategy.probabilities(), stayed.strategy.probabilities())
    moved.to("cpu")
    assert moved.strategy.bins is moved.bins
    assert [draw.tolist() for draw in _epoch(moved)] == [draw.tolist() for draw in _epoch(stayed)]
    other = make()
    other.attach(moved.strategy)  # of another partition, though it is equal: it begins anew
    assert not torch.equal(moved.strategy.probabilities(), stayed.strategy.probabilities())


def _epoch(sampler: AdaptiveBatchSampler, resumed_at: int | None = None) -> list[torch.Tensor]:
    """An epoch's batches, as tensors, each committed and learned from before the next one is drawn."""
    drawn: list[torch.Tensor] = []
    batches = iter(sampler)
    while (batch := next(batches, None)) is not None:
        drawn.append(torch.as_tensor(batch))
        draw = sampler.commit()
        losses = (draw.indices.double() * 0.7).sin().square()
        sampler.strategy.update(draw, losses, losses / 2)
        if len(drawn) == resumed_at:
            state = sampler.state_dict()
            sampler = adaptive(seed=99)
            sampler.load_state_dict(state)
            batches = iter(sampler)
    return drawn


def test_at_the_border_of_an_epoch_the_batch_size_may_change():
    fresh = adaptive(batch_size=4)
    fresh.load_state_dict(adaptive().state_dict())
    assert len(next(iter(fresh))) == 4


def test_attaching_the_same_strategy_again_keeps_its_state_and_another_starts_anew():
    sampler = adaptive()
    strategy = sampler.strategy
    for batch in sampler:
        train(sampler, batch)
    law = strategy.probabilities()
    sampler.detach()
    drawn = list(itertools.chain(*sampler))
    assert len(set(drawn)) == len(drawn)
    sampler.attach(strategy)
    assert torch.equal(strategy.probabilities(), law)
    sampler.attach(AdaptiveSampling())
    assert not torch.equal(sampler.strategy.probabilities(), law)


def test_processes_share_one_global_batch():
    whole = list(make(batch_size=2 * BATCH))
    shares = [list(make(num_replicas=2, rank=rank)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == len(whole)
    for batch, even, odd in zip(whole, *shares, strict=True):
        assert even == batch[::2]
        assert odd == batch[1::2]


class Echo(Dataset[list[int]]):
    def __getitem__(self, index: list[int]) -> list[int]:
        return index


def test_workers_yield_the_same_batches_from_a_frozen_law():
    batches = [list(DataLoader(Echo(), sampler=adaptive(), batch_size=None, num_workers=workers)) for workers in (0, 2)]
    assert batches[0] == batches[1]


def test_it_leaves_the_global_generator_alone_and_can_be_pickled():
    state = torch.get_rng_state()
    sampler = adaptive()
    batches = list(pickle.loads(pickle.dumps(sampler)))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(sampler) == batches


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
def test_bad_arguments(options: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        make(**options)
