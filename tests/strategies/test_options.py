from collections.abc import Callable
from contextlib import nullcontext
from inspect import signature
from math import inf, nan
from typing import Any

import pytest
import torch

from lightning_as import AdaptiveBatchSampler, Bins
from lightning_as import strategies as s
from tests.helpers.driver import EPOCH, Driver
from tests.helpers.statistics import double
from tests.helpers.strategies import learn, started

Make = Callable[..., s.Strategy]
SHARES: Any = {0: "loss", 0.5: "gradient"}
REFUSED: dict[Make, dict[str, Any]] = {
    s.AdaptiveSampling: {
        "beta": 0,
        "delta_p": 1.0,
        "delta_q": -0.1,
        "floor": "0.1",
        "score": None,
        "smoothing": "x",
        "gamma": -1.0,
    },
    s.ClosenessSampling: {
        **{"pressure": inf, "gamma": -1.0, "floor": 1.0, "smoothing": 1.0},
        **{"smallest_bin": 1.5, "warm_up": nan, "relaxation": -0.1},
    },
    s.GopalSampling: {"update_every": 0, "delta": 1.0},
    s.GradientNormSampling: {"constant": nan, "staleness": 0, "warm_up": 1.0},
    s.InfoBatch: {"prune_share": 1.0, "delta": 1.5},
    s.LearnedFilter: {"presample": 1, "learning_rate": 0.0, "target_accuracy": 98.0},
    s.LearnedProposal: {"learning_rate": -1.0, "floor": 1.0},
    s.LossProportional: {"smoothing": -0.1, "exponent": inf, "predictor": "gru", "presample": 0, "seed": True},
    s.OnlineBatchSelection: {"s_start": 0.5, "s_end": inf, "sort_period": 0, "first_pass": "any"},
    s.PrioritizedSampling: {"variant": "greedy", "alpha": -0.1, "beta_start": 1.5, "epsilon": 0.0},
    s.RebinnedSampling: {"by": "label", "count": 1, "every": 0.5},
    s.RepeatedRandomSubset: {"fraction": 0.0},
    s.SelectiveBackprop: {"form": "queue", "keep": 0.4, "beta": 0.0, "minimum": 1.5, "history": 2.0, "interrupt": -1},
    s.StaticImportanceSampling: {"uniform_share": 1.1},
    s.StratifiedSampling: {"clusters_per_bin": 0, "seed": True, "deviation": "losses", "momentum": 1.0},
    s.SubmodularBatchSelection: {"closeness": -0.5, "refresh_epochs": 0, "partitions": 2.5, "epsilon": 1.0, "share": 0},
    s.UpperBoundImportanceSampling: {"presample": 1, "momentum": 1.0, "score": "norm", "tau_form": "cube"},
}
REFUSED = {
    make: bad | ({"points": "halton"} if "points" in signature(make).parameters else {})
    for make, bad in REFUSED.items()
}
REMEDIES: list[tuple[Make, dict[str, Any], str]] = [
    (s.AdaptiveSampling, {"bin_statistic": "x"}, "`bin_statistic` must be one of sum, .*, second_moment; got 'x'"),
    (s.AdaptiveSampling, {"score": []}, "`score` must name at least one score, got an empty list"),
    (s.AdaptiveSampling, {"score": ["loss", "norm"]}, "`score` must be one of loss, gradient, closeness; got 'norm'"),
    (s.AdaptiveSampling, {"score": {0.5: "loss"}}, r"from 0 and below 1, to scores, such as .*; got \{0.5: 'loss'\}"),
    (s.AdaptiveSampling, {"score": {0: "loss", 1: "gradient"}}, "`score` must map shares of the training, from 0"),
    (s.AdaptiveSampling, {"score": {0: "loss", nan: "gradient"}}, "`score` must map shares of the training, from 0"),
    (s.AdaptiveSampling, {"score": {"half": "loss"}}, "`score` must map shares .* got .*half"),
    (
        s.AdaptiveSampling,
        {"score": ["loss", "gradient"], "delta_q": 0.0},
        "`delta_q` must be above 0 where `score` changes",
    ),
    (s.AdaptiveSampling, {"smoothing": "statistic"}, "`smoothing='statistic'` averages .* but 'sum' grows"),
    (s.AdaptiveSampling, {"q_update": "all"}, "`q_update` is gone: Q moves where it was drawn.*EverywhereSampling"),
    (s.AdaptiveSampling, {"unseen": "mean"}, "`unseen` is gone"),
    (s.ClosenessSampling, {"gamma": "data"}, "`gamma` must be a number of at least 0 or 'follow', got 'data'"),
    (s.ClosenessSampling, {"pressure": 0.5}, "`pressure` must be at least 1, which is uniform, got 0.5"),
    (s.GradientNormSampling, {"staleness": 1.5}, "`staleness` must be an integer .* of batches, or None.*got 1.5"),
    (s.LearnedFilter, {"train_policy": False}, "`train_policy=False` needs a `policy`: name the file that a first run"),
    (s.LossProportional, {"bias_exponent": 1.5}, "`bias_exponent` must be finite and at most 1, .* unbiased; got 1.5"),
    (s.OnlineBatchSelection, {"recompute_every": -1.0}, "`recompute_every` must be .*, or 0 for never, got -1"),
    (s.OnlineBatchSelection, {"recompute_ratio": 0.0}, r"`recompute_ratio` must be in \(0, 1\], got 0.0: .*_every=0"),
    (s.RHOLoss, {}, "`irreducible_losses` is missing: make them with `lightning-as irreducible-losses"),
    (s.RHOLoss, {"irreducible_losses": torch.ones(3, 2)}, r"one finite number per instance, \(N,\), got .* \(3, 2\)"),
    (s.RHOLoss, {"irreducible_losses": [0.0, nan]}, "with 1 that are not finite"),
    (s.RHOLoss, {"irreducible_losses": [1.0], "keep": 0.3}, "`keep` must be 1 over a whole number .* got 0.3"),
    (s.SelectiveBackprop, {"interrupt": 1}, "`interrupt` must be 0 or at least 2 batches, got 1: use 0 to leave none"),
    (s.SelectiveBackprop, {"start": 0.9, "end": 0.5}, "`start` and `end` must be .* got 0.9 and 0.5"),
    (s.StaticImportanceSampling, {"constants": []}, r"`constants` must be one number per instance, got .* \(0,\)"),
    (s.StaticImportanceSampling, {"constants": [1.0, -2.0]}, "`constants` must be .*, got -2.0 at position 1"),
    (s.UpperBoundImportanceSampling, {"threshold": -1.0}, "`threshold` must be finite and .*, got -1.0: 0 scores from"),
]
OPTIONS = [
    (make, {name: value}, f"`{name}` must .*got {value!r}")
    for make, bad in REFUSED.items()
    for name, value in bad.items()
]


@pytest.mark.parametrize(("make", "options", "message"), OPTIONS + REMEDIES)
def test_options_out_of_their_range_are_refused(make: Make, options: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (s.PrioritizedSampling, r"`beta_start` = 0.4 to 1 .* `max_epochs` or `max_steps`, or set `beta_start=1`"),
        (lambda: s.OnlineBatchSelection(100.0, 2.0), "`s_start` = 100.0 to `s_end` = 2.0 .*, or set both equal"),
        (lambda: s.SelectiveBackprop("composer"), "`max_epochs` or `max_steps`, or use `form='percentile'`"),
        (
            lambda: s.AdaptiveSampling(score=SHARES),
            "`score={0: 'loss', 0.5: .*}` goes by .* name the scores in a list",
        ),
        (lambda: s.AdaptiveSampling(score={0: "loss"}), None),
        (lambda: s.AdaptiveSampling(score=["loss", "gradient"]), None),
        (s.InfoBatch, r"`delta=0.875` of InfoBatch goes by the share .* `max_epochs` or .*, or use `delta=1`"),
        (s.LearnedFilter, "no end: give the Trainer `max_epochs` or `max_steps`, or use another strategy"),
        (lambda: s.PrioritizedSampling(beta_start=1.0), None),
        (s.OnlineBatchSelection, None),
        (s.SelectiveBackprop, None),
        (lambda: s.InfoBatch(delta=1), None),
    ],
)
def test_a_schedule_needs_an_end_in_sight(make: Make, message: str | None):
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        started(make(), 60, None)


@pytest.mark.parametrize(
    ("make", "option", "saved", "here", "message"),
    [
        (s.AdaptiveSampling, "score", SHARES, ["loss", "gradient"], "another `score`, .*0.5: 'gradient'.*: use"),
        (
            lambda by: s.RebinnedSampling(by, 3),
            "by",
            "loss",
            "entropy",
            "another `by`, 'loss', but here it is 'entr",
        ),
        (s.GradientNormSampling, "staleness", None, 4, "another `staleness`, 'None', but here it is '4': use"),
        (s.GradientNormSampling, "staleness", 8, 4, "another `staleness`, '8', but here it is '4': use the one"),
        (s.AdaptiveSampling, "points", "strata", "independent", "another `points`, 'strata', but here it is 'indep"),
        (s.OnlineBatchSelection, "points", "independent", "strata", "another `points`, 'independent', but here it is"),
        (s.LossProportional, "predictor", "lstm", "history", "another `predictor`, 'lstm', but here it is 'history'"),
        (s.PrioritizedSampling, "variant", "rank", "proportional", "another `variant`, 'rank', but here it is"),
        (s.StaticImportanceSampling, "constants", range(9), range(9, 0, -1), "of other `constants` than those given"),
    ],
)
def test_a_state_of_another_option_is_refused(make: Make, option: str, saved: Any, here: Any, message: str):
    one, other = (AdaptiveBatchSampler(Bins.single(9), batch_size=3) for _ in range(2))
    one.attach(make(**{option: saved}))
    other.attach(make(**{option: here}))
    for index in range(9):
        learn(one.strategy, [index], double(1))
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("make", "one_bin", "several"),
    [
        (s.AdaptiveSampling, {"losses"}, {"losses", "bounds"}),
        (lambda: s.AdaptiveSampling(score="gradient"), {"bounds"}, {"bounds"}),
        (lambda: s.AdaptiveSampling(score="closeness"), {"losses"}, {"losses", "bounds"}),
        (lambda: s.AdaptiveSampling(score=SHARES), {"losses", "bounds"}, {"losses", "bounds"}),
        (lambda: s.RebinnedSampling("loss", score="gradient"), {"losses", "bounds"}, {"losses", "bounds"}),
        (s.GopalSampling, set(), {"bounds"}),
        (s.LearnedProposal, set(), {"bounds"}),
        (lambda: s.StratifiedSampling(1, "gradients"), {"bounds"}, {"bounds"}),
    ],
)
def test_what_is_read_is_what_options_and_bins_need_and_no_more_changes_a_draw(make: Make, one_bin: Any, several: Any):
    strategy = make()
    for bins, reads in ((Bins.single(96), one_bin), (Bins(torch.arange(96) % 4), several), (Bins.single(96), one_bin)):
        driver, curious = Driver(strategy, bins), Driver(make(), bins)
        assert strategy.reads == reads
        curious.strategy.reads |= {"losses", "bounds"}
        pairs = zip(driver.run(2 * EPOCH).trained, curious.run(2 * EPOCH).trained, strict=True)
        assert all(torch.equal(one.indices, other.indices) for one, other in pairs)
