from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.smoothed_where_drawn import SmoothedWhereDrawn
from tests.helpers.oracle import AlgorithmOne

pytestmark = pytest.mark.usefixtures("implementation")

TAGS = torch.tensor([0] * 6 + [1] + [2] * 20 + [0] * 5)


class Pair:
    """The distribution and its O(N) recursion beside it."""

    def __init__(self, tags: Tensor = TAGS, delta_q: float = 0.1) -> None:
        self.bins = Bins(tags)
        self.fast = SmoothedWhereDrawn(self.bins, delta_q)
        self.naive = AlgorithmOne(tags, beta=10**9, delta_p=0.9, delta_q=delta_q, q_update="drawn")

    def update(self, indices: list[int], scores: list[float]) -> None:
        instances = torch.tensor(indices, dtype=torch.int64)
        self.fast.update(instances, self.bins.of(instances), torch.tensor(scores, dtype=torch.float64))
        self.naive.batch(indices, scores, [0.0] * len(indices))

    def check(self) -> Tensor:
        q = self.fast.probabilities()
        torch.testing.assert_close(q, torch.tensor(self.naive.q, dtype=torch.float64), rtol=1e-9, atol=1e-250)
        return q


def test_by_hand():
    """Four instances; the two unseen count as the mean, 2, so that Z = 8."""
    pair = Pair(torch.zeros(4, dtype=torch.int64), delta_q=0.2)
    pair.update([0, 1], [1.0, 3.0])
    weights = torch.tensor([0.05 + 0.8 / 8, 0.05 + 0.8 * 3 / 8, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(pair.check(), weights / weights.sum(), rtol=1e-14, atol=0)
    assert pair.fast.share_seen == 0.5


def test_a_visit_leaves_at_least_delta_q_of_the_weight():
    pair = Pair()
    pair.update(list(range(len(TAGS))), [1.0] * len(TAGS))
    before = pair.check()
    pair.update([8, 9], [0.0, 0.0])
    after = pair.check()
    torch.testing.assert_close(after[8] / after[10], 0.1 * before[8] / before[10], rtol=1e-12, atol=0)
    assert torch.equal(after[TAGS == 0], before[TAGS == 0])


@pytest.mark.parametrize("delta_q", [0.0, 1e-9, 0.1, 0.9])
def test_agrees_with_the_recursion_on_small_bins_with_many_zero_scores(delta_q: float):
    tags = torch.tensor([0] * 4 + [1] * 2 + [2] * 7 + [3])
    for seed in range(10):
        pair, generator = Pair(tags, delta_q), torch.Generator().manual_seed(seed)
        for _ in range(60):
            indices = torch.randint(len(tags), (2,), generator=generator)
            scores = torch.rand(2, dtype=torch.float64, generator=generator)
            scores[torch.rand(2, generator=generator) < 0.6] = 0
            pair.update(indices.tolist(), scores.tolist())
            pair.check()


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_agrees_while_the_sum_of_weights_drifts_over_many_orders(delta_q: float, factor: float):
    """Scores that fall, or rise, at every visit pull the weights of a bin down, or up, without end."""
    pair, generator = Pair(delta_q=delta_q), torch.Generator().manual_seed(0)
    score, scaled, before = 1.0, 0, 1.0
    for step in range(1500):
        # Back from time to time, as scores do, but not the weights.
        score = score * factor if 1e-80 < score < 1e80 else 1.0
        indices = torch.randint(7, 27, (8,), generator=generator)
        pair.update(indices.tolist(), [score] * 8)
        now = float(pair.fast.state_dict()["leaves"][12:, 0].sum())
        scaled += not 1e-20 < now / before < 1e20
        before = now
        if step % 10 == 0:
            pair.check()
    assert scaled > 0


def test_a_bin_whose_scores_are_all_zero_keeps_q_and_can_be_left_again():
    pair = Pair()
    pair.update(list(range(len(TAGS))), [1.0 + i for i in range(len(TAGS))])
    members = (TAGS == 0).nonzero()[:, 0].tolist()
    before = pair.check()
    pair.update(members, [0.0] * len(members))
    assert torch.equal(pair.fast.probabilities(), before)
    pair.check()
    pair.update([0, 28], [1e-9, 0.3])
    assert pair.check()[28] > before[28]


def test_of_duplicates_the_last_score_counts():
    pair, other = Pair(), Pair()
    pair.update([3, 8, 3, 3], [9.0, 1.0, 0.0, 0.25])
    other.update([3, 8], [0.25, 1.0])
    assert torch.equal(pair.check(), other.check())
    assert pair.fast.share_seen == other.fast.share_seen == 2 / len(TAGS)


@pytest.mark.parametrize("batches", [0, 5, 300])
def test_a_state_round_trip_is_bit_equal(batches: int):
    bins, generator = Bins(TAGS), torch.Generator().manual_seed(0)
    original, restored = SmoothedWhereDrawn(bins), SmoothedWhereDrawn(bins)

    def step(*distributions: SmoothedWhereDrawn) -> None:
        indices = torch.randint(len(TAGS), (4,), generator=generator)
        scores = torch.rand(4, dtype=torch.float64, generator=generator)
        for distribution in distributions:
            distribution.update(indices, bins.of(indices), scores)

    for _ in range(batches):
        step(original)
    state = original.state_dict()
    restored.load_state_dict(state)
    for _ in range(50):
        assert torch.equal(original.probabilities(), restored.probabilities())
        assert original.share_seen == restored.share_seen
        step(original, restored)
    again = SmoothedWhereDrawn(bins)
    again.load_state_dict(state)  # a copy, which those 50 batches did not touch
    assert not torch.equal(again.probabilities(), original.probabilities())
