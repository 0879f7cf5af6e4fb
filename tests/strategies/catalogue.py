"""Every strategy with options for small data: what the tests over all of them go through."""

from __future__ import annotations

from collections.abc import Callable

from lightning_as.strategies import (
    AdaptiveSampling,
    GopalSampling,
    InfoBatch,
    LearnedProposal,
    RepeatedRandomSubset,
    Strategy,
    StratifiedSampling,
    Uniform,
)

CATALOGUE: dict[str, Callable[[], Strategy]] = {
    "AdaptiveSampling": lambda: AdaptiveSampling(beta=3),
    "StratifiedSampling": lambda: StratifiedSampling(clusters_per_bin=2, deviation="gradients"),
    "GopalSampling": lambda: GopalSampling(update_every=40),
    "InfoBatch": lambda: InfoBatch(delta=0.6),
    "LearnedProposal": LearnedProposal,
    "RepeatedRandomSubset": lambda: RepeatedRandomSubset(fraction=0.3),
    "RepeatedRandomSubset with replacement": lambda: RepeatedRandomSubset(fraction=0.3, replacement=True),
    "Uniform": Uniform,
    "Uniform with replacement": lambda: Uniform(replacement=True),
}
