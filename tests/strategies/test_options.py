"""What the constructors refuse: a message names the option and the value; and which schedules need an end."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch

from lightning_as import strategies as s
from lightning_as.core.bins import Bins

REFUSED: list[tuple[Callable[..., s.Strategy], dict[str, Any], str]] = [
    (s.GradientNormSampling, {"constant": nan}, "`constant` must be finite and not negative, got nan"),
    (s.GradientNormSampling, {"staleness": 0}, "`staleness` must be at least 1 batches, or None for .*, got 0"),
    (s.GradientNormSampling, {"staleness": 1.5}, r"`staleness` must be an integer number of batches, .*, got 1\.5"),
    (s.GradientNormSampling, {"warm_up": 1.0}, r"`warm_up` must be in \[0, 1\), got 1\.0"),
    (s.InfoBatch, {"prune_share": 1.0}, r"`prune_share` must be in \[0, 1\), got 1.0"),
    (s.InfoBatch, {"delta": 1.5}, r"`delta` must be in \[0, 1\], got 1.5"),
    (s.LearnedFilter, {"presample": 1}, "`presample` must be at least 2 batches, got 1"),
    (s.LearnedFilter, {"presample": 2.0}, "`presample` must be an integer number of batches, got 2.0"),
    (s.LearnedFilter, {"train_policy": False}, "`train_policy=False` needs a `policy`: name the file that a first run"),
    (s.LearnedFilter, {"learning_rate": 0.0}, "`learning_rate` must be finite and positive, got 0.0"),
    (s.LearnedFilter, {"target_accuracy": 98.0}, r"`target_accuracy` must be in \(0, 1\], got 98.0"),
    (s.LossProportional, {"smoothing": -0.1}, "`smoothing` must be finite and not negative, got -0.1"),
    (s.LossProportional, {"exponent": inf}, "`exponent` must be finite and not negative, got inf"),
    (s.LossProportional, {"bias_exponent": 1.5}, "`bias_exponent` must be finite and at most 1, .* unbiased; got 1.5"),
    (s.LossProportional, {"predictor": "gru"}, "`predictor` must be one of history, lstm; got 'gru'"),
    (s.LossProportional, {"presample": 0}, "`presample` must be at least 1 instances, got 0"),
    (s.LossProportional, {"seed": True}, "`seed` must be an integer, got True"),
    (s.OnlineBatchSelection, {"s_start": 0.5}, "`s_start` must be a finite selection pressure of at least 1, got 0.5"),
    (s.OnlineBatchSelection, {"sort_period": 0}, "`sort_period` must be at least 1 instances, got 0"),
    (s.OnlineBatchSelection, {"recompute_every": -1.0}, "`recompute_every` must be .*, or 0 for never, got -1"),
    (s.OnlineBatchSelection, {"recompute_ratio": 0.0}, r"`recompute_ratio` must be in \(0, 1\], got 0.0: .*_every=0"),
    (s.OnlineBatchSelection, {"first_pass": "any"}, "`first_pass` must be one of sequential, shuffled; got 'any'"),
    (s.PrioritizedSampling, {"variant": "greedy"}, "`variant` must be one of proportional, rank; got 'greedy'"),
    (s.PrioritizedSampling, {"alpha": -0.1}, r"`alpha` must be in \[0, 1\], got -0.1"),
    (s.PrioritizedSampling, {"beta_start": 1.5}, r"`beta_start` must be in \[0, 1\], got 1.5"),
    (s.PrioritizedSampling, {"epsilon": 0.0}, "`epsilon` must be a positive number, such as 1e-6, got 0.0"),
    (s.RepeatedRandomSubset, {"fraction": 0.0}, r"`fraction` must be in \(0, 1\], a share of the data set; got 0.0"),
    (s.RHOLoss, {}, "`irreducible_losses` is missing: make them with `lightning-as irreducible-losses"),
    (s.RHOLoss, {"irreducible_losses": torch.ones(3, 2)}, r"one finite number per instance, \(N,\), got .* \(3, 2\)"),
    (s.RHOLoss, {"irreducible_losses": [0.0, nan]}, "with 1 that are not finite"),
    (s.RHOLoss, {"irreducible_losses": [1.0], "keep": 0.3}, "`keep` must be 1 over a whole number .* got 0.3"),
    (s.SelectiveBackprop, {"form": "queue"}, "`form` must be one of percentile, composer; got 'queue'"),
    (s.SelectiveBackprop, {"keep": 0.4}, "`keep` must be 1 over a whole number .* got 0.4"),
    (s.SelectiveBackprop, {"beta": 0.0}, "`beta` must be finite and positive, got 0.0"),
    (s.SelectiveBackprop, {"minimum": 1.5}, r"`minimum` must be in \[0, 1\], got 1.5"),
    (s.SelectiveBackprop, {"history": 2.0}, "`history` must be an integer number of losses, got 2.0"),
    (s.SelectiveBackprop, {"interrupt": 1}, "`interrupt` must be 0 or at least 2 batches, got 1: use 0 to leave none"),
    (s.SelectiveBackprop, {"interrupt": -1}, "`interrupt` must be at least 0 batches, got -1"),
    (s.SelectiveBackprop, {"start": 0.9, "end": 0.5}, "`start` and `end` must be .* got 0.9 and 0.5"),
    (s.StaticImportanceSampling, {"uniform_share": 1.1}, r"`uniform_share` must be in \[0, 1\], got 1.1"),
    (s.StaticImportanceSampling, {"constants": []}, r"`constants` must be one number per instance, got .* \(0,\)"),
    (s.StaticImportanceSampling, {"constants": [1.0, -2.0]}, "`constants` must be .*, got -2.0 at position 1"),
    (s.StratifiedSampling, {"clusters_per_bin": 0}, "`clusters_per_bin` must be at least 1, got 0"),
    (s.StratifiedSampling, {"seed": True}, "`seed` must be an integer, got True"),
    (s.StratifiedSampling, {"deviation": "losses"}, "`deviation` must be one of inputs, gradients; got 'losses'"),
    (s.StratifiedSampling, {"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0"),
    (s.SubmodularBatchSelection, {"closeness": -0.5}, "`closeness` must be finite and not negative, got -0.5"),
    (s.SubmodularBatchSelection, {"refresh_epochs": 0}, "`refresh_epochs` must be at least 1, got 0"),
    (s.SubmodularBatchSelection, {"partitions": 2.5}, "`partitions` must be an integer, got 2.5"),
    (s.SubmodularBatchSelection, {"epsilon": 1.0}, r"`epsilon` must be in \(0, 1\), got 1.0"),
    (s.SubmodularBatchSelection, {"share": 0.0}, r"`share` must be in \(0, 1\], got 0.0"),
    (s.UpperBoundImportanceSampling, {"presample": 1}, "`presample` must be at least 2 batches of candidates, got 1"),
    (s.UpperBoundImportanceSampling, {"threshold": -1.0}, "`threshold` must be finite and .*, got -1.0: 0 scores from"),
    (s.UpperBoundImportanceSampling, {"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0"),
    (s.UpperBoundImportanceSampling, {"score": "norm"}, "`score` must be one of bound, loss; got 'norm'"),
    (s.UpperBoundImportanceSampling, {"tau_form": "cube"}, "`tau_form` must be one of sqrt, ratio; got 'cube'"),
]


@pytest.mark.parametrize(("make", "options", "message"), REFUSED)
def test_options_out_of_their_range_are_refused(make: Callable[..., s.Strategy], options: Any, message: str):
    with pytest.raises(TypeError if "must be an integer" in message else ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (s.PrioritizedSampling, r"`beta_start` = 0.4 to 1 .* `max_epochs` or `max_steps`, or set `beta_start=1`"),
        (lambda: s.OnlineBatchSelection(100.0, 2.0), "`s_start` = 100.0 to `s_end` = 2.0 .*, or set both equal"),
        (lambda: s.SelectiveBackprop("composer"), "`max_epochs` or `max_steps`, or use `form='percentile'`"),
        (s.InfoBatch, r"`delta=0.875` of InfoBatch goes by the share .* `max_epochs` or .*, or use `delta=1`"),
        (s.LearnedFilter, "no end: give the Trainer `max_epochs` or `max_steps`, or use another strategy"),
        (lambda: s.PrioritizedSampling(beta_start=1.0), None),
        (s.OnlineBatchSelection, None),
        (s.SelectiveBackprop, None),
        (lambda: s.InfoBatch(delta=1), None),
    ],
)
def test_a_schedule_needs_an_end_in_sight(make: Callable[[], s.Strategy], message: str | None):
    strategy = make()
    strategy.start(Bins.single(60))
    if message:
        with pytest.raises(ValueError, match=message):
            strategy.plan(None, 6)
    else:
        strategy.plan(None, 6)
