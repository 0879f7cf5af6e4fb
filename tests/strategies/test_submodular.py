from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import Scores, SubmodularBatchSelection

N, D, C = 60, 4, 3
TAGS = torch.arange(N) % 4
EXACT = 1e-300  # ε with which all are compared


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(seed: int = 0) -> Scores:
    generator = seeded(seed)
    features = torch.randn(N, D, dtype=torch.float64, generator=generator)
    features[5] = features[6]  # duplicates
    logits = 3 * torch.randn(N, C, dtype=torch.float64, generator=generator)
    return Scores(features=features, logits=logits)


class Recording(SubmodularBatchSelection):
    """Keeps what was compared, given which picks."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.compared: list[tuple[Tensor, Tensor]] = []

    def _scores(self, candidates: Tensor, picked: Tensor, picks: Tensor, total: Tensor) -> Tensor:
        self.compared.append((candidates.clone(), picks.clone()))
        return super()._scores(candidates, picked, picks, total)


def started(**options: Any) -> Recording:
    strategy = Recording(**options)
    strategy.start(Bins(TAGS))
    return strategy


def knowing(seed: int = 0, **options: Any) -> Recording:
    strategy = started(**options)
    wanted = strategy.wanted()
    assert wanted is not None
    found = scores(seed)
    assert found.features is not None
    assert found.logits is not None
    strategy.refresh(wanted, Scores(features=found.features[wanted], logits=found.logits[wanted]))
    return strategy


class Oracle:
    """The terms of F by loops."""

    def __init__(self, found: Scores) -> None:
        assert found.features is not None
        assert found.logits is not None
        self.phi: list[list[float]] = found.features.tolist()
        self.logits: list[list[float]] = found.logits.tolist()
        self.mean = [math.fsum(row[d] for row in self.phi) / len(self.phi) for d in range(D)]

    def entropy(self, x: int) -> float:
        total = math.fsum(math.exp(z) for z in self.logits[x])
        p = [math.exp(z) / total for z in self.logits[x]]
        return -math.fsum(q * math.log(q) for q in p)

    def match_features(self, x: int) -> list[float]:
        positive = [max(value, 0.0) for value in self.phi[x]]
        total = math.fsum(math.exp(value) for value in positive)
        return [math.exp(value) / total for value in positive]

    def match(self, batch: list[int]) -> float:
        rows = [self.match_features(x) for x in batch]
        return math.fsum(math.sqrt(math.fsum(row[d] for row in rows)) for d in range(D))

    def terms(self, x: int, batch: list[int]) -> list[float]:
        """Uncertainty, redundancy, closeness and match of a candidate, given the picks."""
        nearest = min((math.dist(self.phi[x], self.phi[s]) for s in batch), default=0.0)
        return [self.entropy(x), nearest, -math.dist(self.phi[x], self.mean), self.match([*batch, x])]

    def gains(self, candidates: list[int], batch: list[int], lambdas: list[float], normalise: bool) -> list[float]:
        rows = [[w * term for w, term in zip(lambdas, self.terms(x, batch), strict=True)] for x in candidates]
        if normalise:
            sums = [math.fsum(row[k] for row in rows) for k in range(4)]
            rows = [[row[k] / sums[k] if sums[k] else 0.0 for k in range(4)] for row in rows]
        return [math.fsum(row) for row in rows]


def check_picks(strategy: Recording, found: Scores, lambdas: list[float], normalise: bool, picked: Tensor) -> None:
    """Of what was compared the best was picked, each time."""
    oracle = Oracle(found)
    last = strategy.compared[-len(picked) :]
    for step, (candidates, picks) in enumerate(last):
        assert picks[0].tolist() == picked[:step].tolist()
        compared = candidates[0].tolist()
        gains = oracle.gains(compared, picks[0].tolist(), lambdas, normalise)
        assert gains[compared.index(int(picked[step]))] >= max(gains) - 1e-9


LAMBDAS = [
    [0.2, 0.1, 0.5, 0.2],
    [1.0, 0.0, 0.0, 0.0],
    [0.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
    [0.3, 2.0, 0.1, 5.0],
]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("epsilon", [EXACT, math.exp(-2)])
@pytest.mark.parametrize("lambdas", LAMBDAS)
def test_each_pick_is_the_best_of_those_compared(lambdas: list[float], epsilon: float, normalise: bool):
    options = dict(zip(("uncertainty", "redundancy", "closeness", "match"), lambdas, strict=True))
    strategy = knowing(**options, epsilon=epsilon, normalise=normalise, partitions=1)
    generator = seeded(1)
    for _ in range(4):
        before = len(strategy.compared)
        draw = strategy.draw(8, generator)
        assert len(strategy.compared) == before + 8
        check_picks(strategy, scores(), lambdas, normalise, draw.indices)


def test_the_exact_batch_is_the_naive_greedy_one():
    strategy = knowing(epsilon=EXACT, partitions=1)
    oracle, left = Oracle(scores()), list(range(N))
    generator = seeded()
    for _ in range(7):
        batch: list[int] = []
        for _ in range(8):
            gains = oracle.gains(left, batch, LAMBDAS[0], False)
            best = left[gains.index(max(gains))]
            batch.append(best)
            left.remove(best)
        drawn = strategy.draw(8, generator).indices.tolist()
        # Twins may change places.
        assert [5 if x == 6 else x for x in drawn] == [5 if x == 6 else x for x in batch]


def test_a_pick_by_hand():
    # Instances on a line at 0, 1, 2 and 9, mean 3; only redundancy and closeness, 1 and 1.
    strategy = SubmodularBatchSelection(0, 1, 1, 0, epsilon=EXACT, partitions=1)
    strategy.start(Bins(torch.zeros(4, dtype=torch.int64)))
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]], dtype=torch.float64)
    strategy.refresh(torch.arange(4), Scores(features=features, logits=torch.zeros(4, 2, dtype=torch.float64)))
    # First the closest to 3: 2. Then 0 gains 2 − 3, 1 gains 1 − 2, 9 gains 7 − 6 = 1.
    # Then 0 gains 2 − 3 and 1 gains 1 − 2: equal, either.
    drawn = strategy.draw(3, seeded()).indices.tolist()
    assert drawn[:2] == [2, 3]


def test_normalised_terms_prefer_what_is_far_from_the_mean():
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]], dtype=torch.float64)
    for normalise, expected in ((False, 2), (True, 3)):
        strategy = SubmodularBatchSelection(0, 0, 1, 0, epsilon=EXACT, partitions=1, normalise=normalise)
        strategy.start(Bins(torch.zeros(4, dtype=torch.int64)))
        strategy.refresh(torch.arange(4), Scores(features=features, logits=torch.zeros(4, 2, dtype=torch.float64)))
        assert strategy.draw(1, seeded()).indices.tolist() == [expected]


def test_normalised_the_lambdas_cancel():
    one = knowing(normalise=True, partitions=1, epsilon=EXACT)
    other = knowing(normalise=True, partitions=1, epsilon=EXACT, uncertainty=3, redundancy=7, closeness=0.1, match=9)
    assert torch.equal(one.draw(12, seeded()).indices, other.draw(12, seeded()).indices)


def test_as_many_are_compared_as_the_algorithm_says_and_all_of_them_are_left():
    strategy = knowing(partitions=1, epsilon=math.exp(-2))
    seen: set[int] = set()
    for _ in range(3):
        draw = strategy.draw(10, seeded(7))
        for (candidates, picks), left in zip(strategy.compared[-10:], range(N - len(seen), 0, -1), strict=False):
            expected = math.ceil((N - len(seen)) / 10 * 2)
            assert candidates.shape == (1, min(expected, left))
            assert not set(candidates[0].tolist()) & (seen | set(picks[0].tolist()))
        seen |= set(draw.indices.tolist())


def test_each_pick_compares_other_random_instances():
    strategy = knowing(partitions=1, epsilon=math.exp(-2))
    strategy.draw(10, seeded())
    compared = [tuple(candidates[0].tolist()) for candidates, _ in strategy.compared]
    assert len(set(compared)) == 10
    assert len({x for row in compared for x in row}) > 40


def test_parts_are_picked_from_first_and_then_their_picks():
    strategy = knowing(partitions=5, epsilon=EXACT)
    drawn = strategy.draw(4, seeded()).indices
    assert [candidates.shape for candidates, _ in strategy.compared] == [(5, 12 - k) for k in range(4)] + [
        (1, 20 - k) for k in range(4)
    ]
    parts = strategy.compared[0][0]
    assert len(parts.unique()) == 60
    union = strategy.compared[4][0][0].tolist()
    for row, part in enumerate(parts):
        own = [x for x in union if x in part.tolist()]
        assert own[:3] == strategy.compared[3][1][row].tolist()
    check_picks(strategy, scores(), LAMBDAS[0], False, drawn)


def test_too_small_parts_are_not_made():
    strategy = knowing(partitions=10, epsilon=EXACT)
    strategy.draw(8, seeded())
    assert strategy.compared[0][0].shape == (1, N)


# --- Passes and epochs ---


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("known", [True, False])
def test_a_pass_is_without_replacement(partitions: int, known: bool):
    strategy = (knowing if known else started)(partitions=partitions)
    generator = seeded()
    for _ in range(3):  # 60 instances are 8 batches of 7, and 4 are left over
        drawn = torch.cat([strategy.draw(7, generator).indices for _ in range(8)])
        assert len(drawn.unique()) == 56


def test_after_a_share_of_the_data_all_are_eligible_again():
    strategy = knowing(share=0.2, epsilon=EXACT, partitions=1)
    batches = [strategy.draw(6, seeded()).indices.tolist() for _ in range(4)]
    # Two batches are a fifth of the data; nothing has changed, so that the third is as the first.
    assert batches[2:] == batches[:2]
    assert not set(batches[0]) & set(batches[1])


def test_before_anything_is_known_batches_are_random():
    strategy = started()
    first = torch.cat([strategy.draw(6, seeded(k)).indices for k in range(10)])
    assert sorted(first.tolist()) == list(range(N))
    assert first.tolist() != list(range(N))
    assert strategy.compared == []


def test_all_are_scored_at_the_start_and_every_so_many_epochs():
    strategy = started(refresh_epochs=3)
    strategy.plan(45, 5)
    asked = []
    for epoch in range(9):
        for batch in range(6):  # before the epoch, and after each batch
            wanted = strategy.wanted()
            if wanted is not None:
                assert torch.equal(wanted, torch.arange(N))
                strategy.refresh(wanted, scores(epoch))
                asked.append((epoch, batch))
            if batch < 5:
                strategy.draw(6, seeded())
    # After the last batches of the third and the sixth epoch; after the ninth nothing is drawn any more.
    assert asked == [(0, 0), (2, 5), (5, 5)]
    strategy.plan(50, 5)
    assert strategy.wanted() is not None


def test_in_a_new_training_all_are_scored_as_often():
    strategy = started(refresh_epochs=2)
    strategy.plan(20, 5)
    asked = []
    for training in range(2):
        strategy.begin()
        for epoch in range(4):
            strategy.start_epoch(seeded())
            for _ in range(5):
                wanted = strategy.wanted()
                if wanted is not None:
                    strategy.refresh(wanted, scores(epoch))
                    asked.append((training, epoch))
                strategy.draw(6, seeded())
        assert strategy.wanted() is None  # nothing is drawn any more
    assert asked == [(0, 0), (0, 2), (1, 0), (1, 2)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_are_compared_in_float32(dtype: torch.dtype):
    strategy, found = started(epsilon=EXACT, partitions=1), scores()
    assert found.features is not None
    half = (300 * found.features).to(dtype)  # whose squares are more than float16 holds
    strategy.refresh(torch.arange(N), found._replace(features=half))
    assert strategy.state_dict()["features"].dtype == torch.float32
    single = started(epsilon=EXACT, partitions=1)
    single.refresh(torch.arange(N), found._replace(features=half.float()))
    assert torch.equal(strategy.draw(10, seeded()).indices, single.draw(10, seeded()).indices)
    assert bool(strategy._distances.isfinite().all())


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, C, 4)])
def test_logits_that_are_no_row_per_instance_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"logits \(M, C\) with C ≥ 2, but they are \(60.*: let `logits_from` name"):
        started().refresh(torch.arange(N), scores()._replace(logits=torch.zeros(shape).double()))


def test_scores_in_any_order_are_those_of_their_instances():
    strategy, shuffled, found = started(), torch.randperm(N, generator=seeded()), scores()
    assert found.features is not None
    assert found.logits is not None
    strategy.refresh(shuffled, Scores(features=found.features[shuffled], logits=found.logits[shuffled]))
    assert torch.equal(strategy.draw(10, seeded()).indices, knowing().draw(10, seeded()).indices)


def test_float32_features_pick_the_same():
    strategy, found = started(epsilon=EXACT, partitions=1), scores()
    assert found.features is not None
    strategy.refresh(torch.arange(N), found._replace(features=found.features.float() + 100))  # far from the origin
    moved = started(epsilon=EXACT, partitions=1, match=0)
    assert len(strategy.draw(10, seeded()).indices.unique()) == 10
    moved.refresh(torch.arange(N), found._replace(features=found.features.float() + 100))
    here = knowing(epsilon=EXACT, partitions=1, match=0)
    same = moved.draw(10, seeded()).indices == here.draw(10, seeded()).indices
    assert int(same.sum()) >= 8  # but for the twins


# --- State, degenerate inputs, arguments ---


@pytest.mark.parametrize("known", [True, False])
def test_a_restored_state_goes_on_bit_exactly(known: bool):
    generator = seeded()
    strategy = (knowing if known else started)(share=0.7)
    strategy.plan(None, 2)
    for _ in range(4):
        strategy.draw(8, generator)
    buffer = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other, other_generator = started(share=0.7), torch.Generator()
    other.plan(None, 2)
    other.load_state_dict(state["strategy"])
    other_generator.set_state(state["generator"])
    asked = 0
    for step in range(12):
        assert (strategy.wanted() is None) == (other.wanted() is None)
        asked += strategy.wanted() is not None
        if step == 7:
            for it in (strategy, other):
                it.refresh(torch.arange(N), scores(3))
        ours, theirs = strategy.draw(8, generator), other.draw(8, other_generator)
        assert torch.equal(ours.indices, theirs.indices)
        assert strategy.metrics() == other.metrics()
    assert asked == (2 if known else 8)  # ten draws are five epochs, then at once


def test_the_state_is_a_copy():
    strategy = knowing()
    state = strategy.state_dict()
    kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    strategy.draw(8, seeded())
    strategy.refresh(torch.arange(N), scores(4))
    assert all(torch.equal(state[name], kept[name]) for name in ("left", "features", "entropy"))


@pytest.mark.parametrize("normalise", [False, True])
def test_degenerate_data(normalise: bool):
    # All alike, and certain to the last bit.
    strategy = started(normalise=normalise)
    logits = torch.tensor([1e4, 0.0, -1e4], dtype=torch.float64).expand(N, C)
    strategy.refresh(torch.arange(N), Scores(features=torch.zeros(N, D), logits=logits))
    drawn = torch.cat([strategy.draw(15, seeded(k)).indices for k in range(4)])
    assert sorted(drawn.tolist()) == list(range(N))
    strategy.update(strategy.draw(2, seeded()), torch.tensor([math.nan, 1.0]).double(), torch.zeros(2).double())
    assert all(math.isfinite(value) for value in strategy.metrics().values())


def test_one_instance():
    strategy = SubmodularBatchSelection()
    strategy.start(Bins([0]))
    strategy.refresh(torch.tensor([0]), Scores(features=torch.ones(1, 2), logits=torch.zeros(1, 2).double()))
    for _ in range(3):
        assert strategy.draw(1, seeded()).indices.tolist() == [0]


def test_draws_say_their_bins_and_a_share_of_the_data_each():
    strategy = knowing()
    draw: Draw = strategy.draw(9, seeded())
    assert torch.equal(draw.bins, TAGS[draw.indices])
    assert draw.probabilities.tolist() == [1 / N] * 9
    assert draw.weights is None
    assert strategy.probabilities().tolist() == [1 / N] * N


def test_errors():
    with pytest.raises(ValueError, match="A batch of 61 without replacement is more than all 60 instances"):
        started().draw(61, seeded())


def test_what_is_not_finite_counts_as_certain_and_without_features():
    strategy, found = started(epsilon=EXACT), scores()
    assert found.features is not None
    assert found.logits is not None
    found.features[3, 1], found.logits[4, 0] = math.nan, math.inf
    strategy.refresh(torch.arange(N), found)
    assert strategy.skipped == 2
    state = strategy.state_dict()
    assert state["features"][[3, 4]].abs().sum() == 0
    assert state["entropy"][[3, 4]].tolist() == [0, 0]
    assert len(strategy.draw(60, seeded()).indices.unique()) == 60


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"closeness": -0.5}, ValueError, "`closeness` must be finite and not negative, got -0.5"),
        ({"match": math.inf}, ValueError, "`match` must be finite and not negative, got inf"),
        ({"refresh_epochs": 0}, ValueError, "`refresh_epochs` must be at least 1, got 0"),
        ({"partitions": 2.5}, TypeError, "`partitions` must be an integer, got 2.5"),
        ({"epsilon": 1.0}, ValueError, r"`epsilon` must be in \(0, 1\), got 1.0"),
        ({"share": 0.0}, ValueError, r"`share` must be in \(0, 1\], got 0.0"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        SubmodularBatchSelection(**options)
