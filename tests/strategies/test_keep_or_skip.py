import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, Draw, KeepOrSkip
from lightning_as.core.state import check_sums, checksums
from lightning_as.core.stream import Stream
from tests.helpers.statistics import double, p_value, saved, seeded

N, SIZE = 400, 20
KEYS = torch.randint(1, 2**63 - 1, (N,), generator=seeded(7))


def at_work(total: int | None = None, **options: Any) -> KeepOrSkip:
    strategy = KeepOrSkip(**options)
    strategy.start(Stream())
    strategy.plan(total, 10)
    strategy.start_epoch(seeded())
    return strategy


def train(strategy: KeepOrSkip, order: Tensor, losses: Tensor, chance: torch.Generator, oracle: Any = None) -> Tensor:
    """A pass over instances in an order, by so many at once; what of them was trained on."""
    trained = []
    for part in order.split(SIZE):
        uniform = float(torch.rand((), generator=chance))
        positions, draw = strategy.keep(KEYS[part], uniform)
        if oracle is not None:
            assert draw.within is not None
            torch.testing.assert_close(draw.within, oracle.chances(part)[positions], rtol=0.03, atol=0)
            oracle.learn(part[positions].tolist(), losses[part[positions]].tolist(), draw)
        strategy.update(draw, losses[part[positions]], torch.zeros(len(positions), dtype=torch.float64))
        strategy.progress.step()
        trained.append(part[positions])
    return torch.cat(trained)


class Oracle:
    """The method's docstring over lists: doubts in full, and instances sorted."""

    def __init__(self, pressure: float, gamma: float, floor: float, smoothing: float) -> None:
        self.s, self.gamma, self.floor, self.alpha = pressure, gamma, floor, smoothing
        self.doubts, self.ranked = dict[int, float](), list[float]()
        self.came = self.since = 0.0
        self.new, self.warm = 1.0, False

    def chances(self, indices: Tensor) -> Tensor:
        return double(
            *(self.chance(self.doubts[i]) if self.warm and i in self.doubts else 1.0 for i in indices.tolist())
        )

    def chance(self, doubt: float) -> float:
        rank = sum(other > self.closeness(doubt) for other in self.ranked)
        return max(self.s ** (-rank / len(self.ranked)), self.floor)

    def closeness(self, doubt: float) -> float:
        return doubt * (1 - doubt) ** self.gamma

    def learn(self, indices: list[int], losses: list[float], draw: Draw) -> None:
        assert draw.within is not None
        fresh = sum(i not in self.doubts for i in indices)
        for i, loss in zip(indices, losses, strict=True):
            doubt = 1 - math.exp(-loss)
            self.doubts[i] = self.alpha * self.doubts[i] + (1 - self.alpha) * doubt if i in self.doubts else doubt
        came, known = float((1 / draw.within).sum()), len(self.doubts)
        self.came, self.since = self.came + came, self.since + came
        left = math.exp(-32 * came / known)
        self.new = left * self.new + (1 - left) * fresh / came
        over = not self.warm and self.new < 1 / math.e and self.came >= known
        if over or 8 * self.since >= known:
            self.ranked = [self.closeness(doubt) for doubt in self.doubts.values()]
            self.warm, self.since = self.warm or over, 0.0


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(("pressure", "gamma", "floor", "smoothing"), [(10, 0.0, 0.1, 0.7), (50, 0.5, 0.05, 0.0)])
def test_chances_follow_the_formulas(pressure: float, gamma: float, floor: float, smoothing: float):
    """Rounding to levels swaps ranks of near ones; losses are so that few are near, 400 ranks apart by 1 %."""
    strategy = at_work(pressure=pressure, gamma=gamma, floor=floor, smoothing=smoothing)
    oracle, chance = Oracle(pressure, gamma, floor, smoothing), seeded()
    losses = torch.linspace(0.01, 3, N, dtype=torch.float64)[torch.randperm(N, generator=chance)]
    for at in range(5):
        trained = train(strategy, torch.randperm(N, generator=chance), losses * 0.9**at, chance, oracle)
        assert (len(trained) == N) == (at == 0)
    torch.testing.assert_close(strategy.chances(KEYS), oracle.chances(torch.arange(N)), rtol=0.03, atol=0)
    assert float(strategy.chances(KEYS).mean()) == pytest.approx(strategy.metrics()["kept"], rel=1e-2)


def learnt(**options: Any) -> tuple[KeepOrSkip, Tensor]:
    """A strategy that thins, and the losses that it knows."""
    strategy, losses, chance = at_work(**options), torch.rand(N, dtype=torch.float64, generator=seeded(3)) * 3, seeded()
    for _ in range(3):
        train(strategy, torch.randperm(N, generator=chance), losses, chance)
    return strategy, losses


def test_each_candidate_is_kept_with_its_chance_and_as_many_as_they_sum_to():
    """By enumeration of a uniform number in 4,000 steps."""
    strategy, _ = learnt()
    keys = KEYS[:SIZE]
    chances, counts, steps, sizes = strategy.chances(keys), torch.zeros(SIZE), 4000, set[int]()
    for step in range(steps):
        positions, draw = strategy.keep(keys, (step + 0.5) / steps)
        counts[positions] += 1
        sizes.add(len(positions))
        assert torch.equal(draw.indices, keys[positions])
        assert draw.within is not None
        assert torch.equal(draw.within, chances[positions])
    assert chances.min() < 0.3
    torch.testing.assert_close(counts.double() / steps, chances, rtol=0, atol=2 / steps)
    assert sizes == {math.floor(float(chances.sum())), math.ceil(float(chances.sum()))}


def test_what_is_trained_on_has_the_distribution_of_closeness_sampling_and_weights_undo_it():
    strategy, losses = learnt(pressure=10, gamma=0.0)
    chance, trained, weights = seeded(5), [], []
    chances = strategy.chances(KEYS)
    for _ in range(60):
        for part in torch.randperm(N, generator=chance).split(SIZE):
            positions, draw = strategy.keep(KEYS[part], float(torch.rand((), generator=chance)))
            trained.append(part[positions])
            weights.append(1 / draw.probabilities)
    drawn, by_weight = torch.cat(trained), torch.cat(weights)
    assert p_value(drawn, chances) > 1e-3
    ranks = 10.0 ** (-torch.arange(N).double() / N)  # by loss, which is by doubt
    torch.testing.assert_close(chances[losses.argsort(descending=True)], ranks.clamp(min=0.1), rtol=0.03, atol=0)
    assert float(strategy.keep(KEYS[:1], 0.99)[1].probabilities) == pytest.approx(float(chances[0] / chances.mean()))
    assert float(by_weight.mean()) == pytest.approx(1, abs=0.03)
    assert float((by_weight * losses[drawn]).mean()) == pytest.approx(float(losses.mean()), rel=0.03)


def test_what_is_new_or_has_no_loss_is_kept():
    strategy, _ = learnt()
    others = torch.arange(1, 101)
    assert torch.equal(strategy.keep(others, 0.3)[0], torch.arange(100))
    _, draw = strategy.keep(others, 0.3)
    strategy.update(draw, torch.full((100,), math.nan, dtype=torch.float64), torch.zeros(100, dtype=torch.float64))
    assert strategy.skipped == 100
    assert torch.equal(strategy.keep(others, 0.3)[0], torch.arange(100))
    assert strategy.known == N


def test_the_first_pass_and_the_last_part_of_a_training_keep_all():
    strategy, chance = at_work(relaxation=0.2), seeded()
    strategy.plan(100, 20)
    losses, kept = torch.rand(N, dtype=torch.float64, generator=seeded(3)), []
    for at in range(5):  # of 20 batches each
        if at:
            strategy.start_epoch(chance)
        kept.append(len(train(strategy, torch.randperm(N, generator=chance), losses, chance)))
    assert kept[0] == kept[4] == N
    assert max(kept[1:4]) < 0.7 * N
    strategy.progress.reset()
    strategy.start_epoch(chance)  # of another training, in which it knows all
    assert len(train(strategy, torch.randperm(N, generator=chance), losses, chance)) == N
    assert strategy.known == N


def test_the_first_pass_of_draws_with_replacement_has_as_many_as_there_are_give_or_take():
    strategy, chance, losses = at_work(), seeded(), torch.rand(N, dtype=torch.float64, generator=seeded(3))
    passed = 0
    while strategy.metrics()["kept"] == 1:
        train(strategy, torch.randint(N, (SIZE,), generator=chance), losses, chance)
        passed += SIZE
    assert 0.7 * N < passed < 1.5 * N
    assert strategy.known < N


def test_gamma_follows_what_stays_hopeless():
    def final(wrong: float, stays: bool) -> float:
        strategy, chance = at_work(), seeded()
        for _ in range(6):
            chosen = torch.rand(N, generator=seeded(1) if stays else chance) < wrong
            losses = torch.where(chosen, 5.0, 0.2).double()
            train(strategy, torch.randperm(N, generator=chance), losses, chance)
        return strategy.present_gamma

    assert final(0.2, stays=True) == 0.5
    assert final(0.2, stays=False) < 0.1
    assert final(0.01, stays=True) == 0
    fixed, _ = learnt(gamma=0.3)
    assert fixed.present_gamma == 0.3


def test_a_state_goes_on_exactly_and_is_the_same_in_whatever_order_it_was_learnt():
    strategy, losses = learnt()
    other = at_work()
    other.load_state_dict(saved(strategy.state_dict()))
    for _ in range(3):
        order = torch.randperm(N, generator=seeded(9))
        assert torch.equal(*(train(one, order, losses, seeded(10)) for one in (strategy, other)))
    one, two = (saved(each.state_dict()) for each in (strategy, other))
    assert torch.equal(one["table"]["keys"], two["table"]["keys"])
    assert torch.equal(one["table"]["values"], two["table"]["values"])
    assert torch.equal(one["weights"], two["weights"])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [("weights", torch.zeros(2**14).double(), "`weights`"), ("values", 2**14, "no level")],
)
def test_a_damaged_state_is_refused(part: str, value: Any, message: str):
    state = learnt()[0].state_dict()
    if part == "values":
        state["table"]["values"][0] = value
    else:
        state[part] = value
    with pytest.raises(ValueError, match=message):
        at_work().load_state_dict(state)


def test_of_a_key_that_is_twice_in_a_batch_the_last_visit_counts():
    strategy = at_work(smoothing=0.0)
    _, draw = strategy.keep(KEYS[[0, 1, 0]], 0.5)
    strategy.update(draw, double(2.0, 0.5, 0.1), double(0, 0, 0))
    assert strategy.known == 2
    state = strategy.state_dict()["table"]
    levels = dict(zip(state["keys"].tolist(), state["values"].tolist(), strict=True))
    alone = at_work(smoothing=0.0)
    alone.update(alone.keep(KEYS[:1], 0.5)[1], double(0.1), double(0))
    assert levels[int(KEYS[0])] == int(alone.state_dict()["table"]["values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pressure": 0.5}, "`pressure` must be at least 1, .* got 0.5"),
        ({"gamma": "data"}, "`gamma` must be .*, got 'data'"),
        ({"gamma": -1.0}, "`gamma` must be"),
        ({"floor": 1.5}, r"`floor` must be in \[0, 1\]"),
        ({"smoothing": 1.0}, "`smoothing` must be"),
        ({"relaxation": -0.1}, "`relaxation` must be"),
        ({"pressure": "10"}, "`pressure` must be a number"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        KeepOrSkip(**options)


def test_it_is_refused_where_there_are_positions_and_draws_nothing():
    with pytest.raises(ValueError, match=r"KeepOrSkip keeps or skips .* ClosenessSampling\(\).* AdaptiveIterableLoad"):
        KeepOrSkip().start(Bins.single(10))
    with pytest.raises(RuntimeError, match="cannot draw"):
        at_work().draw(3, seeded())


def test_what_has_learnt_nothing_can_be_saved():
    strategy = at_work()
    state = saved(strategy.state_dict())
    assert check_sums(state, checksums(state)) is None
    other = at_work()
    other.load_state_dict(state)
    assert other.known == 0
