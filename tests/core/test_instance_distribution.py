import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.instance_distribution import InstanceDistribution
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import double, seeded

pytestmark = pytest.mark.usefixtures("execution")

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
TAGS = torch.tensor([0] * 6 + [1] + [2] * 20 + [0] * 5)


class Pair:
    def __init__(self, tags: Tensor = TAGS, delta_q: float = 0.1, dtype: torch.dtype = torch.float64) -> None:
        self.bins = Bins(tags)
        self.fast = InstanceDistribution(self.bins, delta_q, dtype=dtype)
        # Each visit rounds a float32 weight at 6e-8 of it.
        self.rtol, self.atol = {torch.float64: (1e-9, 1e-250), torch.float32: (3e-6, 1e-24)}[dtype]
        self.naive = AlgorithmOne(tags, beta=10**9, delta_p=0.9, delta_q=delta_q)

    def update(self, indices: list[int], scores: list[float]) -> None:
        instances = torch.tensor(indices, dtype=torch.int64)
        self.fast.update(instances, self.bins.of(instances), double(*scores))
        self.naive.batch(indices, scores, [0.0] * len(indices))

    def check(self) -> Tensor:
        q, losses = self.fast.probabilities(), double(*self.naive.loss)
        torch.testing.assert_close(q, double(*self.naive.q), rtol=self.rtol, atol=self.atol)
        assert self.fast.share_seen == pytest.approx(float(losses.isfinite().double().mean()))
        return q


@DTYPES
@pytest.mark.parametrize("delta_q", [0.0, 1e-9, 0.1, 0.9])
def test_agrees_with_the_recursion_on_small_bins_with_many_zero_scores(delta_q: float, dtype: torch.dtype):
    tags = torch.tensor([0] * 4 + [1] * 2 + [2] * 7 + [3])
    for seed in range(5):
        pair, generator = Pair(tags, delta_q, dtype), seeded(seed)
        for _ in range(60):
            indices = torch.randint(len(tags), (3,), generator=generator)  # duplicates disagree: the last counts
            scores = torch.rand(3, dtype=torch.float64, generator=generator)
            scores[torch.rand(3, generator=generator) < 0.6] = 0
            pair.update(indices.tolist(), scores.tolist())
            pair.check()


@DTYPES
@pytest.mark.parametrize("delta_q", [0.0, 0.1])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_agrees_while_the_sum_of_weights_drifts_over_many_orders(delta_q: float, factor: float, dtype: torch.dtype):
    """Scores that fall, or rise, at every visit pull the weights of a bin down, or up, without end."""
    pair, generator = Pair(delta_q=delta_q, dtype=dtype), seeded()
    largest, jump = {torch.float64: (1e80, 1e20), torch.float32: (1e25, 1e9)}[dtype]
    score, scaled, before = 1.0, 0, 1.0
    for step in range(1000):
        # Back from time to time, as scores do, but not the weights.
        score = score * factor if 1 / largest < score < largest else 1.0
        indices = torch.randint(7, 27, (8,), generator=generator)
        pair.update(indices.tolist(), [score] * 8)
        now = float(pair.fast.state_dict()["leaves"][12:, 0].double().sum())
        scaled, before = scaled + (not 1 / jump < now / before < jump), now
        if step % 20 == 0:
            pair.check()
    assert scaled > 0


def test_other_bins_and_one_whose_scores_are_all_zero_keep_q_to_the_bit_and_it_can_be_left_again():
    pair = Pair()
    pair.update(list(range(len(TAGS))), [1.0 + i for i in range(len(TAGS))])
    members, before = (TAGS == 0).nonzero()[:, 0].tolist(), pair.check()
    pair.update(members, [0.0] * len(members))
    assert torch.equal(pair.check(), before)
    pair.update([0, 28], [1e-9, 0.3])
    assert torch.equal(pair.check()[TAGS > 0], before[TAGS > 0])
    assert pair.check()[28] > before[28]


@pytest.mark.parametrize("execution", ["torch"], indirect=True)
def test_in_torch_scores_that_are_not_known_leave_an_instance_alone(execution: str):
    one, other, nan = Pair().fast, Pair().fast, float("nan")
    for fast, indices, scores in ((one, [3, 8, 3, 9, 3], [9, 1, 2, nan, nan]), (other, [8, 3], [1, 2])):
        fast.update(torch.tensor(indices), TAGS[indices], double(*scores))
    assert torch.equal(one.probabilities(), other.probabilities())
    assert one.share_seen == other.share_seen == 2 / len(TAGS)


@pytest.mark.parametrize("execution", ["compiled"], indirect=True)
def test_weights_that_no_scaling_brings_back_are_an_error_and_no_endless_loop(execution: str):
    broken = Pair().fast
    broken._tree.fill([0.0, 0.0])
    with pytest.raises(ValueError, match="The weights of a bin sum to 0"):
        broken.update(torch.tensor([0]), torch.tensor([0]), double(1))


def test_without_smoothing_scores_that_are_worlds_apart_leave_no_bin_without_weight():
    """What is next to nothing beside 1e15 is all that there is once that is 0."""
    fast = InstanceDistribution(Bins([0, 0, 1]), 0.0)
    for indices, scores in (([0, 1], [1e15, 1e-29]), ([0], [1e16]), ([0, 1], [1e17, 2e-30]), ([0], [0]), ([0], [1])):
        fast.update(torch.tensor(indices), torch.zeros(len(indices), dtype=torch.int64), double(*scores))
        q = fast.probabilities()
        assert q[:2].sum() == pytest.approx(1)
        assert q[1] > 0


def test_other_scores_move_no_q_until_something_is_drawn():
    pair, generator = Pair(), seeded(4)
    for _ in range(8):
        indices = torch.randint(len(TAGS), (6,), generator=generator)
        pair.update(indices.tolist(), torch.rand(6, dtype=torch.float64, generator=generator).tolist())
    before, scores = pair.check(), torch.rand(len(TAGS), dtype=torch.float64, generator=generator)
    pair.fast.rescore(scores)
    pair.naive.loss = [new if old < float("inf") else old for old, new in zip(pair.naive.loss, scores, strict=True)]
    assert torch.equal(pair.check(), before)
    pair.update([2, 8, 20], [0.5, 0.1, 0.9])
    assert not torch.equal(pair.check(), before)
