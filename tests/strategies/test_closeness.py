import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_as import Bins, ClosenessSampling
from tests.helpers.looking import no_looking
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import as_drawn, learn, random_losses, started

TAGS = [0] * 30 + [1] * 9 + [2] * 3


STEP = 48 / (2**14 - 2)  # from a level of doubt to the next


def level(doubt: float, rest: float) -> int:
    """The nearest of the levels, which are evenly spread over log d − log(1 − d) from −24 to 24, from 1 on."""
    place = math.log(doubt) - math.log(rest) if doubt and rest else math.copysign(24, doubt - rest)
    return 1 + math.floor((min(24.0, max(-24.0, place)) + 24) / STEP + 0.5)


def doubt_at(number: int) -> tuple[float, float]:
    """d and 1 − d."""
    place = (number - 1) * STEP - 24
    return 1 / (1 + math.exp(-place)), 1 / (1 + math.exp(place))


class Oracle:
    """The method's docstring in plain Python, over lists."""

    def __init__(self, s: float, gamma: float | str, floor: float, alpha: float, phi: float) -> None:
        self.s, self.gamma, self.floor, self.alpha, self.phi = s, gamma, floor, alpha, phi
        self.levels: dict[int, int] = {}
        self.seemed: set[int] = set()
        self.windows: list[list[tuple[float, bool, bool]]] = [[]]  # 1/(N r), seems hopeless, did so before
        self.h, self.k, self.c = 0.0, 1.0, 0.0

    def estimate(self, first: bool) -> None:
        def total(of: Callable[[float, bool, bool], float], windows: list[list[tuple[float, bool, bool]]]) -> float:
            return sum(0.75**age * sum(of(*visit) for visit in each) for age, each in enumerate(reversed(windows)))

        def ramp(value: float, low: float, high: float) -> float:
            return min(1.0, max(0.0, (value - low) / (high - low)))

        before = total(lambda w, now, then: w * then, self.windows)
        stayed = total(lambda w, now, then: w * then * now, self.windows)
        seen = total(lambda w, now, then: 1.0, self.windows)
        self.h = min(1.0, total(lambda w, now, then: w * now, self.windows) / seen)
        self.k = stayed / before if before else 1.0
        rises = not first and total(lambda w, now, then: w * then, self.windows[:-1]) > 0
        self.c = max(self.c if rises else 0.0, ramp(self.h, 0.02, 0.08) * ramp(self.k, 0.5, 0.7))
        self.windows.append([])

    def learn(self, indices: list[int], losses: list[float], r: list[float]) -> None:
        before, seemed = dict(self.levels), set(self.seemed)
        old = {i: doubt_at(number) for i, number in before.items()}
        for i, loss in zip(indices, losses, strict=True):  # of duplicates the last counts
            doubt, rest = 1 - math.exp(-loss), math.exp(-loss)
            pair = [self.alpha * a + (1 - self.alpha) * b for a, b in zip(old.get(i, ()), (doubt, rest), strict=False)]
            to, found = level(*(pair or (doubt, rest))), level(doubt, rest)
            stays = to == before.get(i) != found  # too small a step for the levels
            self.levels[i] = to + (1 if found > to else -1) * stays
            (self.seemed.add if doubt > 0.9 else self.seemed.discard)(i)
            self.windows[-1].append((1 / (len(TAGS) * r[i]), doubt > 0.9, i in seemed))

    def present_gamma(self) -> float:
        return self.c / 2 if self.gamma == "follow" else float(self.gamma)

    def probabilities(self, ranked: bool) -> list[float]:
        count, gamma = len(TAGS), self.present_gamma()
        doubts, s = {i: doubt_at(number) for i, number in self.levels.items()}, self.s
        closeness = {i: doubt * rest**gamma for i, (doubt, rest) in doubts.items()}
        falling = [s ** (-rank / count) for rank in range(count)]
        order = sorted(closeness.values(), reverse=True)
        weights = [1.0] * count
        for i in range(count if ranked else 0):  # equal ones share, and unknown ones have a share of everything
            ranks = [rank for rank, value in enumerate(order) if value == closeness[i]] if i in doubts else range(count)
            weights[i] = sum(falling[rank] for rank in ranks) / len(ranks)
        sums = [sum(weights[i] for i in range(count) if TAGS[i] == tag) for tag in range(3)]
        lifted = [max(TAGS.count(tag), self.phi * TAGS.count(0)) for tag in range(3)]
        p = [size / sum(lifted) for size in lifted]
        return [(1 - self.floor) * p[TAGS[i]] * weights[i] / sums[TAGS[i]] + self.floor / count for i in range(count)]


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(
    ("s", "gamma", "floor", "alpha", "phi"),
    [(10, 0.5, 0.1, 0.7, 0.2), (100, 0.0, 0.0, 0.0, 0.0), (3, "follow", 0.3, 0.9, 1.0)],
)
def test_the_distribution_follows_the_formulas(s: float, gamma: float | str, floor: float, alpha: float, phi: float):
    strategy = started(
        ClosenessSampling(s, gamma, floor, alpha, phi, warm_up=1, relaxation=0.25),  # pyright: ignore[reportArgumentType]
        Bins(torch.tensor(TAGS)),
        total=80,
        per_epoch=7,
    )
    oracle, generator, drawn = Oracle(s, gamma, floor, alpha, phi), seeded(), 0
    expected, since = oracle.probabilities(ranked=False), 0
    for step in range(80):
        if step % 7 == 0:
            strategy.start_epoch(generator)
        if 8 * since >= 42:
            oracle.estimate(first=drawn < 42)
            since = 0
            if drawn >= 42 and step < 60:
                expected = oracle.probabilities(ranked=True)
        if step == 60:
            expected = oracle.probabilities(ranked=False)
        draw = strategy.draw(6, generator)
        strategy.progress.step()
        torch.testing.assert_close(strategy.probabilities(), double(*expected), rtol=1e-12, atol=0)
        torch.testing.assert_close(draw.probabilities, double(*expected)[draw.indices], rtol=1e-12, atol=0)
        assert draw.bins.tolist() == [TAGS[i] for i in draw.indices]
        losses = random_losses(6, generator, step).clamp(max=2) + 3.0 * (draw.indices % 21 == 0)
        strategy.update(draw, losses, torch.zeros_like(losses))
        oracle.learn(draw.indices.tolist(), losses.tolist(), expected)
        drawn, since = drawn + 6, since + 6
    metrics = strategy.metrics()
    assert metrics["gamma"] == pytest.approx(oracle.present_gamma())
    assert metrics["hopeless"] == pytest.approx(oracle.h)
    assert metrics["staying"] == pytest.approx(oracle.k)
    assert metrics["effective_size"] == pytest.approx(1 / sum(r * r for r in expected))
    assert gamma != "follow" or 0 < metrics["gamma"] <= 0.5


@pytest.mark.parametrize("loss", [0.0, 1.0, 100.0])
def test_equal_losses_are_drawn_alike_wherever_they_stand(loss: float):
    strategy = started(ClosenessSampling(warm_up=0), 40)
    learn(strategy, list(range(40)), torch.full((40,), loss, dtype=torch.float64))
    before = strategy.probabilities()
    for _ in range(3):
        strategy.draw(8, seeded())
    assert strategy.state_dict()["distribution"]["flat"] == 0
    torch.testing.assert_close(strategy.probabilities(), before, rtol=1e-9, atol=0)


def test_what_is_never_finite_is_drawn_as_the_mean():
    strategy, losses = (
        started(ClosenessSampling(warm_up=0, floor=0.0), Bins.single(40)),
        torch.linspace(0, 3, 40).double(),
    )
    for _ in range(3):
        learn(strategy, list(range(40)), losses.where(torch.arange(40) != 7, math.nan))
        strategy.draw(8, seeded())
    probabilities = strategy.probabilities()
    assert float(probabilities.std()) > 0.001
    assert float(probabilities[7]) == pytest.approx(1 / 40, rel=0.1)


def test_a_second_training_begins_with_a_pass_over_all():
    strategy, generator = started(ClosenessSampling(relaxation=0), 40, 40, 5), seeded()
    for epoch in range(4):
        if epoch == 3:
            strategy.progress.reset()
        strategy.start_epoch(generator)
        for _ in range(5):
            draw = strategy.draw(8, generator)
            strategy.progress.step()
            strategy.update(draw, torch.rand(8, dtype=torch.float64, generator=generator), double(*[0.0] * 8))
        assert strategy.state_dict()["distribution"]["flat"] == (epoch not in (1, 2))
    assert int((strategy.state_dict()["doubts"] > 0).sum()) == 40


@pytest.mark.parametrize("score", ["loss", "gradient", {0: "closeness", 0.5: "gradient"}, ["gradient", "loss"]])
def test_ranks_go_by_the_score_in_force(score: Any):
    strategy, generator = (
        started(ClosenessSampling(score=score, warm_up=0, relaxation=0, smoothing=0), 40, 20, 5),
        seeded(),
    )
    losses, bounds = (torch.rand(40, dtype=torch.float64, generator=generator) * 3 for _ in range(2))
    for step in range(20):
        if step % 5 == 0:
            strategy.start_epoch(generator)
        draw = strategy.draw(40, generator)
        everything = as_drawn(strategy, list(range(40)))
        strategy.update(everything, losses, bounds)
        strategy.progress.step()
        if step in (3, 13):
            later = step == 13
            name = (
                score
                if isinstance(score, str)
                else [["closeness", "gradient"], ["gradient", "loss"]][isinstance(score, list)][later]
            )
            v = torch.exp(-losses)
            key = {"loss": losses, "gradient": bounds, "closeness": (1 - v) * v.sqrt()}[name]
            for tag in range(3):
                r, of_bin = strategy.probabilities()[tag::3], key[tag::3]
                above = of_bin.unsqueeze(1) > 1.01 * of_bin  # by more than a level
                assert (r.unsqueeze(1) > r)[above].all(), (step, name)
                assert above.sum() > 0.4 * above.numel()
    assert draw.weights is None


@pytest.mark.usefixtures("execution")
def test_what_is_not_finite_leaves_its_instance_alone():
    strategy = started(ClosenessSampling(), 6)
    learn(strategy, [0, 1, 2], double(0.5, math.inf, math.nan))
    assert strategy.state_dict()["doubts"].tolist() == [level(1 - math.exp(-0.5), math.exp(-0.5)), 0, 0, 0, 0, 0]
    assert strategy.skipped == 2


def test_a_training_without_an_end_is_never_relaxed():
    ends, endless = (started(ClosenessSampling(warm_up=0, relaxation=1.0), 40, total) for total in (100, None))
    for strategy in (ends, endless):
        strategy.start_epoch(seeded())
        learn(strategy, list(range(40)), torch.linspace(0, 6, 40, dtype=torch.float64))
        for _ in range(2):
            strategy.draw(8, seeded())
    assert float(ends.probabilities().std()) < 1e-12
    assert float(endless.probabilities().std()) > 1e-3


def test_off_the_cpu_no_number_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    here, there = (started(ClosenessSampling(gamma="follow"), 96, 40, 8) for _ in range(2))
    for step in range(40):
        generator = seeded(step)
        draw = here.draw(24, generator)
        losses = random_losses(24, generator, step)
        losses[step % 24] = math.nan
        here.update(draw, losses, torch.zeros_like(losses))
        with monkeypatch.context() as patch, no_looking():
            patch.setattr(Bins, "on_host", False)
            patch.setattr("lightning_as.core.execution._compiled", lambda: None)
            same = there.draw(24, seeded(step))
            there.update(same, losses, torch.zeros_like(losses))
        here.progress.step()
        there.progress.step()
        assert torch.equal(same.indices, draw.indices)
    torch.testing.assert_close(there.probabilities(), here.probabilities(), rtol=1e-12, atol=0)
    for name, part in here.state_dict()["persistence"].items():
        torch.testing.assert_close(there.state_dict()["persistence"][name], part)
    assert there.skipped == here.skipped == 40
