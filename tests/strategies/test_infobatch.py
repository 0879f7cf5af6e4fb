import math

import pytest
import torch
from torch import Tensor

from lightning_as.core.draw import Draw
from lightning_as.strategies import InfoBatch
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import learn, started

SIZE = 60


def fixed(indices: Tensor) -> Tensor:
    """A loss for each instance: with exact zeros and ties."""
    return ((indices * 7) % 10).double().clamp(min=2) - 2


def train(strategy: InfoBatch, epochs: int, batches: int, generator: torch.Generator) -> list[Draw]:
    strategy.progress.reset()
    drawn = []
    for _ in range(epochs):
        strategy.start_epoch(generator)
        for _ in range(batches):
            drawn.append(strategy.draw(10, generator))
            strategy.progress.step()
            strategy.update(drawn[-1], fixed(drawn[-1].indices), torch.zeros(10, dtype=torch.float64))
    return drawn


@pytest.mark.parametrize("prune_share", [0.0, 0.25, 0.5, 0.9])
def test_passes_agree_with_the_rule_in_plain_python(prune_share: float):
    strategy = started(InfoBatch(prune_share), SIZE)
    train(strategy, 1, 6, seeded(1))
    losses = fixed(torch.arange(SIZE)).tolist()
    below = {i for i in range(SIZE) if losses[i] < math.fsum(losses) / SIZE}
    kept = len(below) * round(100 - 100 * prune_share) // 100  # of 30 with 0.9 it is 3, not 2.99…
    length = SIZE - len(below) + kept
    chances = [(kept / len(below) if i in below else 1) / length for i in range(SIZE)]
    torch.testing.assert_close(strategy.probabilities(), double(*chances), rtol=1e-12, atol=0)
    assert strategy.metrics()["pruned"] == pytest.approx((len(below) - kept) / SIZE)
    chosen, generator = [], seeded(2)
    for _ in range(40):
        draw = strategy.draw(length, generator)  # the whole of the next pass
        listed = draw.indices.tolist()
        assert len(set(listed)) == length
        assert set(range(SIZE)) - below <= set(listed)
        torch.testing.assert_close(draw.weights, double(*(1 / (1 - prune_share) if i in below else 1 for i in listed)))
        torch.testing.assert_close(draw.probabilities, double(*chances)[draw.indices], rtol=1e-12, atol=0)
        chosen.append(tuple(sorted(set(listed) & below)))
        assert listed != sorted(listed)
    assert len(set(chosen)) > 30 or prune_share == 0


@pytest.mark.parametrize("epochs", [30, 8, 1])
@pytest.mark.parametrize("batches", [6, 7])
def test_each_training_ends_with_all_weights_1_and_whole_passes(epochs: int, batches: int):
    strategy, generator = started(InfoBatch(), SIZE, epochs * batches, batches), seeded(5)
    end = int(0.875 * epochs * batches)
    for training in range(2):  # the second prunes from the start, by the scores so far
        draws = train(strategy, epochs, batches, generator)
        heavy = [bool((draw.weights == 2).any()) for draw in draws if draw.weights is not None]
        assert not any(heavy[end:])
        assert any(heavy[:end]) == (epochs > 1 or training > 0)
        rest = torch.cat([draw.indices for draw in draws[end:]])
        if any(heavy[:end]):  # the pass that is dropped was pruned; otherwise the first one just goes on
            for start in range(0, len(rest) - SIZE + 1, SIZE):
                assert rest[start : start + SIZE].sort().values.tolist() == list(range(SIZE))


def test_the_last_of_duplicates_counts_and_others_keep_their_scores():
    strategy = started(InfoBatch(), 4)
    learn(strategy, [2, 0, 2], double(5.0, 1.0, 0.5))
    assert strategy.state_dict()["scores"].tolist() == [1.0, 3.0, 0.5, 3.0]
    assert strategy.metrics() == {"pruned": 0.25, "mean_score": 1.875}


def test_equal_losses_prune_nothing_whatever_their_mean_rounds_to():
    strategy, generator = started(InfoBatch(), SIZE), seeded(8)
    everything = strategy.draw(SIZE, generator)  # which the first pass is
    assert len(everything.indices.unique()) == SIZE
    for loss in (0.1, 0.7, 1e-300, 0.0, 1e99, -0.1):
        learn(strategy, everything.indices, torch.full((SIZE,), loss, dtype=torch.float64))
        assert strategy.metrics()["pruned"] == 0
        assert (strategy.draw(SIZE, generator).weights == 1).all()  # pyright: ignore[reportAttributeAccessIssue]
