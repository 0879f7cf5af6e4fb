"""Every strategy with options for small data: what the tests over all of them go through."""

from collections.abc import Callable

from lightning_as.strategies import (
    AdaptiveSampling,
    GopalSampling,
    GradientNormSampling,
    InfoBatch,
    LearnedFilter,
    LearnedProposal,
    LossProportional,
    OnlineBatchSelection,
    PrioritizedSampling,
    RepeatedRandomSubset,
    RHOLoss,
    SelectiveBackprop,
    StaticImportanceSampling,
    Strategy,
    StratifiedSampling,
    SubmodularBatchSelection,
    Uniform,
    UpperBoundImportanceSampling,
)

CATALOGUE: dict[str, Callable[[], Strategy]] = {
    "GradientNormSampling": lambda: GradientNormSampling(constant=0.5, staleness=6),
    "LearnedFilter": lambda: LearnedFilter(target_accuracy=0.5),
    "LossProportional": lambda: LossProportional(smoothing=0.1),
    "LossProportional by predictions": lambda: LossProportional(predictor="lstm", presample=64, smoothing=0.1),
    "StaticImportanceSampling": StaticImportanceSampling,
    "UpperBoundImportanceSampling": lambda: UpperBoundImportanceSampling(threshold=0.5),
    "AdaptiveSampling": lambda: AdaptiveSampling(beta=3),
    "StratifiedSampling": lambda: StratifiedSampling(clusters_per_bin=2, deviation="gradients"),
    "GopalSampling": lambda: GopalSampling(update_every=40),
    "InfoBatch": lambda: InfoBatch(delta=0.5),
    "LearnedProposal": LearnedProposal,
    "OnlineBatchSelection": lambda: OnlineBatchSelection(s_start=100, s_end=1.01, sort_period=30, recompute_every=0.7),
    "OnlineBatchSelection shuffled": lambda: OnlineBatchSelection(first_pass="shuffled", reweight=True),
    "PrioritizedSampling": PrioritizedSampling,
    "PrioritizedSampling by rank": lambda: PrioritizedSampling(variant="rank"),
    "RepeatedRandomSubset": lambda: RepeatedRandomSubset(fraction=0.3),
    "RepeatedRandomSubset with replacement": lambda: RepeatedRandomSubset(fraction=0.3, replacement=True),
    "SubmodularBatchSelection": lambda: SubmodularBatchSelection(refresh_epochs=1, partitions=2),
    "SelectiveBackprop": SelectiveBackprop,
    "SelectiveBackprop of Composer": lambda: SelectiveBackprop(form="composer", start=0.2),
    "RHOLoss": lambda: RHOLoss([0.1 * (i % 7) for i in range(96)], keep=0.25),
    "Uniform": Uniform,
    "Uniform with replacement": lambda: Uniform(replacement=True),
}

VARIANTS: dict[str, Callable[[], Strategy]] = {
    "AdaptiveSampling by statistic": lambda: AdaptiveSampling(3, 0.5, 0, "second_moment", "gradient", "statistic", 0.2),
    "GradientNormSampling for ever": lambda: GradientNormSampling(warm_up=0.0),
    "LossProportional unbiased": lambda: LossProportional(smoothing=0.1, bias_exponent=1.0),
    "PrioritizedSampling unbiased": lambda: PrioritizedSampling(beta_start=1.0),
    "StaticImportanceSampling by constants": lambda: StaticImportanceSampling(constants=[i % 7 for i in range(96)]),
    "StratifiedSampling by inputs": StratifiedSampling,
    "StratifiedSampling of bins": lambda: StratifiedSampling(clusters_per_bin=1, deviation="gradients"),
    "UpperBoundImportanceSampling by loss": lambda: UpperBoundImportanceSampling(score="loss", threshold=0.0),
}
"""Other options of the same, for the tests that need no Trainer."""
