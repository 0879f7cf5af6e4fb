import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies import Scores, SubmodularBatchSelection
from lightning_as.strategies.scores import entropies_of
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import started

N, D, C = 60, 4, 3
EXACT = 1e-300  # ε with which all are compared
LAMBDAS = [0.2, 0.1, 0.5, 0.2]


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and logits; 5 and 6 are twins."""
    generator = seeded(seed)
    features = torch.randn(N, D, dtype=torch.float64, generator=generator)
    features[5] = features[6]
    return features, 3 * torch.randn(N, C, dtype=torch.float64, generator=generator)


class Recording(SubmodularBatchSelection):
    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.compared: list[tuple[Tensor, Tensor]] = []

    def _scores(self, candidates: Tensor, picked: Tensor, picks: Tensor, total: Tensor) -> Tensor:
        self.compared.append((candidates.clone(), picks.clone()))
        return super()._scores(candidates, picked, picks, total)


def new(size: int = N, **options: Any) -> Recording:
    return started(Recording(**{"epsilon": EXACT, "partitions": 1, **options}), size, None)


def knowing(found: tuple[Tensor, Tensor] | None = None, **options: Any) -> Recording:
    features, logits = scores() if found is None else found
    strategy, order = new(len(features), **options), torch.randperm(len(features), generator=seeded(9))
    strategy.refresh(order, Scores(features=features[order], entropies=entropies_of(logits[order])))
    return strategy


class Oracle:
    def __init__(self) -> None:
        self.phi, self.logits = (part.tolist() for part in scores())
        self.mean = [math.fsum(row[d] for row in self.phi) / N for d in range(D)]

    def softmax(self, values: list[float]) -> list[float]:
        total = math.fsum(math.exp(value) for value in values)
        return [math.exp(value) / total for value in values]

    def terms(self, x: int, batch: list[int]) -> list[float]:
        """Uncertainty, redundancy, closeness and match of a candidate, given the picks."""
        entropy = -math.fsum(q * math.log(q) for q in self.softmax(self.logits[x]))
        nearest = min((math.dist(self.phi[x], self.phi[s]) for s in batch), default=0.0)
        rows = [self.softmax([max(value, 0.0) for value in self.phi[s]]) for s in [*batch, x]]
        match = math.fsum(math.sqrt(math.fsum(row[d] for row in rows)) for d in range(D))
        return [entropy, nearest, -math.dist(self.phi[x], self.mean), match]

    def gains(self, candidates: list[int], batch: list[int], lambdas: list[float], normalise: bool) -> list[float]:
        rows = [[w * term for w, term in zip(lambdas, self.terms(x, batch), strict=True)] for x in candidates]
        if normalise:
            sums = [math.fsum(row[k] for row in rows) for k in range(4)]
            rows = [[row[k] / sums[k] if sums[k] else 0.0 for k in range(4)] for row in rows]
        return [math.fsum(row) for row in rows]

    def check(self, strategy: Recording, picked: list[int], lambdas: list[float], normalise: bool = False) -> None:
        for step, (candidates, picks) in enumerate(strategy.compared[-len(picked) :]):
            assert picks[0].tolist() == picked[:step]
            gains = self.gains(candidates[0].tolist(), picked[:step], lambdas, normalise)
            assert gains[candidates[0].tolist().index(picked[step])] >= max(gains) - 1e-9


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("epsilon", [EXACT, math.exp(-2)])
@pytest.mark.parametrize("lambdas", [LAMBDAS, [0.0, 1.0, 0.0, 0.0], [0.3, 2.0, 0.1, 5.0]])
def test_each_pick_is_the_best_of_as_many_as_the_algorithm_says(lambdas: list[float], epsilon: float, normalise: bool):
    options = dict(zip(("uncertainty", "redundancy", "closeness", "match"), lambdas, strict=True))
    strategy, generator = knowing(**options, epsilon=epsilon, normalise=normalise), seeded(1)
    seen: set[int] = set()
    for _ in range(4):
        picked = strategy.draw(8, generator).indices.tolist()
        Oracle().check(strategy, picked, lambdas, normalise)
        for step, (candidates, _) in enumerate(strategy.compared[-8:]):
            left = N - len(seen) - step
            assert candidates.shape == (1, min(left, math.ceil((N - len(seen)) / 8 * -math.log(epsilon))))
            assert not set(candidates[0].tolist()) & (seen | set(picked[:step]))
        seen |= set(picked)
    assert len(seen) == 32
    assert len({tuple(candidates[0].tolist()) for candidates, _ in strategy.compared}) == 32  # others each time


def test_parts_are_picked_from_first_and_then_their_picks():
    strategy = knowing(partitions=5)
    drawn = strategy.draw(4, seeded()).indices.tolist()
    shapes = [tuple(candidates.shape) for candidates, _ in strategy.compared]
    assert shapes == [(5, 12 - k) for k in range(4)] + [(1, 20 - k) for k in range(4)]
    parts, union = strategy.compared[0][0], strategy.compared[4][0][0].tolist()
    assert len(parts.unique()) == 60
    for row, part in enumerate(parts.tolist()):
        assert [x for x in union if x in part][:3] == strategy.compared[3][1][row].tolist()
    Oracle().check(strategy, drawn, LAMBDAS)
    strategy = knowing(partitions=10)  # parts that are smaller than a batch are not made
    strategy.draw(8, seeded())
    assert strategy.compared[0][0].shape == (1, N)


@pytest.mark.parametrize("options", [{"partitions": 1}, {"partitions": 3, "epsilon": math.exp(-5)}])
@pytest.mark.parametrize("make", [knowing, new])
def test_a_pass_is_without_replacement(make: Any, options: dict[str, float]):
    strategy, generator = make(**options), seeded()
    for _ in range(3):  # 60 instances are 8 batches of 7, and 4 are left over
        drawn = torch.cat([strategy.draw(7, generator).indices for _ in range(8)])
        assert len(drawn.unique()) == 56
        assert drawn.tolist() != sorted(drawn.tolist())
    assert (strategy.compared == []) == (make is new)  # before anything is known batches are random


def test_after_a_share_of_the_data_all_are_eligible_again():
    strategy = knowing(share=0.2)
    batches = [strategy.draw(6, seeded()).indices.tolist() for _ in range(4)]
    # Two batches are a fifth of the data; nothing has changed, so that the third is as the first.
    assert batches[2:] == batches[:2]
    assert not set(batches[0]) & set(batches[1])


def test_all_are_scored_at_the_start_and_every_so_many_epochs_of_each_training():
    strategy, asked = new(refresh_epochs=3), []
    strategy.plan(45, 5)
    for training in range(2):
        strategy.progress.reset()
        for epoch in range(9):
            for batch in range(6):  # before the epoch, and after each batch
                wanted = strategy.wanted()
                if wanted is not None:
                    assert torch.equal(wanted, torch.arange(N))
                    strategy.refresh(wanted, Scores(features=scores()[0], entropies=entropies_of(scores()[1])))
                    asked.append((training, epoch, batch))
                if batch == 0:
                    strategy.start_epoch(seeded())
                if batch < 5:
                    strategy.draw(6, seeded())
                    strategy.progress.step()
    # After the last batches of the third and the sixth epoch; after the ninth nothing is drawn any more.
    assert asked == [(0, 0, 0), (0, 2, 5), (0, 5, 5), (1, 0, 0), (1, 2, 5), (1, 5, 5)]


def test_features_of_half_precision_and_those_far_from_the_origin_are_compared_in_float32():
    features, logits = scores()
    half = (300 * features).half()  # whose squares are more than float16 holds
    strategy, single = knowing((half, logits)), knowing((half.float(), logits))
    assert strategy.state_dict()["features"].dtype == torch.float32
    assert torch.equal(strategy.draw(10, seeded()).indices, single.draw(10, seeded()).indices)
    strategy, moved = knowing(match=0), knowing((features.float() + 100, logits), match=0)
    equal = strategy.draw(10, seeded()).indices == moved.draw(10, seeded()).indices
    assert int(equal.sum()) >= 8  # but for the twins


def test_what_is_not_finite_counts_as_certain_and_without_features():
    features, logits = scores()
    features[3, 1], logits[4, 0] = math.nan, math.inf
    strategy = knowing((features, logits))
    assert strategy.skipped == 2
    state = strategy.state_dict()
    assert (state["features"][[3, 4]].abs().sum(), state["entropy"][[3, 4]].sum()) == (0, 0)
    assert len(strategy.draw(60, seeded()).indices.unique()) == 60
    certain = double(1e4, 0.0, -1e4).expand(N, C)  # to the last bit; and all alike
    strategy = knowing((torch.zeros(N, D), certain), normalise=True)
    assert len(torch.cat([strategy.draw(15, seeded(k)).indices for k in range(4)]).unique()) == N


def test_a_batch_of_more_than_all_is_refused():
    with pytest.raises(ValueError, match="A batch of 61 without replacement is more than all 60 instances"):
        new().draw(61, seeded())
