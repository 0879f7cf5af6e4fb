from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_as import AdaptiveBatchSampler, AdaptiveSampling
from lightning_as.core.bins import Bins
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import tensors_in
from thesis.smoothed_everywhere import SmoothedEverywhere

pytestmark = pytest.mark.usefixtures("implementation")

TAGS = torch.tensor([0] * 6 + [1] + [2] * 20 + [0] * 5)


class Pair:
    """An instance distribution and the O(N) recursion of lines 21 and 22 beside it."""

    def __init__(self, tags: Tensor = TAGS, delta_q: float = 0.1, unseen: str = "first") -> None:
        self.bins = Bins(tags)
        self.fast = SmoothedEverywhere(self.bins, delta_q, unseen)  # pyright: ignore[reportArgumentType]
        self.naive = AlgorithmOne(tags, beta=10**9, delta_p=0.9, delta_q=delta_q, unseen=unseen)

    def update(self, indices: list[int], scores: list[float]) -> None:
        instances = torch.tensor(indices, dtype=torch.int64)
        self.fast.update(instances, self.bins.of(instances), torch.tensor(scores, dtype=torch.float64))
        self.naive.batch(indices, scores, [0.0] * len(indices))

    def check(self) -> Tensor:
        q = self.fast.probabilities()
        torch.testing.assert_close(q, torch.tensor(self.naive.q, dtype=torch.float64), rtol=1e-9, atol=1e-250)
        return q

    def sweep(self, score: float = 1.0) -> None:
        self.update(list(range(len(self.bins))), [score * (1 + i) for i in range(len(self.bins))])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(distribution: SmoothedEverywhere, bins: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    uniforms = torch.rand(distribution.uniforms, len(bins), dtype=torch.float64, generator=generator)
    return distribution.draw(bins, uniforms)


def test_starts_uniform_in_each_bin():
    bins = Bins(TAGS)
    assert torch.equal(SmoothedEverywhere(bins).probabilities(), 1 / torch.tensor(bins.sizes).double()[bins.tags])


def test_unsmoothed_every_instance_of_a_bin_is_drawn_before_any_is_drawn_again():
    pair, generator = Pair(delta_q=0.0), seeded()
    for j, size in enumerate(pair.bins.sizes):
        drawn = []
        for _ in range(size):
            indices, _ = draw(pair.fast, torch.tensor([j]), generator)
            drawn += indices.tolist()
            pair.update(indices.tolist(), [float(torch.rand(1, generator=generator))])
        assert sorted(drawn) == (j == TAGS).nonzero()[:, 0].tolist()
    assert pair.fast.share_seen == 1


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.5])
def test_unseen_instances_hold_at_least_one_minus_delta_q_in_equal_shares(delta_q):
    pair, generator = Pair(delta_q=delta_q), seeded()
    seen = torch.zeros(len(TAGS), dtype=torch.bool)
    incomplete = 0
    for _ in range(30):
        indices, _ = draw(pair.fast, torch.randint(3, (3,), generator=generator), generator)
        pair.update(indices.tolist(), torch.rand(3, generator=generator).tolist())
        seen[indices] = True
        q = pair.check()
        assert pair.fast.share_seen == pytest.approx(seen.double().mean().item())
        for j in range(3):
            unseen = q[(j == TAGS) & ~seen]
            if len(unseen):
                incomplete += 1
                assert unseen.sum() >= 1 - delta_q - 1e-12
                torch.testing.assert_close(unseen, unseen[:1].expand_as(unseen), rtol=1e-12, atol=0)
    assert incomplete > 20


def test_the_unseen_count_as_the_mean_score_of_their_bin():
    pair = Pair(torch.zeros(4, dtype=torch.int64), delta_q=0.0, unseen="mean")
    pair.update([0, 1], [1.0, 3.0])
    torch.testing.assert_close(pair.check(), torch.tensor([1, 3, 2, 2], dtype=torch.float64) / 8)


@pytest.mark.parametrize("unseen", ["first", "mean"])
@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9])
def test_agrees_with_the_recursion_on_small_bins_with_many_zero_scores(delta_q, unseen):
    tags = torch.tensor([0] * 4 + [1] * 2 + [2] * 7 + [3])
    for seed in range(10):
        pair, generator = Pair(tags, delta_q, unseen), seeded(seed)
        for _ in range(60):
            indices, _ = draw(pair.fast, torch.randint(4, (2,), generator=generator), generator)
            scores = torch.rand(2, dtype=torch.float64, generator=generator)
            scores[torch.rand(2, generator=generator) < 0.6] = 0
            pair.update(indices.tolist(), scores.tolist())
            pair.check()


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("jump", [5.0, 1e6, 1e-3])
def test_a_jump_of_a_score_over_many_orders_and_back_keeps_the_agreement(delta_q, jump):
    pair, generator = Pair(delta_q=delta_q), seeded()
    pair.update(list(range(len(TAGS))), [1e-12] * len(TAGS))
    for step in range(2000):
        if step in (50, 700):
            pair.update([3], [jump])
            pair.check()
        elif step in (60, 1000):
            pair.update([3], [1e-12])
            pair.check()
        indices = torch.randint(4, len(TAGS), (4,), generator=generator)
        pair.update(indices.tolist(), (torch.rand(4, generator=generator).double() * 1e-12).tolist())
        if step % 20 == 0 or step in (51, 52, 61, 62):
            pair.check()
    pair.check()


@pytest.mark.parametrize("batches", [0, 3])
@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9])
def test_a_bin_whose_scores_are_all_zero_keeps_q_exactly_and_can_be_left_again(delta_q, batches):
    pair = Pair(delta_q=delta_q)
    pair.sweep()
    for i in range(batches):
        pair.update([0, 11], [0.5 + i, 2.0])
    members = (TAGS == 0).nonzero()[:, 0].tolist()
    before = pair.check()
    pair.update(members, [0.0] * len(members))
    held = pair.check()
    torch.testing.assert_close(held[TAGS == 0], before[TAGS == 0], rtol=1e-12, atol=0)
    for i in (0, 11, 27):
        pair.update([i], [0.0])
    assert torch.equal(pair.fast.probabilities()[TAGS == 0], held[TAGS == 0])
    indices, q = draw(pair.fast, torch.zeros(500, dtype=torch.int64), seeded())
    torch.testing.assert_close(q, held[indices])
    pair.update([0, 28], [1e-9, 0.3])
    pair.check()
    for i in members:
        pair.update([i], [0.7])
        pair.check()


def test_all_zero_scores_from_the_start_keep_q_uniform():
    for delta_q in (0.0, 0.1):
        pair = Pair(delta_q=delta_q)
        for _ in range(3):
            pair.update(list(range(len(TAGS))), [0.0] * len(TAGS))
            assert pair.check()[TAGS == 0].tolist() == pytest.approx([1 / 11] * 11)


@pytest.mark.parametrize("delta_q", [1e-9, 0.1, 0.5])
def test_agrees_beyond_the_underflow_of_the_old_share(delta_q):
    pair, generator = Pair(delta_q=delta_q), seeded()
    pair.sweep()
    for step in range(1200):
        indices = torch.randint(len(TAGS), (3,), generator=generator)
        pair.update(indices.tolist(), (torch.rand(3, generator=generator) * 10.0 ** -(step % 5)).tolist())
        if step % 10 == 0:
            pair.check()
    assert delta_q**1200 < 1e-300
    assert pair.fast._ticks < 1200


def test_agrees_beyond_the_underflow_while_some_are_still_unseen():
    for unseen in ("first", "mean"):
        pair = Pair(unseen=unseen)
        for _ in range(800):
            pair.update([0, 1, 12], [0.3, 0.0, 2.0])
        pair.check()
        pair.sweep()
        pair.check()


def test_of_duplicates_the_last_score_counts():
    pair, other = Pair(), Pair()
    pair.sweep()
    other.sweep()
    pair.update([3, 8, 3, 3], [9.0, 1.0, 0.0, 0.25])
    other.update([3, 8], [0.25, 1.0])
    torch.testing.assert_close(pair.check(), other.check(), rtol=1e-12, atol=0)


def test_draws_carry_their_probability_and_stay_in_their_bin():
    pair, generator = Pair(), seeded()
    pair.sweep()
    pair.update([0, 1, 12], [0.0, 1e-9, 40.0])
    bins = torch.randint(3, (1000,), generator=generator)
    indices, q = draw(pair.fast, bins, generator)
    assert torch.equal(TAGS[indices], bins)
    torch.testing.assert_close(q, pair.fast.probabilities()[indices], rtol=1e-12, atol=0)
    assert torch.equal(pair.fast.probability(indices, bins), pair.fast.probabilities()[indices])
    sums = torch.zeros(3, dtype=torch.float64).index_add_(0, TAGS, pair.fast.probabilities())
    torch.testing.assert_close(sums, torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("batches", [0, 5, 300])
@pytest.mark.parametrize("delta_q", [0.0, 0.1])
@pytest.mark.parametrize("unseen", ["first", "mean"])
def test_a_state_round_trip_is_bit_equal(batches, delta_q, unseen):
    bins, generator = Bins(TAGS), seeded()
    original, restored = (SmoothedEverywhere(bins, delta_q, unseen) for _ in range(2))

    def step(distribution: SmoothedEverywhere, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        indices, q = draw(distribution, torch.randint(3, (4,), generator=generator), generator)
        scores = torch.rand(4, dtype=torch.float64, generator=generator)
        distribution.update(indices, bins.of(indices), scores)
        return indices, q

    for _ in range(batches):
        step(original, generator)
    state = original.state_dict()
    restored.load_state_dict(state)
    other = seeded()
    other.set_state(generator.get_state())
    for _ in range(300):
        assert torch.equal(original.probabilities(), restored.probabilities())
        for one, two in zip(step(original, generator), step(restored, other), strict=True):
            assert torch.equal(one, two)
    again = SmoothedEverywhere(bins, delta_q, unseen)
    again.load_state_dict(state)  # a copy, which those 300 batches did not touch
    assert not torch.equal(again.probabilities(), original.probabilities())
    assert again.share_seen <= original.share_seen == restored.share_seen


@pytest.mark.parametrize("count", [1, 10])
def test_strategy_and_sampler_together_keep_at_most_48_bytes_per_instance(count):
    size = 200_000
    sampler = AdaptiveBatchSampler(Bins(torch.arange(size) % count), batch_size=64)
    strategy = AdaptiveSampling()
    sampler.attach(strategy)
    next(iter(sampler))
    strategy.update(sampler.commit(), torch.ones(64).double(), torch.ones(64).double())
    assert sum(tensors_in(sampler, strategy).values()) <= 48 * size
