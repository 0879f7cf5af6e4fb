from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import double, p_value, saved, seeded
from thesis.everywhere import EverywhereDistribution, EverywhereSampling

TAGS = torch.tensor([0] * 6 + [1] + [2] * 20 + [0] * 5)


class Pair:
    """The distribution and the O(N) recursion of lines 21 and 22 beside it."""

    def __init__(self, tags: Tensor = TAGS, delta_q: float = 0.1, unseen: str = "first") -> None:
        self.bins = Bins(tags)
        self.make = partial(EverywhereDistribution, self.bins, delta_q, unseen)
        self.fast = self.make()
        self.naive = AlgorithmOne(tags, 10**9, 0.9, delta_q, unseen=unseen, q_update="all")

    def update(self, indices: list[int], scores: list[float]) -> None:
        instances = torch.tensor(indices, dtype=torch.int64)
        self.fast.update(instances, self.bins.of(instances), double(*scores))
        self.naive.batch(indices, scores, [0.0] * len(indices))

    def check(self) -> None:
        q = self.fast.probabilities()
        torch.testing.assert_close(q, double(*self.naive.q), rtol=1e-9, atol=1e-250)
        assert self.fast.share_seen == pytest.approx(float(double(*self.naive.loss).isfinite().double().mean()))

    def reload(self) -> None:
        state, self.fast = saved(self.fast.state_dict()), self.make()
        self.fast.load_state_dict(state)


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.999])
@pytest.mark.parametrize("unseen", ["first", "mean"])
@pytest.mark.parametrize(("bin_statistic", "smoothing"), [("sum", "previous"), ("second_moment", "statistic")])
def test_the_strategy_agrees_with_algorithm_1(bin_statistic, smoothing, unseen, delta_q):
    tags = torch.arange(5).repeat_interleave(torch.tensor([40, 1, 17, 3, 90]))
    options = {"bin_statistic": bin_statistic, "smoothing": smoothing, "unseen": unseen}
    strategy = EverywhereSampling(beta=3, delta_q=delta_q, floor=0.0, **options)
    strategy.start(Bins(tags))
    oracle, generator = AlgorithmOne(tags, 3, 0.9, delta_q, **options, q_update="all"), seeded(1)
    for step in range(200):
        draw = strategy.draw(24, generator)
        losses = torch.rand(24, dtype=torch.float64, generator=generator).pow(8) * 10.0 ** (-(step % 7))
        losses[torch.rand(24, generator=generator) < 0.2] = 0.0
        bounds = torch.rand(24, dtype=torch.float64, generator=generator)
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), losses.tolist(), bounds.tolist())
        torch.testing.assert_close(strategy.bin_probabilities, double(*oracle.p), rtol=1e-9, atol=0)
        torch.testing.assert_close(strategy.instance_probabilities(), double(*oracle.q), rtol=1e-9, atol=1e-250)
    draw = strategy.draw(100_000, generator)
    assert p_value(draw.indices, strategy.probabilities()) > 1e-3
    torch.testing.assert_close(draw.probabilities, strategy.probabilities()[draw.indices], rtol=1e-12, atol=0)


@pytest.mark.parametrize("unseen", ["first", "mean"])
@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9])
def test_agrees_on_small_bins_with_many_zero_scores_also_reloaded(delta_q, unseen):
    tags = torch.tensor([0] * 4 + [1] * 2 + [2] * 7 + [3])
    for seed in range(5):
        pair, generator = Pair(tags, delta_q, unseen), seeded(seed)
        for step in range(60):
            uniforms = torch.rand(2, dtype=torch.float64, generator=generator)
            indices, _ = pair.fast.draw(torch.randint(4, (2,), generator=generator), uniforms, torch.ones(4), 0.0)
            scores = torch.rand(2, dtype=torch.float64, generator=generator)
            scores[torch.rand(2, generator=generator) < 0.6] = 0
            pair.update(indices.tolist(), scores.tolist())
            if step in (3, 40):
                pair.reload()
            pair.check()


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("jump", [1e6, 1e-3])
def test_agrees_through_jumps_of_a_score_and_beyond_the_underflow_of_the_old_share(delta_q, jump):
    pair, generator = Pair(delta_q=delta_q), seeded()
    pair.update(list(range(len(TAGS))), [1e-12] * len(TAGS))
    for step in range(1200):
        if step in (50, 60, 700, 1000):
            pair.update([3], [jump if step in (50, 700) else 1e-12])
        if step == 250:  # with little left of the old share
            pair.reload()
        indices = torch.randint(4, len(TAGS), (4,), generator=generator)
        pair.update(indices.tolist(), (torch.rand(4, generator=generator).double() * 1e-12).tolist())
        if step % 20 == 0 or step in (50, 51, 60, 61):
            pair.check()


def test_what_the_unseen_get_must_be_known():
    with pytest.raises(ValueError, match="`unseen` must be one of first, mean; got 'last'"):
        EverywhereSampling(unseen="last")
