"""Every strategy with options for small data: what the tests over all of them go through."""

from collections.abc import Callable

from lightning_as import strategies as of

CATALOGUE: dict[str, Callable[[], of.Strategy]] = {
    "GradientNormSampling": lambda: of.GradientNormSampling(constant=0.5, staleness=6),
    "LearnedFilter": lambda: of.LearnedFilter(target_accuracy=0.5),
    "LossProportional": lambda: of.LossProportional(smoothing=0.1),
    "LossProportional by predictions": lambda: of.LossProportional(predictor="lstm", presample=64, smoothing=0.1),
    "StaticImportanceSampling": of.StaticImportanceSampling,
    "UpperBoundImportanceSampling": lambda: of.UpperBoundImportanceSampling(threshold=0.5),
    "AdaptiveSampling": lambda: of.AdaptiveSampling(beta=3),
    "ClosenessSampling": of.ClosenessSampling,
    "StratifiedSampling": lambda: of.StratifiedSampling(clusters_per_bin=2, deviation="gradients"),
    "GopalSampling": lambda: of.GopalSampling(update_every=40),
    "InfoBatch": lambda: of.InfoBatch(delta=0.5),
    "LearnedProposal": of.LearnedProposal,
    "OnlineBatchSelection": lambda: of.OnlineBatchSelection(100, 1.01, sort_period=30, recompute_every=0.7),
    "OnlineBatchSelection shuffled": lambda: of.OnlineBatchSelection(first_pass="shuffled", reweight=True),
    "PrioritizedSampling": of.PrioritizedSampling,
    "PrioritizedSampling by rank": lambda: of.PrioritizedSampling(variant="rank"),
    "RebinnedSampling": lambda: of.RebinnedSampling(count=5, beta=3),
    "RepeatedRandomSubset": lambda: of.RepeatedRandomSubset(fraction=0.3),
    "RepeatedRandomSubset with replacement": lambda: of.RepeatedRandomSubset(fraction=0.3, replacement=True),
    "SubmodularBatchSelection": lambda: of.SubmodularBatchSelection(refresh_epochs=1, partitions=2),
    "SelectiveBackprop": of.SelectiveBackprop,
    "SelectiveBackprop of Composer": lambda: of.SelectiveBackprop(form="composer", start=0.2),
    "RHOLoss": lambda: of.RHOLoss([0.1 * (i % 7) for i in range(96)], keep=0.25),
    "Uniform": of.Uniform,
    "Uniform with replacement": lambda: of.Uniform(replacement=True),
}

VARIANTS: dict[str, Callable[[], of.Strategy]] = {
    "AdaptiveSampling by statistic": lambda: of.AdaptiveSampling(
        3, 0.5, 0, "second_moment", "gradient", "statistic", 0.2
    ),
    "ClosenessSampling that follows": lambda: of.ClosenessSampling(100, "follow", warm_up=0.5, relaxation=0),
    "AdaptiveSampling by shares": lambda: of.AdaptiveSampling(
        3, score={0: "loss", 0.3: "gradient", 0.7: "closeness"}, floor=0.2
    ),
    "AdaptiveSampling by signal": lambda: of.AdaptiveSampling(3, score=["closeness", "gradient", "loss"]),
    "GradientNormSampling for ever": lambda: of.GradientNormSampling(warm_up=0.0),
    "LossProportional unbiased": lambda: of.LossProportional(smoothing=0.1, bias_exponent=1.0),
    "PrioritizedSampling unbiased": lambda: of.PrioritizedSampling(beta_start=1.0),
    "RebinnedSampling by loss": lambda: of.RebinnedSampling("loss", 7, beta=3, score="gradient"),
    "RebinnedSampling by features": lambda: of.RebinnedSampling("features", 3, 2, 4, bin_statistic="sum_over_q"),
    "StaticImportanceSampling by constants": lambda: of.StaticImportanceSampling(constants=[i % 7 for i in range(96)]),
    "StratifiedSampling by inputs": of.StratifiedSampling,
    "StratifiedSampling of bins": lambda: of.StratifiedSampling(clusters_per_bin=1, deviation="gradients"),
    "UpperBoundImportanceSampling by loss": lambda: of.UpperBoundImportanceSampling(score="loss", threshold=0.0),
}
"""Other options of the same, for the tests that need no Trainer."""
