"""Selective-sampling methods: one paper, one file."""

from lightning_as.strategies.adaptive import AdaptiveSampling
from lightning_as.strategies.base import Strategy
from lightning_as.strategies.batch_selector import BatchSelector, Selection
from lightning_as.strategies.closeness import ClosenessSampling
from lightning_as.strategies.gopal import GopalSampling
from lightning_as.strategies.gradient_norm import GradientNormSampling
from lightning_as.strategies.infobatch import InfoBatch
from lightning_as.strategies.keep_or_skip import KeepOrSkip
from lightning_as.strategies.learned_filter import LearnedFilter
from lightning_as.strategies.learned_proposal import LearnedProposal
from lightning_as.strategies.loss_proportional import LossProportional
from lightning_as.strategies.online_batch_selection import OnlineBatchSelection
from lightning_as.strategies.prioritized import PrioritizedSampling
from lightning_as.strategies.rebinned import RebinnedSampling
from lightning_as.strategies.repeated_random_subset import RepeatedRandomSubset
from lightning_as.strategies.rho_loss import RHOLoss
from lightning_as.strategies.scores import Scores
from lightning_as.strategies.selective_backprop import SelectiveBackprop
from lightning_as.strategies.static_importance import StaticImportanceSampling
from lightning_as.strategies.stratified import StratifiedSampling
from lightning_as.strategies.submodular import SubmodularBatchSelection
from lightning_as.strategies.uniform import Uniform
from lightning_as.strategies.upper_bound import UpperBoundImportanceSampling

__all__ = [
    "AdaptiveSampling",
    "BatchSelector",
    "ClosenessSampling",
    "GopalSampling",
    "GradientNormSampling",
    "InfoBatch",
    "KeepOrSkip",
    "LearnedFilter",
    "LearnedProposal",
    "LossProportional",
    "OnlineBatchSelection",
    "PrioritizedSampling",
    "RHOLoss",
    "RebinnedSampling",
    "RepeatedRandomSubset",
    "Scores",
    "Selection",
    "SelectiveBackprop",
    "StaticImportanceSampling",
    "Strategy",
    "StratifiedSampling",
    "SubmodularBatchSelection",
    "Uniform",
    "UpperBoundImportanceSampling",
]
