import itertools
import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.instance_distribution import InstanceDistribution
from lightning_as.strategies import AdaptiveSampling
from tests.helpers.looking import no_looking
from tests.helpers.on_fake_gpu import NOT_HERE
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import random_losses

SIZES = torch.tensor([40, 1, 17, 3, 90])
TAGS = torch.arange(5).repeat_interleave(SIZES)[torch.randperm(151, generator=seeded())]
EXECUTIONS = pytest.mark.usefixtures("execution")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"floor": 0.1},
    {"delta_q": 0.0, "score": "gradient"},
    {"bin_statistic": "sum_over_q", "smoothing": "original"},
    {"bin_statistic": "second_moment", "smoothing": "statistic", "floor": 0.1},
    {"score": {"0": "loss", "0.9": "gradient"}},
    {"score": ["loss", "closeness"], "floor": 0.1},
]
BY_OPTIONS = pytest.mark.parametrize("options", OPTIONS, ids=str)


def random_batch(strategy: AdaptiveSampling, generator: torch.Generator, step: int) -> tuple[Draw, Tensor, Tensor]:
    """Draw a batch; its losses spread over many orders, with exact zeros, and duplicates disagree."""
    draw = strategy.draw(24, generator)
    return draw, random_losses(24, generator, step), random_losses(24, generator)


class Exact(AdaptiveSampling):
    """With float64 leaves."""

    def make_inside(self, bins: Bins) -> InstanceDistribution:
        return InstanceDistribution(bins, self.delta_q, dtype=torch.float64)


def started(
    tags: Tensor = TAGS, device: str = "cpu", kind: type[AdaptiveSampling] = AdaptiveSampling, **options: Any
) -> AdaptiveSampling:
    strategy = kind(**{"floor": 0.0, **options})
    strategy.start(Bins(tags).to(device))
    strategy.plan(200, 200)
    return strategy


def agree(strategy: AdaptiveSampling, oracle: AlgorithmOne) -> None:
    rtol, atol = (1e-9, 1e-250) if isinstance(strategy, Exact) else (3e-6, 1e-24)
    torch.testing.assert_close(strategy.bin_probabilities, double(*oracle.p), rtol=rtol, atol=0)
    torch.testing.assert_close(strategy.instance_probabilities(), double(*oracle.q), rtol=rtol, atol=atol)


@EXECUTIONS
@pytest.mark.parametrize(
    ("kind", "floor", "delta_q", "score"),
    [
        (Exact, 0.0, 0.3, "gradient"),
        (Exact, 0.2, 0.0, "loss"),
        (Exact, 0.0, 0.999, "loss"),
        (AdaptiveSampling, 0.1, 0.1, "loss"),
    ],
)
@pytest.mark.parametrize(
    ("bin_statistic", "smoothing"),
    [
        *itertools.product(["sum", "sum_over_q", "mean", "second_moment"], ["previous", "original"]),
        *itertools.product(["mean", "second_moment"], ["statistic"]),
    ],
)
def test_agrees_with_algorithm_1(
    bin_statistic: str, smoothing: str, kind: type[AdaptiveSampling], floor: float, delta_q: float, score: str
):
    options = {"delta_q": delta_q, "bin_statistic": bin_statistic, "smoothing": smoothing, "floor": floor}
    strategy, generator = started(beta=4, delta_p=0.7, score=score, kind=kind, **options), seeded(2)
    oracle = AlgorithmOne(TAGS, 4, 0.7, **options)
    for step in range(101):
        draw, losses, bounds = random_batch(strategy, generator, step)
        bounds *= not 40 <= step < 48  # a window in which every bound is 0
        # With the gradient as the score losses may be anything, and the root of the bounds counts.
        strategy.update(draw, losses if score == "loss" else -losses, bounds)
        oracle.batch(draw.indices.tolist(), (losses if score == "loss" else bounds.sqrt()).tolist(), bounds.tolist())
        agree(strategy, oracle)
    p = strategy.bin_probabilities
    assert p.std() > 0.01
    r = (1 - floor) * p[TAGS] * strategy.instance_probabilities() + floor / 151
    torch.testing.assert_close(strategy.probabilities(), r, rtol=1e-12, atol=0)
    seen = sum(loss < math.inf for loss in oracle.loss) / 151
    figures = {"entropy_p": float(-(p * p.log()).sum()), "p_min": float(p.min()), "p_max": float(p.max())}
    assert strategy.metrics() == pytest.approx({**figures, "seen": seen, "age_p": 1})


@EXECUTIONS
@pytest.mark.parametrize("tags", [TAGS, torch.tensor([0]), torch.tensor([0, 1, 1])], ids=len)
@pytest.mark.parametrize("loss", [0.0, math.nan, 1e300, 1e-300, 5e-324])
def test_degenerate_losses_never_break_a_distribution(tags: Tensor, loss: float):
    for floor, delta_q, statistic in itertools.product([0.0, 0.1], [0.0, 0.1], ["sum", "second_moment"]):
        options = {"delta_q": delta_q, "bin_statistic": statistic, "floor": floor}
        strategy = started(tags, beta=2, points="independent", **options)  # in batches larger than the data
        generator, odd = seeded(7), double(loss).expand(6)
        for step in range(15):
            draw, usual = strategy.draw(6, generator), torch.rand(6, dtype=torch.float64, generator=generator)
            # Alone, among usual ones, and usual ones alone.
            losses = [odd, torch.where(usual < 0.5, odd, usual), usual][step // 3 % 3]
            strategy.update(draw, losses, losses if step % 2 else losses.clamp(max=2))
            q, r, again = strategy.instance_probabilities(), strategy.probabilities(), strategy.draw(50, seeded(99))
            assert torch.bincount(tags, q).tolist() == pytest.approx([1] * len(strategy.bins.sizes))
            assert float(strategy.bin_probabilities.sum()) == pytest.approx(1)
            assert (r >= 0).all()
            torch.testing.assert_close(again.probabilities, r[again.indices])


def test_the_default_is_the_thesis_with_a_floor_and_strata():
    thesis = {"bin_statistic": "sum", "score": "loss", "smoothing": "previous"}
    assert vars(AdaptiveSampling()) == vars(AdaptiveSampling(10, 0.9, 0.1, **thesis, floor=0.1, points="strata"))


@BY_OPTIONS
def test_off_the_cpu_nothing_is_looked_at_and_draws_are_the_same(options: Any, monkeypatch: pytest.MonkeyPatch):
    """Through 63 batches, with losses that are not finite, and with negative ones."""
    here, there, generator, skipped = started(beta=3, **options), started(beta=3, **options), seeded(1), 0
    for step in range(63):
        chance = seeded(step)
        losses, bounds = random_losses(24, chance, step), random_losses(24, chance)
        losses[: step % 3], bounds[23] = math.nan, (math.inf if step % 5 == 0 else 1.0)
        if there.samples_by_loss:
            losses[3] = -1.0 if step % 4 == 0 else losses[3]
        state = generator.get_state()
        with monkeypatch.context() as patch:
            patch.setattr("lightning_as.core.execution._compiled", lambda: None)
            patch.setattr(Bins, "on_host", False)
            with no_looking():
                draw = there.draw(24, generator)
                there.update(draw, losses, bounds)
        generator.set_state(state)
        same = here.draw(24, generator)
        assert torch.equal(same.indices, draw.indices)
        unusable = ~(losses.isfinite() & bounds.isfinite() & ((losses >= 0) | (not there.samples_by_loss)))
        skipped += int(unusable.sum())
        here.update(same, losses.masked_fill(unusable, math.nan), bounds)
        torch.testing.assert_close(there.probabilities(), here.probabilities(), rtol=3e-6, atol=1e-24)
    assert there.skipped == here.skipped == skipped > 0
    with pytest.raises(AssertionError, match=r"looks at a tensor|by a mask"), no_looking():  # so that this can fail
        here.update(*random_batch(here, seeded(), 0))


@pytest.mark.slow
def test_on_a_gpu_without_numbers_everything_is_on_the_gpu():
    """In a process of its own: once torch has faked a GPU, a backward pass starts threads, and forking fails."""
    command = [sys.executable, "-m", "tests.helpers.on_fake_gpu", json.dumps(OPTIONS)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == NOT_HERE:
        pytest.skip("this torch cannot fake a GPU")
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BY_OPTIONS
def test_on_a_gpu_the_draws_are_those_of_the_cpu(options: dict[str, Any]):
    here, there = started(beta=3, **options), started(device="cuda", beta=3, **options)
    for step in range(200):
        draw, losses, bounds = random_batch(here, seeded(step), step)
        same = there.draw(24, seeded(step))
        assert torch.equal(same.indices.cpu(), draw.indices)
        here.update(draw, losses, bounds)
        there.update(same, losses.cuda(), bounds.cuda())
        torch.testing.assert_close(there.probabilities().cpu(), here.probabilities(), rtol=3e-6, atol=1e-24)
