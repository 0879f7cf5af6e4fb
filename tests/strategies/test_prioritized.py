from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import PrioritizedSampling
from tests.helpers.statistics import p_value

N, BATCH = 90, 12
NAN, INF = float("nan"), float("inf")
VARIANTS = ["proportional", "rank"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(size: int = N, epochs: int | None = 4, batches: int = 5, **options: Any) -> PrioritizedSampling:
    strategy = PrioritizedSampling(**options)
    strategy.start(Bins(torch.arange(size) % 3 if size > 2 else torch.zeros(size, dtype=torch.int64)))
    strategy.plan(None if epochs is None else epochs * batches, batches)
    return strategy


class Memory:
    """The paper's replay memory, with loops and sorts; all transitions are new at first."""

    def __init__(self, size: int, variant: str, alpha: float, epsilon: float) -> None:
        self.size, self.variant, self.alpha, self.epsilon = size, variant, alpha, epsilon
        self.error: list[float | None] = [None] * size
        self.largest = 1.0

    def above(self, index: int) -> float:
        error = self.error[index]
        return INF if error is None else error

    def law(self) -> list[float]:
        if self.variant == "rank":
            order = sorted(range(self.size), key=lambda i: (-self.above(i), i))
            priorities = [0.0] * self.size
            for rank, index in enumerate(order, start=1):
                priorities[index] = 1 / rank
        else:
            priorities = [self.largest if error is None else error + self.epsilon for error in self.error]
        powers = [priority**self.alpha for priority in priorities]
        return [power / math.fsum(powers) for power in powers]

    def update(self, indices: list[int], errors: list[float]) -> None:
        for index, error in zip(indices, errors, strict=True):
            self.error[index] = error
            self.largest = max(self.largest, error + self.epsilon)


def weights(law: list[float], indices: list[int], beta: float) -> list[float]:
    raw = [(len(law) * law[index]) ** -beta for index in indices]
    return [weight / max(raw) for weight in raw]


def random_losses(size: int, step: int, generator: torch.Generator) -> torch.Tensor:
    """Over many orders, with exact zeros and equal ones."""
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(4) * 10.0 ** (2 - step % 7)
    losses = torch.where(torch.rand(size, generator=generator) < 0.3, losses.round(decimals=1), losses)
    return torch.where(torch.rand(size, generator=generator) < 0.2, 0.0, losses)


@pytest.mark.parametrize("alpha", [None, 0.0, 1.0])
@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_law_and_the_weights_are_those_of_the_paper(variant, epsilon, alpha):
    epochs, batches = 10, 20
    strategy = started(epochs=epochs, batches=batches, variant=variant, alpha=alpha, epsilon=epsilon)
    defaults = {"proportional": (0.6, 0.4), "rank": (0.7, 0.5)}[variant]
    memory = Memory(N, variant, defaults[0] if alpha is None else alpha, epsilon)
    generator, duplicates = seeded(1), 0
    for step in range(epochs * batches):
        if step % batches == 0:
            strategy.start_epoch(generator)
        law = memory.law()
        torch.testing.assert_close(strategy.probabilities(), double(*law), rtol=1e-9, atol=0)
        draw = strategy.draw(BATCH, generator)
        torch.testing.assert_close(draw.probabilities, double(*law)[draw.indices], rtol=1e-9, atol=0)
        beta = defaults[1] + (1 - defaults[1]) * step / (epochs * batches - 1)
        assert draw.weights is not None
        assert draw.weights.tolist() == pytest.approx(weights(law, draw.indices.tolist(), beta), rel=1e-9)
        # Stratified draws rarely repeat: repeat some. They disagree, and the last counts.
        batch = draw.select(torch.randint(BATCH, (BATCH,), generator=generator))
        duplicates += BATCH - len(batch.indices.unique())
        losses = random_losses(BATCH, step, generator)
        strategy.update(batch, losses, torch.zeros(BATCH).double())
        memory.update(batch.indices.tolist(), losses.tolist())
    assert duplicates > 100


def as_drawn(*indices: int) -> Draw:
    chosen = torch.tensor(indices, dtype=torch.int64)
    return Draw(chosen, chosen % 3, torch.ones(len(indices), dtype=torch.float64))


def test_proportional_by_hand():
    strategy = started(4, alpha=1.0, epsilon=1.0)
    assert strategy.probabilities().tolist() == [0.25] * 4
    strategy.update(as_drawn(1, 2, 1), double(9.0, 1.0, 3.0), torch.zeros(3).double())
    # Priorities 4 and 2; the largest so far is 10, of the loss that no longer counts.
    assert strategy.probabilities().tolist() == pytest.approx([10 / 26, 4 / 26, 2 / 26, 10 / 26])
    strategy.update(as_drawn(0, 3), double(0.0, 1.0), torch.zeros(2).double())
    assert strategy.probabilities().tolist() == pytest.approx([1 / 9, 4 / 9, 2 / 9, 2 / 9])


def test_ranks_by_hand():
    strategy = started(4, variant="rank", alpha=1.0)
    share = [12 / 25, 6 / 25, 4 / 25, 3 / 25]
    assert strategy.probabilities().tolist() == pytest.approx(share)
    strategy.update(as_drawn(0, 2), double(9.0, 1.0), torch.zeros(2).double())
    assert strategy.probabilities().tolist() == pytest.approx([share[2], share[0], share[3], share[1]])
    strategy.update(as_drawn(3, 1), double(1.0, -5.0), torch.zeros(2).double())  # ranks do not mind a negative loss
    assert strategy.probabilities().tolist() == pytest.approx([share[0], share[3], share[1], share[2]])


def trained(steps: int, generator: torch.Generator, **options: Any) -> PrioritizedSampling:
    strategy = started(**options)
    for step in range(steps):
        train_one(strategy, generator, step)
    return strategy


def train_one(strategy: PrioritizedSampling, generator: torch.Generator, step: int) -> Draw:
    if step % 5 == 0:
        strategy.start_epoch(generator)
    draw = strategy.draw(BATCH, generator)
    strategy.update(draw, random_losses(BATCH, step, generator), torch.zeros(BATCH).double())
    return draw


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_has_one_draw_from_each_equal_share_and_all_follow_the_law(variant, size):
    strategy, generator = trained(25, seeded(2), variant=variant), seeded(3)
    law = strategy.probabilities()
    batches = torch.stack([strategy.draw(size, generator).indices for _ in range(-(-20_000 // size))])
    assert p_value(batches.flatten(), law) > 1e-3
    order = torch.arange(N) if variant == "proportional" else law.argsort(descending=True)
    above = torch.empty(N, dtype=torch.float64)
    above[order] = law[order].cumsum(0)
    shares = torch.arange(size) / size
    assert (above[batches] > shares - 1e-12).all()
    assert ((above - law)[batches] < shares + 1 / size + 1e-12).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_beta_1_the_weighted_mean_of_a_batch_is_unbiased_before_the_common_factor(variant):
    strategy, generator = trained(25, seeded(4), variant=variant, beta_start=1.0), seeded(5)
    values = torch.rand(N, dtype=torch.float64, generator=generator)
    means = []
    for _ in range(3000):
        draw = strategy.draw(BATCH, generator)
        assert draw.weights is not None
        assert float(draw.weights.max()) == 1
        scale = 1 / (N * draw.probabilities) / draw.weights  # the factor that the largest weight takes away
        torch.testing.assert_close(scale, scale.max().expand(BATCH))
        means.append(float((scale * draw.weights * values[draw.indices]).mean()))
    estimates = double(*means)
    assert abs(float(estimates.mean() - values.mean())) < 4 * float(estimates.std()) / len(means) ** 0.5


def test_beta_goes_from_the_start_to_1_whatever_was_drawn_ahead():
    strategy, generator = started(epochs=3, batches=4), seeded(6)
    seen = []
    for _ in range(4):
        strategy.start_epoch(generator)
        for step in range(6):  # two more than are trained on
            seen += [strategy.beta] if step < 4 else []
            strategy.draw(BATCH, generator)
    assert seen == pytest.approx([0.4 + 0.6 * step / 11 for step in range(12)] + [1.0] * 4)
    assert strategy.metrics() == {"beta": 1.0}
    assert started(epochs=1, batches=1).beta == 0.4


def test_beta_begins_again_with_a_new_training_and_the_law_stays():
    strategy = trained(20, seeded(6))
    law = strategy.probabilities()
    assert strategy.beta == 1
    strategy.begin()
    assert strategy.beta == 0.4
    assert torch.equal(strategy.probabilities(), law)
    train_one(strategy, seeded(6), 0)
    assert strategy.beta == pytest.approx(0.4 + 0.6 / 19)


def test_an_annealed_beta_needs_an_end():
    with pytest.raises(
        ValueError, match=r"`beta_start` = 0.4 to 1 .* `max_epochs` or `max_steps`, or set `beta_start=1`"
    ):
        started(epochs=None)
    assert started(epochs=None, beta_start=1.0).beta == 1.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [0, 3, 15])
def test_a_restored_state_goes_on_exactly(variant, steps):
    generator = seeded(7)
    strategy = trained(steps, generator, variant=variant)
    file = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(variant=variant), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    for step in range(steps, steps + 20):
        draw, expected = train_one(restored, other, step), train_one(strategy, generator, step)
        for name in ("indices", "bins", "probabilities", "weights"):
            assert torch.equal(getattr(draw, name), getattr(expected, name))
        assert torch.equal(restored.probabilities(), strategy.probabilities())
    again = started(variant=variant)
    again.load_state_dict(state["strategy"])  # which neither has changed
    assert torch.equal(again.probabilities(), trained(steps, seeded(7), variant=variant).probabilities())


def test_a_state_of_the_other_variant_is_refused():
    with pytest.raises(ValueError, match="is of `variant='rank'`, but here it is 'proportional'"):
        started().load_state_dict(started(variant="rank").state_dict())


@pytest.mark.parametrize("size", [1, 2, 13])
@pytest.mark.parametrize("loss", [0.0, 5e-324, 1e300, NAN, INF])
@pytest.mark.parametrize("options", [{}, {"variant": "rank"}, {"alpha": 1.0, "epsilon": 1e-300}], ids=str)
def test_odd_losses_never_break_the_law(options, loss, size):
    strategy, generator = started(size, **options), seeded(8)
    for step in range(15):
        draw = strategy.draw(6, generator)
        assert draw.weights is not None
        assert draw.weights.isfinite().all()
        assert float(draw.weights.max()) == 1
        usual = torch.rand(6, dtype=torch.float64, generator=generator)
        odd = torch.full_like(usual, loss)
        strategy.update(draw, [odd, torch.where(usual < 0.5, odd, usual), usual][step % 3], torch.zeros(6).double())
        law = strategy.probabilities()
        assert float(law.sum()) == pytest.approx(1)
        assert (draw.probabilities > 0).all()
    assert (strategy.skipped > 0) == (not loss < INF)


def test_a_negative_loss_is_refused_where_it_would_be_a_priority():
    with pytest.raises(ValueError, match="`losses` must not be negative"):
        started().update(as_drawn(0, 1), double(1.0, -0.5), torch.zeros(2).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "greedy"}, "`variant` must be one of proportional, rank; got 'greedy'"),
        ({"alpha": -0.1}, r"`alpha` must be in \[0, 1\], got -0.1"),
        ({"alpha": NAN}, r"`alpha` must be in \[0, 1\], got nan"),
        ({"beta_start": 1.5}, r"`beta_start` must be in \[0, 1\], got 1.5"),
        ({"epsilon": 0.0}, "`epsilon` must be a positive number, such as 1e-6, got 0.0"),
        ({"epsilon": INF}, "`epsilon` must be a positive number"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        PrioritizedSampling(**options)
