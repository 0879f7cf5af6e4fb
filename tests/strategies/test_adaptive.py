from __future__ import annotations

import io
import itertools
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml

from lightning_as.cli import PRESETS
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import AdaptiveSampling
from tests.helpers.looking import no_looking
from tests.helpers.on_fake_gpu import NOT_HERE
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import p_value

pytestmark = pytest.mark.usefixtures("implementation")

TAGS = torch.repeat_interleave(torch.arange(5), torch.tensor([40, 1, 17, 3, 90]))[
    torch.randperm(151, generator=torch.Generator().manual_seed(0))
]


def random_batch(
    strategy: AdaptiveSampling, generator: torch.Generator, step: int, size: int = 24
) -> tuple[Draw, torch.Tensor, torch.Tensor]:
    """Draw a batch; its losses spread over many orders, with exact zeros, and duplicates disagree."""
    draw = strategy.draw(size, generator)
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow(8) * 10.0 ** (-(step % 7))
    losses[torch.rand(size, generator=generator) < 0.2] = 0.0
    bounds = torch.rand(size, dtype=torch.float64, generator=generator) * 2
    bounds[torch.rand(size, generator=generator) < 0.2] = 0.0
    return draw, losses, bounds


def agree(strategy: AdaptiveSampling, oracle: AlgorithmOne) -> None:
    p, q = torch.tensor(oracle.p, dtype=torch.float64), torch.tensor(oracle.q, dtype=torch.float64)
    torch.testing.assert_close(strategy.bin_probabilities, p, rtol=1e-9, atol=0)
    torch.testing.assert_close(strategy.instance_probabilities(), q, rtol=1e-9, atol=1e-250)


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("unseen", ["first", "mean"])
def test_agrees_with_algorithm_1_on_p_and_all_of_q(delta_q, unseen):
    compare(AdaptiveSampling(beta=3, delta_q=delta_q, q_update="all", unseen=unseen), unseen)


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_agrees_with_algorithm_1_where_drawn(delta_q):
    compare(AdaptiveSampling(beta=3, delta_q=delta_q), "mean")


def compare(strategy: AdaptiveSampling, unseen: str) -> None:
    """Train a strategy and Algorithm 1 on the same 600 batches."""
    strategy.start(Bins(TAGS))
    oracle = AlgorithmOne(TAGS, 3, 0.9, strategy.delta_q, unseen=unseen, q_update=strategy.q_update)
    generator = torch.Generator().manual_seed(1)
    duplicates = 0
    for step in range(600):
        draw, losses, bounds = random_batch(strategy, generator, step)
        duplicates += len(draw.indices) - len(draw.indices.unique())
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), losses.tolist(), bounds.tolist())
        agree(strategy, oracle)
    assert duplicates > 100


STATISTICS = ["sum", "sum_over_q", "mean", "second_moment"]
NAN, INF = float("nan"), float("inf")


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(tags: torch.Tensor = TAGS, **options: Any) -> AdaptiveSampling:
    strategy = AdaptiveSampling(**{"floor": 0.0, **options})
    strategy.start(Bins(tags))
    return strategy


def trained(steps: int, generator: torch.Generator, tags: torch.Tensor = TAGS, **options: Any) -> AdaptiveSampling:
    strategy = started(tags, **options)
    for step in range(steps):
        strategy.update(*random_batch(strategy, generator, step))
    return strategy


def as_drawn(strategy: AdaptiveSampling, indices: list[int]) -> Draw:
    """A draw of chosen instances."""
    assert strategy.bins is not None
    chosen = torch.tensor(indices, dtype=torch.int64)
    bins, q = strategy.bins.of(chosen), strategy.instance_probabilities()[chosen]
    return Draw(chosen, bins, strategy.bin_probabilities[bins] * q, q)


def check_law(strategy: AdaptiveSampling) -> None:
    """P, Q and r are laws, and what is drawn lies in them."""
    assert strategy.bins is not None
    one = double(1)
    tags = strategy.bins.tags.long()
    q = strategy.instance_probabilities()
    per_bin = torch.zeros(len(strategy.bins.sizes), dtype=torch.float64).index_add_(0, tags, q)
    torch.testing.assert_close(per_bin, one.expand_as(per_bin))
    for law in (strategy.bin_probabilities, strategy.probabilities()):
        assert (law >= 0).all()
        torch.testing.assert_close(law.sum(), one[0])
    draw = strategy.draw(50, seeded(99))
    assert (draw.probabilities > 0).all()
    assert draw.within is not None
    assert (draw.within > 0).all()
    assert torch.equal(draw.bins, tags[draw.indices])
    torch.testing.assert_close(draw.probabilities, strategy.probabilities()[draw.indices])


@pytest.mark.parametrize(
    ("bin_statistic", "smoothing"),
    [
        *itertools.product(STATISTICS, ["previous", "original"]),
        *itertools.product(["mean", "second_moment"], ["statistic"]),
    ],
)
def test_agrees_with_algorithm_1_for_every_statistic_and_smoothing(bin_statistic, smoothing):
    options = {
        "delta_p": 0.7,
        "delta_q": 0.3,
        "bin_statistic": bin_statistic,
        "smoothing": smoothing,
        "q_update": "all",
    }
    strategy = started(beta=4, **options)
    oracle = AlgorithmOne(TAGS, 4, **options)
    generator = seeded(2)
    for step in range(150):
        draw, losses, bounds = random_batch(strategy, generator, step)
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), losses.tolist(), bounds.tolist())
        agree(strategy, oracle)
    assert strategy.bin_probabilities.std() > 0.01


def test_with_the_gradient_as_score_q_follows_the_root_of_the_bound():
    strategy = started(beta=3, score="gradient")
    oracle = AlgorithmOne(TAGS, 3, 0.9, 0.1, q_update="drawn")
    generator = seeded(3)
    for step in range(150):
        draw, losses, bounds = random_batch(strategy, generator, step)
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), bounds.sqrt().tolist(), bounds.tolist())
        agree(strategy, oracle)


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("steps", [0, 3, 80])
@pytest.mark.parametrize("q_update", ["drawn", "all"])
def test_draws_follow_the_law(floor, steps, q_update):
    generator = seeded(4)
    strategy = trained(steps, generator, beta=3, floor=floor, q_update=q_update)
    law = strategy.probabilities()
    draw = strategy.draw(200_000, generator)
    assert p_value(draw.indices, law) > 1e-3
    halves = draw.indices.view(2, -1)  # neighbours in a batch are independent
    share = torch.bincount(TAGS[halves[0]] * 5 + TAGS[halves[1]], minlength=25).double() / halves.shape[1]
    bins = torch.zeros(5, dtype=torch.float64).index_add_(0, TAGS, law)
    torch.testing.assert_close(share, torch.outer(bins, bins).view(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("steps", [0, 3, 80])
@pytest.mark.parametrize("q_update", ["drawn", "all"])
def test_a_draw_carries_the_probabilities_of_the_law(floor, steps, q_update):
    generator = seeded(5)
    strategy = trained(steps, generator, beta=3, floor=floor, q_update=q_update)
    law = strategy.probabilities()
    assert law.sum().item() == pytest.approx(1, rel=1e-12)
    draw = strategy.draw(5000, generator)
    of_bin = torch.zeros(5, dtype=torch.float64).index_add_(0, TAGS, law)
    torch.testing.assert_close(draw.probabilities, law[draw.indices], rtol=1e-12, atol=0)
    torch.testing.assert_close(draw.within, (law / of_bin[TAGS])[draw.indices], rtol=1e-12, atol=0)
    assert torch.equal(draw.bins, TAGS[draw.indices])


def test_the_law_mixes_p_times_q_with_the_uniform_law():
    strategy = trained(40, seeded(6), beta=3, floor=0.3)
    product = strategy.bin_probabilities[TAGS] * strategy.instance_probabilities()
    torch.testing.assert_close(strategy.probabilities(), 0.7 * product + 0.3 / len(TAGS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_only_a_floor_draws_dead_bins_and_instances_again(floor):
    """Without smoothing one window of zeros makes bin 2 dead, and a zero loss instance 0 of those that live."""
    strategy = started(beta=1, delta_p=0.0, delta_q=0.0, floor=floor)
    losses = torch.ones(len(TAGS), dtype=torch.float64)
    dead = int((TAGS == 4).nonzero()[0])
    losses[dead] = 0
    strategy.update(as_drawn(strategy, list(range(len(TAGS)))), losses, (TAGS != 2).double())
    assert strategy.bin_probabilities[2] == 0
    assert strategy.instance_probabilities()[dead] == 0
    assert strategy.probabilities().min() >= floor / len(TAGS)
    draw = strategy.draw(20_000, seeded())
    assert bool((draw.bins == 2).any()) == bool((draw.indices == dead).any()) == (floor > 0)
    assert (draw.probabilities >= floor / len(TAGS)).all()
    if floor:
        bounds = torch.ones(20_000, dtype=torch.float64)
        strategy.update(draw, bounds, bounds)
        assert strategy.bin_probabilities[2] > 0
        assert strategy.instance_probabilities()[dead] > 0


def test_losses_that_are_not_finite_are_left_out_counted_and_warned_of_once(caplog):
    strategy, clean = started(beta=2), started(beta=2)
    with caplog.at_level(logging.WARNING, logger="lightning_as"):
        for losses, bounds in (
            ([1.0, NAN, 3.0, INF], [1.0, 1.0, 1.0, 1.0]),
            ([1.0, 2.0, NAN, NAN], [0.5, NAN, INF, 1.0]),
        ):
            indices = list(range(4))
            finite = [i for i in indices if abs(losses[i]) < INF and abs(bounds[i]) < INF]
            strategy.update(as_drawn(strategy, indices), double(*losses), double(*bounds))
            clean.update(
                as_drawn(clean, finite), double(*[losses[i] for i in finite]), double(*[bounds[i] for i in finite])
            )
            assert torch.equal(strategy.bin_probabilities, clean.bin_probabilities)
            assert torch.equal(strategy.instance_probabilities(), clean.instance_probabilities())
        assert strategy.skipped == 5
    assert clean.skipped == 0
    assert len(caplog.records) == 1
    assert "losses are not finite" in caplog.text
    check_law(strategy)


@pytest.mark.parametrize("tags", [TAGS, torch.tensor([0]), torch.tensor([0, 1, 1]), torch.zeros(9, dtype=torch.int64)])
@pytest.mark.parametrize("loss", [0.0, NAN, INF, 1e300, 1e-300, 5e-324])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_degenerate_losses_never_break_the_law(tags, loss, floor):
    updates = [{"q_update": "drawn"}, {"q_update": "all"}, {"q_update": "all", "unseen": "mean"}]
    for update, delta_q, statistic in itertools.product(updates, [0.0, 0.1], ["sum", "second_moment"]):
        strategy = started(tags, beta=2, delta_q=delta_q, bin_statistic=statistic, floor=floor, **update)
        generator = seeded(7)
        for step in range(15):
            draw = strategy.draw(6, generator)
            odd = torch.full((6,), loss, dtype=torch.float64)
            usual = torch.rand(6, dtype=torch.float64, generator=generator)
            # Alone, among usual ones, and usual ones alone.
            losses = [odd, torch.where(usual < 0.5, odd, usual), usual][step // 3 % 3]
            bounds = losses if step % 2 else losses.clamp(max=2)
            strategy.update(draw, losses, bounds)
            check_law(strategy)
        assert (strategy.skipped > 0) == (not loss < INF)


def test_an_update_without_any_finite_loss_leaves_the_table_and_counts_the_batch():
    strategy = trained(30, seeded(8), beta=3)
    draw = strategy.draw(6, seeded(9))
    leaves, p = strategy.state_dict()["inside"]["leaves"], strategy.bin_probabilities.clone()
    for _ in range(3):
        strategy.update(draw, torch.full((6,), NAN, dtype=torch.float64), torch.full((6,), NAN, dtype=torch.float64))
    assert torch.equal(strategy.state_dict()["inside"]["leaves"], leaves)
    assert torch.equal(strategy.bin_probabilities, p)
    assert strategy.skipped == 18
    check_law(strategy)


@pytest.mark.parametrize("losses", [[0.5, -1e-9], [-1.0, 1.0], [-0.5, NAN], [-0.5, INF]], ids=str)
def test_a_negative_loss_is_refused_and_changes_nothing(losses, implementation):
    strategy = started(beta=1)
    if implementation == "off_host":  # where nobody looks in time to refuse it
        strategy.update(as_drawn(strategy, [0, 1]), double(*losses), double(1, 1))
        assert strategy.skipped == sum(not 0 <= loss < INF for loss in losses)
        only = started(beta=1)
        usable = [position for position, loss in enumerate(losses) if 0 <= loss < INF]
        only.update(as_drawn(only, usable), double(*[losses[at] for at in usable]), double(*[1.0 for _ in usable]))
        assert torch.equal(strategy.probabilities(), only.probabilities())
        return
    with pytest.raises(ValueError, match="`losses` must not be negative"):
        strategy.update(as_drawn(strategy, [0, 1]), double(*losses), double(1, 1))
    assert torch.equal(strategy.probabilities(), started(beta=1).probabilities())


@pytest.mark.parametrize("name", ["delta_p", "delta_q", "floor"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, NAN])
def test_shares_must_be_in_0_to_1(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 1\), got {value}"):
        AdaptiveSampling(**{name: value})


@pytest.mark.parametrize("value", [0, -3])
def test_beta_must_be_positive(value):
    with pytest.raises(ValueError, match=f"`beta` must be at least 1 batch, got {value}"):
        AdaptiveSampling(beta=value)


@pytest.mark.parametrize("value", [2.0, "3", True, None])
def test_beta_must_be_an_integer(value):
    with pytest.raises(TypeError, match="`beta` must be an integer"):
        AdaptiveSampling(beta=value)


@pytest.mark.parametrize("name", ["delta_p", "delta_q", "floor"])
def test_shares_must_be_numbers(name):
    with pytest.raises(TypeError, match=rf"`{name}` must be a number in \[0, 1\), got '0.1'"):
        AdaptiveSampling(**{name: "0.1"})


@pytest.mark.parametrize("name", ["bin_statistic", "score", "q_update", "unseen", "smoothing"])
@pytest.mark.parametrize("value", ["nonsense", "", None])
def test_choices_must_be_known_and_are_listed(name, value):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be one of {getattr(AdaptiveSampling(), name)}"):
        AdaptiveSampling(**options)


@pytest.mark.parametrize("bin_statistic", ["sum", "sum_over_q"])
def test_statistics_that_grow_with_the_draws_cannot_be_smoothed(bin_statistic):
    with pytest.raises(ValueError, match=f"`smoothing='statistic'` averages .* but '{bin_statistic}' grows"):
        AdaptiveSampling(bin_statistic=bin_statistic, smoothing="statistic")


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_the_second_moment_estimates_the_sum_of_bounds_over_the_law_that_was_drawn_from(floor):
    """The mean of Ĝ/within², over draws of a bin, has the expectation Σ Ĝ/π, π = r / Σ r over the bin."""
    strategy = trained(40, seeded(17), beta=3, floor=floor)
    law, bounds = strategy.probabilities(), torch.rand(len(TAGS), dtype=torch.float64, generator=seeded(18))
    draw = strategy.draw(20_000, seeded(19))
    assert draw.within is not None
    within = torch.zeros_like(law)
    within[draw.indices] = draw.within
    for bin_ in range(5):
        members = (bin_ == TAGS) & (law > 0)
        pi = law[members] / law[members].sum()
        seen = within[members] > 0
        torch.testing.assert_close(within[members][seen], pi[seen], rtol=1e-12, atol=0)
        expectation = (pi * bounds[members] / within[members].square())[seen].sum()
        torch.testing.assert_close(expectation, (bounds[members] / pi)[seen].sum(), rtol=1e-11, atol=0)
        assert seen.sum() > 0.9 * len(seen) or floor == 0


def test_a_dead_bin_recovers_with_the_robust_preset():
    """A window of zeros takes P from bin 2. The floor draws it again, and one window with its bounds brings it back."""
    strategy = started(beta=1, bin_statistic="second_moment", smoothing="statistic", floor=0.1)
    everything = as_drawn(strategy, list(range(len(TAGS))))
    ones = torch.ones(len(TAGS), dtype=torch.float64)
    strategy.update(everything, ones, (TAGS != 2).double())
    assert strategy.bin_probabilities[2] == 0
    generator = seeded(20)
    for _ in range(200):
        draw = strategy.draw(64, generator)
        strategy.update(draw, ones[:64], ones[:64])
        if (draw.bins == 2).any():
            break
    else:
        pytest.fail("never drawn: by chance once in 10^60 times")
    assert strategy.bin_probabilities[2] > 0.01


def preset(name: str) -> dict[str, Any]:
    callback = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())["trainer"]["callbacks"][0]
    return callback["init_args"]["strategy"].get("init_args", {})


def test_the_presets_are_the_settings_of_their_sources():
    assert vars(AdaptiveSampling(**preset("thesis"))) == vars(AdaptiveSampling(floor=0.0))
    assert vars(AdaptiveSampling(**preset("annex"))) == vars(AdaptiveSampling(bin_statistic="sum_over_q", floor=0.0))
    assert AdaptiveSampling().floor == 0.1  # the one departure of the defaults from the thesis
    robust = AdaptiveSampling(bin_statistic="second_moment", smoothing="statistic", floor=0.1)
    assert vars(AdaptiveSampling(**preset("robust"))) == vars(robust)


def test_started_again_it_begins_anew():
    strategy = trained(20, seeded(10), beta=3)
    strategy.update(as_drawn(strategy, [0]), double(NAN), double(1))
    strategy.start(Bins(TAGS))
    fresh = started(beta=3)
    assert strategy.skipped == 0
    assert strategy.metrics() == fresh.metrics()
    one, other = seeded(11), seeded(11)
    for step in range(10):
        batch, expected = random_batch(strategy, one, step), random_batch(fresh, other, step)
        assert torch.equal(batch[0].indices, expected[0].indices)
        strategy.update(*batch)
        fresh.update(*expected)
    assert torch.equal(strategy.probabilities(), fresh.probabilities())


def test_metrics_describe_p_and_the_share_seen():
    strategy = started(beta=4)
    assert strategy.metrics()["entropy_p"] == pytest.approx(double(5).log().item())
    assert strategy.metrics()["seen"] == 0
    for step in range(6):
        strategy.update(as_drawn(strategy, [step, 0]), double(1, 1), double(1, 2))
    p = strategy.bin_probabilities
    assert strategy.metrics() == {
        "entropy_p": pytest.approx(float(-(p * p.log()).sum())),
        "p_min": float(p.min()),
        "p_max": float(p.max()),
        "seen": pytest.approx(6 / len(TAGS)),
        "age_p": 2,
    }


def check_plain(state: Any) -> None:
    if isinstance(state, dict):
        assert all(type(key) is str for key in state)
        state = list(state.values())
    if isinstance(state, list):
        for part in state:
            check_plain(part)
    else:
        assert type(state) in (torch.Tensor, int, float, str)


@pytest.mark.parametrize("steps", [0, 7, 301])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"floor": 0.2, "delta_q": 0.0},
        {"q_update": "all", "floor": 0.2, "unseen": "mean"},
        {"q_update": "all", "bin_statistic": "second_moment", "delta_q": 0.0},
        {"score": "gradient"},
        {"bin_statistic": "second_moment", "smoothing": "statistic", "floor": 0.1},
    ],
    ids=str,
)
def test_a_restored_state_goes_on_with_equal_draws_p_and_q(options, steps):
    generator = seeded(12)
    strategy = trained(steps, generator, beta=5, **options)
    state = {"strategy": strategy.state_dict(), "generator": generator.get_state()}
    check_plain(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, other = started(beta=5, **options), torch.Generator()
    restored.load_state_dict(state["strategy"])
    other.set_state(state["generator"])
    assert restored.metrics() == strategy.metrics()
    for step in range(50):
        batch, expected = random_batch(restored, other, step), random_batch(strategy, generator, step)
        for field, value in zip(batch[0], expected[0], strict=True):
            assert (field is None and value is None) or torch.equal(field, value)
        restored.update(*batch)
        strategy.update(*expected)
        assert torch.equal(restored.bin_probabilities, strategy.bin_probabilities)
        assert torch.equal(restored.instance_probabilities(), strategy.instance_probabilities())


def test_a_state_is_a_copy():
    strategy = trained(7, seeded(13), beta=5)
    state = strategy.state_dict()
    restored, q, p = started(beta=5), strategy.instance_probabilities(), strategy.bin_probabilities.clone()
    restored.load_state_dict(state)
    for changed, step in itertools.product((strategy, restored), range(10)):
        changed.update(*random_batch(changed, seeded(step), step))
    again = started(beta=5)
    again.load_state_dict(state)
    assert torch.equal(again.instance_probabilities(), q)
    assert torch.equal(again.bin_probabilities, p)


def test_negative_losses_are_no_harm_where_the_bounds_are_the_scores():
    strategy, oracle = started(beta=3, score="gradient"), AlgorithmOne(TAGS, 3, 0.9, 0.1, q_update="drawn")
    generator = seeded(14)
    for step in range(30):
        draw, losses, bounds = random_batch(strategy, generator, step)
        strategy.update(draw, -losses, bounds)
        oracle.batch(draw.indices.tolist(), bounds.sqrt().tolist(), bounds.tolist())
        agree(strategy, oracle)


@pytest.mark.parametrize(("saved", "here"), [("all", "drawn"), ("drawn", "all")])
def test_a_state_of_another_q_update_is_refused_and_changes_nothing(saved, here):
    strategy = trained(9, seeded(15), beta=3, q_update=here)
    before, p = strategy.probabilities(), strategy.bin_probabilities.clone()
    with pytest.raises(ValueError, match=f"is of `q_update='{saved}'`, but here it is '{here}'"):
        strategy.load_state_dict(trained(9, seeded(16), beta=3, q_update=saved).state_dict())
    assert torch.equal(strategy.probabilities(), before)
    assert torch.equal(strategy.bin_probabilities, p)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"floor": 0.1},
    {"delta_q": 0.0, "score": "gradient"},
    {"bin_statistic": "sum_over_q", "smoothing": "original"},
    {"bin_statistic": "mean"},
    {"bin_statistic": "second_moment", "smoothing": "statistic", "floor": 0.1},
]


@pytest.mark.parametrize("implementation", ["off_host"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_off_the_cpu_nothing_is_looked_at_and_the_law_is_the_same(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Through 63 batches, with losses that are not finite, and with negative ones; at the 64th it looks."""
    there, generator = started(beta=3, **options), seeded(1)
    monkeypatch.setattr(Bins, "on_host", True)
    here = started(beta=3, **options)
    skipped = 0
    for step in range(63):
        monkeypatch.setattr(Bins, "on_host", False)
        state = generator.get_state()
        with no_looking():
            draw = there.draw(24, generator)
        _, losses, bounds = random_batch(here, seeded(step), step)
        losses[: step % 3], bounds[23] = NAN, (INF if step % 5 == 0 else 1.0)
        if there.samples_by_loss:
            losses[3] = -1.0 if step % 4 == 0 else losses[3]
        with no_looking():
            there.update(draw, losses, bounds)
        monkeypatch.setattr(Bins, "on_host", True)
        generator.set_state(state)
        same = here.draw(24, generator)
        assert torch.equal(same.indices, draw.indices)
        unusable = ~(losses.isfinite() & bounds.isfinite() & ((losses >= 0) | (not there.samples_by_loss)))
        skipped += int(unusable.sum())
        here.update(same, losses.masked_fill(unusable, NAN), bounds)
        torch.testing.assert_close(there.probabilities(), here.probabilities(), rtol=1e-9, atol=0)
    assert there.skipped == here.skipped == skipped > 0
    assert there.metrics() == pytest.approx(here.metrics(), rel=1e-9)


@pytest.mark.parametrize("implementation", ["torch", "compiled"], indirect=True)
def test_on_the_cpu_something_is_looked_at():
    """So that the test above can fail."""
    strategy = started()
    with pytest.raises(AssertionError, match=r"looks at a tensor|by a mask"), no_looking():
        strategy.update(*random_batch(strategy, seeded(), 0))


@pytest.mark.parametrize("implementation", ["off_host"], indirect=True)
def test_the_sums_of_weights_are_looked_after_where_nothing_else_is_looked_at():
    """Losses that fall at each visit pull the weights down without end, and with them their sum."""
    strategy, generator = started(torch.zeros(20, dtype=torch.int64)), seeded()
    oracle = AlgorithmOne(torch.zeros(20, dtype=torch.int64), 10, 0.9, 0.1, q_update="drawn")
    scaled, before = 0, 20.0
    for step in range(1000):
        draw = strategy.draw(8, generator)
        losses, bounds = torch.full((8,), 0.5 ** (step % 200), dtype=torch.float64), torch.ones(8, dtype=torch.float64)
        strategy.update(draw, losses, bounds)
        oracle.batch(draw.indices.tolist(), losses.tolist(), bounds.tolist())
        now = float(strategy.state_dict()["inside"]["leaves"][:, 0].sum())
        scaled, before = scaled + (not 1e-20 < now / before < 1e20), now
        if step % 50 == 0:
            agree(strategy, oracle)
    assert scaled > 0
    assert strategy.metrics()["seen"] == 1


@pytest.mark.parametrize("implementation", ["torch"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_a_gpu_without_numbers_everything_is_on_the_gpu(options: dict[str, Any]):
    """In a process of its own: once torch has faked a GPU, a backward pass starts threads, and forking fails."""
    command = [sys.executable, "-m", "tests.helpers.on_fake_gpu", json.dumps(options)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == NOT_HERE:
        pytest.skip("this torch cannot fake a GPU")
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("implementation", ["torch"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_a_gpu_the_law_is_that_of_the_cpu(options: dict[str, Any]):
    here, there = started(beta=3, **options), AdaptiveSampling(beta=3, **{"floor": 0.0, **options})
    there.start(Bins(TAGS).to("cuda"))
    for step in range(200):
        draw, losses, bounds = random_batch(here, seeded(step), step)
        same = there.draw(24, seeded(step))
        assert torch.equal(same.indices.cpu(), draw.indices)
        here.update(draw, losses, bounds)
        there.update(same, losses.cuda(), bounds.cuda())
        torch.testing.assert_close(there.probabilities().cpu(), here.probabilities(), rtol=1e-9, atol=0)
    again = AdaptiveSampling(beta=3, **{"floor": 0.0, **options})
    again.start(Bins(TAGS).to("cuda"))
    again.load_state_dict(there.state_dict())
    assert torch.equal(again.probabilities(), there.probabilities())
