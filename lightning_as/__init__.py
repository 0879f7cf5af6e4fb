"""Adaptive sampling for PyTorch Lightning: spend the training on the examples that matter."""

from lightning_as.batch_sampler import AdaptiveBatchSampler
from lightning_as.bins import Bins
from lightning_as.callback import AdaptiveSamplingCallback
from lightning_as.classifier import ConvNetClassifier
from lightning_as.dataloader import AdaptiveDataLoader
from lightning_as.datamodule import AdaptiveDataModule
from lightning_as.distance_weighted import DistanceWeightedSampling
from lightning_as.draw import Draw, effective_sample_size
from lightning_as.gradient_bound import gradient_bound
from lightning_as.margin_embedding import MarginEmbedding
from lightning_as.mnist import MNISTDataModule
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
from lightning_as.sum_tree import SumTree
from lightning_as.torchvision_data import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule

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
