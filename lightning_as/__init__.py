"""Adaptive sampling for PyTorch Lightning: spend the training on the examples that matter."""

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, effective_sample_size
from lightning_as.core.sum_tree import SumTree
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.dataloader import AdaptiveDataLoader
from lightning_as.data.datamodule import AdaptiveDataModule
from lightning_as.data.mnist import MNISTDataModule
from lightning_as.data.torchvision_data import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule
from lightning_as.losses import gradient_bound
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.models.margin_embedding import DistanceWeightedSampling, MarginEmbedding
from lightning_as.plugin.callback import AdaptiveSamplingCallback
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

__all__ = [
    "AdaptiveBatchSampler",
    "AdaptiveDataLoader",
    "AdaptiveDataModule",
    "AdaptiveSampling",
    "AdaptiveSamplingCallback",
    "Bins",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "ConvNetClassifier",
    "DistanceWeightedSampling",
    "Draw",
    "FashionMNISTDataModule",
    "GopalSampling",
    "GradientNormSampling",
    "InfoBatch",
    "LearnedFilter",
    "LearnedProposal",
    "LossProportional",
    "MNISTDataModule",
    "MarginEmbedding",
    "OnlineBatchSelection",
    "PrioritizedSampling",
    "RHOLoss",
    "RepeatedRandomSubset",
    "SelectiveBackprop",
    "StaticImportanceSampling",
    "Strategy",
    "StratifiedSampling",
    "SubmodularBatchSelection",
    "SumTree",
    "Uniform",
    "UpperBoundImportanceSampling",
    "effective_sample_size",
    "gradient_bound",
]
