from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import InfoBatch

SIZE = 60


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(size: int = SIZE, epochs: int = 1000, batches: int = 6, **options: Any) -> InfoBatch:
    strategy = InfoBatch(**options)
    strategy.start(Bins(torch.arange(size) % 3))
    strategy.plan(epochs * batches, batches)
    return strategy


def fixed(indices: Tensor) -> Tensor:
    """A loss for each instance: with exact zeros and ties."""
    return ((indices * 7) % 10).double().clamp(min=2) - 2


def trained(strategy: InfoBatch, epochs: int, batches: int, size: int, generator: torch.Generator) -> Iterator[Draw]:
    """The batches of a training whose losses are fixed."""
    for _ in range(epochs):
        strategy.start_epoch(generator)
        for _ in range(batches):
            draw = strategy.draw(size, generator)
            yield draw
            strategy.update(draw, fixed(draw.indices), torch.zeros(size, dtype=torch.float64))


def after_a_pass(generator: torch.Generator, **options: Any) -> InfoBatch:
    strategy = started(**options)
    list(trained(strategy, 1, 6, 10, generator))
    return strategy


def one_pass(strategy: InfoBatch, generator: torch.Generator) -> Draw:
    """The whole of the next pass, as one batch; as long as the mean loss says."""
    losses = fixed(torch.arange(SIZE))
    below = int((losses < losses.mean()).sum())
    return strategy.draw(SIZE - below + int((1 - strategy.prune_share) * below + 1e-9), generator)


def test_the_first_pass_prunes_nothing():
    strategy = started()
    draws = list(trained(strategy, 1, 6, 10, seeded()))
    assert torch.cat([draw.indices for draw in draws]).sort().values.tolist() == list(range(SIZE))
    for draw in draws:
        assert draw.weights is not None
        assert draw.weights.tolist() == [1.0] * 10
        assert draw.probabilities.tolist() == [1 / SIZE] * 10


@pytest.mark.parametrize("prune_share", [0.0, 0.25, 0.5, 0.9])
def test_passes_agree_with_the_rule_in_plain_python(prune_share):
    strategy = after_a_pass(seeded(1), prune_share=prune_share)
    losses = fixed(torch.arange(SIZE)).tolist()
    mean = math.fsum(losses) / SIZE
    below = {i for i in range(SIZE) if losses[i] < mean}
    kept = math.floor((1 - prune_share) * len(below) + 1e-9)
    generator = seeded(2)
    chosen = []
    for _ in range(40):
        draw = one_pass(strategy, generator)
        listed = draw.indices.tolist()
        assert len(set(listed)) == len(listed) == SIZE - len(below) + kept
        assert set(range(SIZE)) - below <= set(listed)
        assert draw.weights is not None
        for i, weight, r in zip(listed, draw.weights.tolist(), draw.probabilities.tolist(), strict=True):
            assert weight == (1 / (1 - prune_share) if i in below else 1)
            chance = kept / len(below) if i in below else 1
            assert r == pytest.approx(chance / len(listed), rel=1e-12)
        chosen.append(tuple(sorted(set(listed) & below)))
        assert listed != sorted(listed)
    assert len(set(chosen)) > 30 or prune_share == 0
    assert 0 < len(below) < SIZE


def test_a_pass_is_unbiased_for_the_sum_over_the_data():
    """Each candidate is kept in half of many passes, within 5 standard errors; batches are unbiased by r, exactly."""
    strategy, generator = after_a_pass(seeded(3)), seeded(4)
    counts, total, passes = torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.float64), 4000
    for _ in range(passes):
        draw = one_pass(strategy, generator)
        counts[draw.indices] += 1
        total[draw.indices] += draw.weights
    losses = fixed(torch.arange(SIZE))
    below = losses < losses.mean()
    assert int(below.sum()) % 2 == 0
    assert (counts[~below] == passes).all()
    assert (counts[below] / passes - 0.5).abs().max() < 5 * 0.5 / passes**0.5
    assert (total / passes - 1).abs().max() < 5 / passes**0.5
    # What makes the mean over a batch unbiased: any one draw has the law r.
    law = strategy.probabilities()
    assert law.sum().item() == pytest.approx(1, rel=1e-12)
    expected = torch.where(below, 0.5, 1.0) / (SIZE - int(below.sum()) / 2)
    torch.testing.assert_close(law, expected.double(), rtol=1e-6, atol=0)
    draw = strategy.draw(5, generator)
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 30])
@pytest.mark.parametrize("prune_share", [0.5, 0.9, 0.3])
def test_candidates_that_are_kept_are_rounded_down(count, prune_share):
    strategy = started(31, prune_share=prune_share)
    assert strategy._kept(count) == (count * round(10 * (1 - prune_share))) // 10


@pytest.mark.parametrize("epochs", [50, 30, 10, 8, 1])
@pytest.mark.parametrize("batches", [6, 7])
def test_it_ends_with_all_weights_1_and_whole_passes(epochs, batches):
    strategy, generator = started(epochs=epochs, batches=batches), seeded(5)
    draws = list(trained(strategy, epochs, batches, 10, generator))
    end = int(0.875 * epochs * batches)
    after = draws[end:]
    assert all(draw.weights is not None and (draw.weights == 1).all() for draw in after)
    assert any((draw.weights == 2).any() for draw in draws[:end] if draw.weights is not None) == (epochs > 1)
    rest = torch.cat([draw.indices for draw in after]) if after else torch.empty(0, dtype=torch.int64)
    if epochs > 1:  # the pass that is dropped was pruned; otherwise the first one just goes on
        for start in range(0, len(rest) - SIZE + 1, SIZE):
            assert rest[start : start + SIZE].sort().values.tolist() == list(range(SIZE))


def test_epochs_that_are_cut_short_count_as_whole_ones():
    """Workers may have drawn ahead, or not: what counts are epochs, and batches within one."""
    strategy, generator = started(epochs=8, batches=6), seeded(6)
    for _ in range(7):
        strategy.start_epoch(generator)
        assert strategy.pruning
        for _ in range(3):
            strategy.draw(10, generator)
    strategy.start_epoch(generator)
    assert not strategy.pruning


def test_a_new_training_prunes_again_by_the_scores_so_far():
    strategy, generator = started(epochs=3), seeded(11)
    list(trained(strategy, 3, 6, 10, generator))
    assert not strategy.pruning
    scores = strategy.state_dict()["scores"]
    strategy.begin()
    strategy.plan(18, 6)
    assert strategy.pruning
    assert strategy.metrics()["pruned"] > 0
    assert torch.equal(strategy.state_dict()["scores"], scores)
    list(trained(strategy, 3, 6, 10, generator))
    assert not strategy.pruning


def test_a_training_that_ends_amid_an_epoch_is_as_long_as_it_is():
    strategy, generator = started(delta=0.5), seeded(12)
    strategy.plan(9, 6)
    seen = []
    for _ in range(2):
        strategy.start_epoch(generator)
        for _ in range(6):
            seen.append(strategy.pruning)
            strategy.draw(10, generator)
    assert seen == [True] * 4 + [False] * 8


def test_with_delta_1_it_prunes_to_the_end_and_needs_no_end():
    strategy = InfoBatch(delta=1)
    strategy.start(Bins.single(SIZE))
    strategy.plan(None, 6)
    draws = list(trained(strategy, 20, 6, 10, seeded(7)))
    assert (draws[-1].weights == 2).any() or (draws[-2].weights == 2).any()


def test_without_an_end_of_training_a_share_of_it_is_an_error():
    strategy = InfoBatch()
    strategy.start(Bins.single(SIZE))
    with pytest.raises(ValueError, match=r"`delta=0.875` is a share of the training.*set `max_epochs`"):
        strategy.plan(None, 6)


def test_the_last_of_duplicates_counts_and_others_keep_their_scores():
    strategy = started(4)
    draw = Draw(torch.tensor([2, 0, 2]), torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.25).double())
    strategy.update(draw, torch.tensor([5.0, 1.0, 0.5]).double(), torch.zeros(3).double())
    assert strategy.state_dict()["scores"].tolist() == [1.0, 3.0, 0.5, 3.0]
    assert strategy.metrics() == {"pruned": 0.25, "mean_score": 1.875}


def test_equal_losses_prune_nothing_whatever_their_mean_rounds_to():
    strategy, generator = started(), seeded(8)
    everything = strategy.draw(SIZE, generator)
    for loss in (0.1, 0.7, 1e-300, 0.0, 1e99, -0.1):
        strategy.update(everything, torch.full((SIZE,), loss, dtype=torch.float64), torch.zeros(SIZE).double())
        assert strategy.metrics()["pruned"] == 0
        assert (strategy.draw(SIZE, generator).weights == 1).all()


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf, 1e300, 5e-324])
@pytest.mark.parametrize("size", [1, 2, SIZE])
def test_odd_losses_leave_passes_that_go_on(loss, size):
    strategy, generator = started(size), seeded(9)
    for step in range(12):
        draw, losses = strategy.draw(7, generator), torch.rand(7, dtype=torch.float64, generator=generator)
        losses[:: 1 + step % 3] = loss
        strategy.update(draw, losses, losses)
        assert strategy.probabilities().sum().item() == pytest.approx(1, rel=1e-12)
        assert all(math.isfinite(figure) for figure in strategy.metrics().values())
        assert (draw.probabilities > 0).all()


@pytest.mark.parametrize("steps", [0, 3, 17, 50])
def test_a_restored_state_goes_on_amid_a_pass(steps):
    generator = seeded(10)
    strategy = started(epochs=10)
    training = trained(strategy, 10, 6, 10, generator)
    for _ in range(steps):
        next(training)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(epochs=10), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    for step in range(60 - steps):
        for one, source in ((strategy, generator), (restored, other)):
            if step % 6 == 0:
                one.start_epoch(source)
        draw, expected = strategy.draw(10, generator), restored.draw(10, other)
        for mine, its in zip(draw, expected, strict=True):
            assert (mine is None and its is None) or torch.equal(mine, its)
        for one in (strategy, restored):
            one.update(draw, fixed(draw.indices), fixed(draw.indices))
    assert torch.equal(strategy.probabilities(), restored.probabilities())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_share": 1.0}, r"`prune_share` must be in \[0, 1\), got 1.0"),
        ({"prune_share": -0.5}, "`prune_share` must be in"),
        ({"delta": 1.5}, r"`delta` must be in \[0, 1\], got 1.5"),
        ({"delta": math.nan}, "`delta` must be in"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        InfoBatch(**options)
