from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import Scores, StratifiedSampling
from lightning_as.strategies.stratified import allocate
from tests.helpers.statistics import p_value

TAGS = torch.arange(60) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(seed: int = 0) -> Tensor:
    """Two-dimensional, and bin j spreads j + 1 times as far as the first."""
    return torch.randn(60, 2, generator=seeded(seed)) * (1 + TAGS).unsqueeze(1)


def started(tags: Tensor = TAGS, **options: Any) -> StratifiedSampling:
    strategy = StratifiedSampling(**options)
    strategy.start(Bins(tags))
    return strategy


def stratified(**options: Any) -> StratifiedSampling:
    strategy = started(**options)
    wanted = strategy.wanted()
    if wanted is not None:
        strategy.refresh(wanted, Scores(inputs=inputs()[wanted]))
    return strategy


# --- The allocation ---


def naive_allocation(size: int, shares: list[float]) -> list[int]:
    """max(1, c · share) with the c that makes the sum right, found by bisection, and then largest remainders."""
    low, high = 0.0, 2 * size / min(share for share in shares if share > 0)
    for _ in range(400):
        middle = (low + high) / 2
        if math.fsum(max(1.0, middle * share) for share in shares) > size:
            high = middle
        else:
            low = middle
    ideal = [max(1.0, low * share) for share in shares]
    counts = [math.floor(value + 1e-9) for value in ideal]
    order = sorted(range(len(shares)), key=lambda j: (-(round(ideal[j] - counts[j], 9)), j))
    for j in order[: size - sum(counts)]:
        counts[j] += 1
    return counts


@pytest.mark.parametrize("seed", range(60))
def test_the_allocation_is_neymans_with_at_least_one_each(seed: int):
    generator = seeded(seed)
    strata = int(torch.randint(1, 30, (1,), generator=generator))
    size = strata + int(torch.randint(0, 200, (1,), generator=generator))
    shares = torch.rand(strata, dtype=torch.float64, generator=generator).pow(4)
    shares[torch.rand(strata, generator=generator) < 0.2] = 0.0
    shares[0] += 0.01
    counts = allocate(size, shares, torch.ones_like(shares))
    assert counts.sum() == size
    assert counts.min() >= 1
    assert counts.tolist() == naive_allocation(size, shares.tolist())


def test_the_allocation_by_hand():
    one = torch.ones(4, dtype=torch.float64)
    assert allocate(10, one[:3], one[:3]).tolist() == [4, 3, 3]  # ties go to the first
    assert allocate(10, double(5, 3, 2), one[:3]).tolist() == [5, 3, 2]
    # 0.1 and 0 get 1; the other 8 are shared by 6 : 3.9, that is 4.85 and 3.15.
    assert allocate(10, double(6, 3.9, 0.1, 0), one).tolist() == [5, 3, 1, 1]
    assert allocate(4, double(9, 1, 1, 1), one).tolist() == [1, 1, 1, 1]
    assert allocate(8, double(0, 0, 0), double(2, 1, 1)).tolist() == [4, 2, 2]  # nothing varies: by size


# --- The strata ---


def test_the_inputs_are_wanted_once_and_strata_lie_inside_bins():
    strategy = started(clusters_per_bin=4)
    assert torch.equal(strategy.wanted(), torch.arange(60))  # pyright: ignore[reportArgumentType]
    shuffled = torch.randperm(60, generator=seeded(1))
    strategy.refresh(shuffled, Scores(inputs=inputs()[shuffled]))
    assert strategy.wanted() is None
    assert strategy.strata.unique().tolist() == list(range(12))
    for stratum in range(12):
        assert len(TAGS[strategy.strata == stratum].unique()) == 1
    assert torch.equal(strategy.strata, stratified(clusters_per_bin=4).strata)
    assert not torch.equal(strategy.strata, stratified(clusters_per_bin=4, seed=1).strata)


def test_clusters_vary_less_than_bins():
    data = inputs().double()
    strategy = stratified(clusters_per_bin=4)
    for tag in range(3):
        own = strategy.strata[tag == TAGS].unique().tolist()
        inside = sum((data[strategy.strata == j] - data[strategy.strata == j].mean(0)).square().sum() for j in own)
        assert float(inside) < 0.6 * float((data[tag == TAGS] - data[tag == TAGS].mean(0)).square().sum())


@pytest.mark.parametrize("clusters", [1, 3])
def test_deviations_and_allocation_by_loops(clusters: int):
    strategy = stratified(clusters_per_bin=clusters)
    deviations, sizes = [], []
    for stratum in range(3 * clusters):
        rows = inputs().double()[strategy.strata == stratum].tolist()
        mean = [math.fsum(row[k] for row in rows) / len(rows) for k in range(2)]
        squares = [sum((row[k] - mean[k]) ** 2 for k in range(2)) for row in rows]
        deviations.append(math.sqrt(math.fsum(squares) / len(rows)))
        sizes.append(len(rows))
    torch.testing.assert_close(strategy.deviations, double(*deviations), rtol=1e-5, atol=1e-7)  # the inputs are float32
    shares = [n * d for n, d in zip(sizes, deviations, strict=True)]
    assert strategy.allocation(40).tolist() == naive_allocation(40, shares)
    if clusters == 1:
        assert strategy.allocation(40).tolist() == sorted(strategy.allocation(40).tolist())
        assert len(strategy.allocation(40).unique()) > 1


def test_the_bins_themselves_need_no_inputs_if_gradients_tell_their_deviation():
    strategy = started(clusters_per_bin=1, deviation="gradients")
    assert strategy.wanted() is None
    assert torch.equal(strategy.strata, TAGS)
    assert strategy.allocation(10).tolist() == [4, 3, 3]


def test_it_reads_only_what_its_options_need():
    assert StratifiedSampling().reads == {"inputs"}
    assert StratifiedSampling(deviation="gradients").reads == {"inputs", "bounds"}


# --- Draws ---


def test_each_batch_has_the_allocated_numbers_and_the_law_inside_is_uniform():
    strategy, generator = stratified(clusters_per_bin=2), seeded()
    counts = strategy.allocation(16)
    drawn = []
    for _ in range(1500):
        draw = strategy.draw(16, generator)
        assert torch.equal(torch.bincount(strategy.strata[draw.indices], minlength=6), counts)
        assert torch.equal(draw.bins, TAGS[draw.indices])
        drawn.append(draw.indices)
    for stratum in range(6):
        members = (strategy.strata == stratum).to(torch.float64)
        chosen = torch.cat(drawn)
        assert p_value(chosen[strategy.strata[chosen] == stratum], members / members.sum()) > 1e-3


def test_probabilities_and_weights_by_hand():
    strategy = started(torch.tensor([0, 0, 0, 1]), clusters_per_bin=1, deviation="gradients")
    draw = strategy.draw(8, seeded())  # 6 of the three and 2 of the one
    assert draw.bins.tolist() == [0] * 6 + [1] * 2
    torch.testing.assert_close(draw.probabilities, double(*[6 / 8 / 3] * 6, *[2 / 8] * 2))
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, double(*[3 / 4 * 8 / 6] * 6, *[1 / 4 * 8 / 2] * 2))
    strategy = started(torch.tensor([0, 0, 0, 1]), clusters_per_bin=1, deviation="gradients")
    strategy.update(draw, double(*[1.0] * 8), double(*[1.0] * 6, 81.0, 81.0))
    # σ is 1 and 9, so |c| σ are 3 and 9.
    draw = strategy.draw(8, seeded())
    assert draw.bins.tolist() == [0] * 2 + [1] * 6
    assert draw.weights is not None
    torch.testing.assert_close(draw.weights, double(*[3 / 4 * 8 / 2] * 2, *[1 / 4 * 8 / 6] * 6))
    torch.testing.assert_close(strategy.probabilities(), double(1 / 12, 1 / 12, 1 / 12, 3 / 4))


def test_the_weighted_mean_of_a_batch_is_unbiased_by_enumeration():
    strategy = stratified(clusters_per_bin=4)
    values = torch.rand(60, dtype=torch.float64, generator=seeded(5))
    draw = strategy.draw(30, seeded())
    assert draw.weights is not None
    # The expectation of each place of the batch is over the members of its stratum, with the weight that it has.
    expected = 0.0
    for index, weight in zip(draw.indices.tolist(), draw.weights.tolist(), strict=True):
        expected += weight * float(values[strategy.strata == strategy.strata[index]].mean()) / 30
    assert expected == pytest.approx(float(values.mean()), rel=1e-12)
    law = strategy.probabilities()
    torch.testing.assert_close(law.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(law[draw.indices], draw.probabilities)
    torch.testing.assert_close(draw.weights, 1 / (60 * draw.probabilities))


def test_the_variance_between_strata_is_gone():
    tags = torch.arange(60) // 30
    strategy, generator = started(tags, clusters_per_bin=1, deviation="gradients"), seeded()
    values = tags.double()  # which vary between strata only
    for _ in range(20):
        draw = strategy.draw(10, generator)
        assert draw.weights is not None
        assert float((draw.weights * values[draw.indices]).mean()) == pytest.approx(0.5, rel=1e-12)


# --- What it learns from gradients ---


class Oracle:
    """The running means of Ĝ, by loops."""

    def __init__(self, strata: list[int], momentum: float) -> None:
        self.strata, self.momentum = strata, momentum
        self.squares: list[float | None] = [None] * (max(strata) + 1)

    def batch(self, indices: list[int], bounds: list[float]) -> None:
        for j in range(len(self.squares)):
            own = [bound for i, bound in zip(indices, bounds, strict=True) if self.strata[i] == j]
            if own:
                new, old = math.fsum(own) / len(own), self.squares[j]
                self.squares[j] = new if old is None else self.momentum * old + (1 - self.momentum) * new

    def deviations(self) -> list[float]:
        known = [square for square in self.squares if square is not None]
        mean = math.fsum(known) / len(known) if known else 1.0
        return [math.sqrt(mean if square is None else square) for square in self.squares]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_running_deviations_agree_with_loops(momentum: float):
    strategy, generator = stratified(clusters_per_bin=3, deviation="gradients", momentum=momentum), seeded()
    oracle = Oracle(strategy.strata.tolist(), momentum)
    sizes = torch.bincount(strategy.strata).tolist()
    for step in range(200):
        if step % 3:
            draw = strategy.draw(20, generator)
        else:  # any indices, as of a batch that was drawn before: some strata have none
            indices = torch.randint(60, (5,), generator=generator)
            draw = Draw(indices, TAGS[indices], torch.full((5,), 1 / 60, dtype=torch.float64))
        bounds = torch.rand(len(draw.indices), dtype=torch.float64, generator=generator).pow(6)
        bounds[torch.rand(len(bounds), generator=generator) < 0.3] = 0.0
        strategy.update(draw, torch.ones_like(bounds), bounds)
        oracle.batch(draw.indices.tolist(), bounds.tolist())
        torch.testing.assert_close(strategy.deviations, double(*oracle.deviations()), rtol=1e-12, atol=0)
        shares = [n * d for n, d in zip(sizes, oracle.deviations(), strict=True)]
        assert strategy.allocation(33).tolist() == naive_allocation(33, shares)


def test_with_the_inputs_deviation_nothing_is_learned():
    strategy = stratified()
    before = strategy.deviations
    strategy.update(strategy.draw(20, seeded()), torch.ones(20).double(), torch.rand(20, generator=seeded()).double())
    assert torch.equal(strategy.deviations, before)


# --- State, degenerate inputs, arguments ---


@pytest.mark.parametrize("deviation", ["inputs", "gradients"])
@pytest.mark.parametrize("refreshed", [True, False])
def test_a_restored_state_goes_on_bit_exactly(deviation: str, refreshed: bool):
    generator = seeded()
    strategy = (stratified if refreshed else started)(clusters_per_bin=3, deviation=deviation)

    def step(it: StratifiedSampling, generator: torch.Generator) -> Draw:
        draw = it.draw(16, generator)
        it.update(draw, torch.ones(16).double(), (draw.indices + 1).double())
        return draw

    for _ in range(5):
        step(strategy, generator)
    buffer = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other = started(clusters_per_bin=3, deviation=deviation)
    other.load_state_dict(state["strategy"])
    other_generator = torch.Generator()
    other_generator.set_state(state["generator"])
    assert (other.wanted() is None) == refreshed
    for _ in range(5):
        assert torch.equal(other.probabilities(), strategy.probabilities())
        ours, theirs = step(strategy, generator), step(other, other_generator)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None)
    assert other.metrics() == strategy.metrics()


def test_the_state_is_a_copy():
    strategy = stratified(deviation="gradients")
    state = strategy.state_dict()
    kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    strategy.update(strategy.draw(16, seeded()), torch.ones(16).double(), torch.ones(16).double())
    assert torch.equal(state["strata"], kept["strata"])
    assert torch.equal(state["squares"].isnan(), kept["squares"].isnan())


@pytest.mark.parametrize("deviation", ["inputs", "gradients"])
def test_degenerate_data(deviation: str):
    # Inputs that are all equal, a bin with one instance, all gradients zero, no rows at all.
    tags = torch.tensor([0] * 9 + [1])
    strategy = started(tags, clusters_per_bin=3, deviation=deviation)
    strategy.refresh(torch.arange(10), Scores(inputs=torch.ones(10, 4)))
    assert strategy.strata.tolist() == tags.tolist()
    for bounds in (torch.zeros(6), torch.full((6,), math.nan), torch.full((6,), math.inf)):
        draw = strategy.draw(6, seeded())
        strategy.update(draw, torch.zeros(6).double(), bounds.double())
        law = strategy.probabilities()
        assert bool(law.isfinite().all())
        assert float(law.sum()) == pytest.approx(1)
        assert strategy.allocation(6).tolist() == [5, 1]
    assert all(math.isfinite(value) for value in strategy.metrics().values())


def test_one_instance():
    strategy = started(torch.tensor([0]), clusters_per_bin=5)
    strategy.refresh(torch.tensor([0]), Scores(inputs=torch.randn(1, 3, generator=seeded())))
    draw = strategy.draw(3, seeded())
    assert draw.indices.tolist() == [0, 0, 0]
    assert draw.weights is not None
    assert draw.weights.tolist() == [1, 1, 1]


def test_starting_again_forgets():
    strategy = stratified(clusters_per_bin=3)
    strategy.start(Bins(TAGS))
    assert strategy.wanted() is not None
    assert torch.equal(strategy.strata, TAGS)


def test_a_batch_smaller_than_the_strata_is_an_error_from_the_first_draw():
    strategy = started(clusters_per_bin=4)
    with pytest.raises(ValueError, match=r"A batch of 11 .* each of 12 strata: .*fewer `clusters_per_bin` \(here 4\)"):
        strategy.draw(11, seeded())
    assert len(strategy.draw(12, seeded()).indices) == 12


def test_inputs_that_are_not_finite_are_an_error():
    data = inputs()
    data[7, 1] = math.nan
    with pytest.raises(ValueError, match="An input is not finite"):
        started().refresh(torch.arange(60), Scores(inputs=data))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clusters_per_bin": 0}, ValueError, "`clusters_per_bin` must be at least 1, the bins themselves, got 0"),
        ({"clusters_per_bin": 2.0}, TypeError, "`clusters_per_bin` must be an integer, got 2.0"),
        ({"seed": True}, TypeError, "`seed` must be an integer, got True"),
        ({"deviation": "losses"}, ValueError, "`deviation` must be one of inputs, gradients; got 'losses'"),
        ({"momentum": 1.0}, ValueError, r"`momentum` must be in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        StratifiedSampling(**options)
