"""Selective-sampling methods: one paper, one file."""

from lightning_as.strategies.adaptive import AdaptiveSampling
from lightning_as.strategies.base import BatchSelector, Scores, Selection, Strategy
from lightning_as.strategies.gopal import GopalSampling
from lightning_as.strategies.infobatch import InfoBatch
from lightning_as.strategies.learned_proposal import LearnedProposal
from lightning_as.strategies.repeated_random_subset import RepeatedRandomSubset
from lightning_as.strategies.stratified import StratifiedSampling
from lightning_as.strategies.uniform import Uniform

__all__ = [
    "AdaptiveSampling",
    "BatchSelector",
    "GopalSampling",
    "InfoBatch",
    "LearnedProposal",
    "RepeatedRandomSubset",
    "Scores",
    "Selection",
    "Strategy",
    "StratifiedSampling",
    "Uniform",
]
