from typing import Any

import pytest
import torch

from lightning_as import AdaptiveDataLoader, ClosenessSampling, KeepOrSkip, Uniform
from lightning_as.data.stream_sampler import StreamSampler
from tests.helpers.statistics import saved, seeded
from tests.helpers.tiny import differences, tiny_dataset

KEYS = torch.randint(1, 2**63 - 1, (60,), generator=seeded(4))
LOSSES = torch.rand(60, dtype=torch.float64, generator=seeded(5)) * 3


def sampler_of(strategy: KeepOrSkip | None = None, **options: Any) -> StreamSampler:
    sampler = StreamSampler(**{"batch_size": 5, "batches_per_epoch": 8, **options})
    if strategy is not None:
        sampler.attach(strategy)
        strategy.plan(80, 8)
    return sampler


class Training:
    """Plays the loader and the callback: candidates by fives, in order."""

    def __init__(self, sampler: StreamSampler, at: int = 0) -> None:
        self.sampler, self.at, self.waiting = sampler, at, 0
        self.drawn: list[Any] = []

    def epoch(self, save_after: int = 0) -> "Training":
        for done, _ in enumerate(self.sampler.epoch(), 1):
            while self.waiting < self.sampler.batch_size:
                place = torch.arange(self.at, self.at + 5) % 60
                self.waiting += len(self.sampler.choose(KEYS[place], place.tolist(), None))
                self.at += 5
                if self.at % 60 == 0:
                    self.sampler.begin_pass()
            self.sampler.form()
            self.waiting -= self.sampler.batch_size
            self.step()
            if done == save_after:
                self.saved = saved(self.sampler.state_dict()), self.at, self.sampler._waiting, len(self.drawn)
        self.sampler.end_epoch()
        return self

    def step(self) -> None:
        draw = self.sampler.commit()
        losses = LOSSES[[KEYS.tolist().index(key) for key in draw.indices.tolist()]]
        assert self.sampler.strategy is not None
        self.sampler.strategy.update(draw, losses, losses)
        self.drawn.append(draw)


@pytest.mark.filterwarnings("ignore:The fit is resumed amid an epoch")
def test_it_thins_once_it_knows_and_goes_on_exactly():
    whole = Training(sampler_of(KeepOrSkip(relaxation=0))).epoch().epoch().epoch(save_after=3).epoch()
    state, at, waiting, done = whole.saved
    rest = Training(sampler_of(KeepOrSkip(relaxation=0), seed=9), at)
    rest.sampler.load_state_dict(state)
    rest.sampler._waiting, rest.waiting = waiting, len(waiting.indices)  # which of this stream no state has
    rest.epoch().epoch()
    assert (done, state["position"], len(rest.drawn)) == (19, 3, 13)
    assert differences(rest.drawn, whole.drawn[done:]) == []
    assert min(float(draw.within.min()) for draw in rest.drawn) < 0.3
    assert differences(rest.sampler.state_dict()["strategy_state"], whole.sampler.state_dict()["strategy_state"]) == []


def test_processes_take_any_number_of_candidates_and_have_one_state_of_the_generator():
    samplers = [sampler_of(KeepOrSkip()) for _ in range(2)]
    for sampler, times in zip(samplers, (1, 4), strict=True):
        for _ in sampler.epoch():
            for _ in range(times):
                sampler.begin_pass()
                sampler.choose(KEYS[:5], list(range(5)), None)
    assert torch.equal(*(sampler.generator.get_state() for sampler in samplers))


def test_without_a_strategy_all_are_kept_and_nothing_is_noted():
    sampler = sampler_of()
    assert [sampler.choose(KEYS[:5], [], None).tolist() for _ in sampler.epoch()] == [[0, 1, 2, 3, 4]] * 8
    sampler.form()
    with pytest.raises(RuntimeError, match="No batch is pending"):
        _ = sampler.current


def test_other_strategies_are_refused_with_what_to_use_and_none_is_attached():
    for strategy in (ClosenessSampling(), Uniform()):
        sampler = sampler_of()
        with pytest.raises(ValueError, match=r"chooses among positions.*AdaptiveSamplingCallback\(KeepOrSkip\(\)\)"):
            sampler.attach(strategy)
        assert sampler.strategy is None


def test_an_epoch_that_is_begun_while_one_is_under_way_ends_the_first():
    sampler = sampler_of(KeepOrSkip())
    first = sampler.epoch()
    next(first)
    next(sampler.epoch())
    with pytest.raises(RuntimeError, match="iterated anew while an epoch was under way"):
        next(first)


def test_a_key_that_comes_again_in_a_pass_is_named_once(recwarn: pytest.WarningsRecorder):
    sampler = sampler_of(KeepOrSkip())
    next(sampler.epoch())
    sampler.choose(KEYS[:4], ["a", "b", "c", "d"], None)
    sampler.begin_pass()
    sampler.choose(KEYS[:4], ["a", "b", "c", "d"], None)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"The key 'b' has come again .*`key`.*If the stream repeats"):
        sampler.choose(KEYS[[7, 1]], ["x", "b"], None)
    recwarn.clear()
    sampler.choose(KEYS[:4], ["a", "b", "c", "d"], None)
    assert not recwarn


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "`batch_size` must be at least 1"), ({"batches_per_epoch": 1.5}, "`batches_per_epoch` must")],
)
def test_sizes_are_checked(options: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        sampler_of(**options)


def test_states_of_something_else_are_refused_and_change_nothing():
    training = Training(sampler_of(KeepOrSkip())).epoch(save_after=3)
    sampler, state = training.sampler, training.saved[0]
    loader = AdaptiveDataLoader(tiny_dataset(), 16)
    loader.sampler.attach(ClosenessSampling())  # pyright: ignore[reportAttributeAccessIssue]
    others = {
        "of ClosenessSampling and of data with positions": loader.sampler.state_dict(),  # pyright: ignore
        "its checksum": {**state, "position": 4},
        "older layout": {**state, "format": 2},
    }
    before = saved(sampler.state_dict())
    for message, other in others.items():
        with pytest.raises(ValueError, match=message):
            sampler.load_state_dict(other)
    other = sampler_of(KeepOrSkip(), batch_size=6)
    with pytest.raises(ValueError, match="the middle of an epoch with `batch_size` 5, but here it is 6"):
        other.load_state_dict(state)
    assert differences(before, sampler.state_dict()) == []


def test_amid_an_epoch_of_a_stream_that_cannot_be_resumed_there_is_a_warning():
    state = Training(sampler_of(KeepOrSkip())).epoch(save_after=3).saved[0]
    sampler = sampler_of(KeepOrSkip())
    with pytest.warns(UserWarning, match="amid an epoch, and the stream begins anew"):
        sampler.load_state_dict(state)
    assert sampler.place.begins
