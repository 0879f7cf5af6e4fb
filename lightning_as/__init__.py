"""Adaptive sampling for PyTorch Lightning: spend the training on the examples that matter."""

from importlib.metadata import PackageNotFoundError, version

from lightning_as.comparison.compare import compare
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, importance_weights
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.chunks import InChunks
from lightning_as.data.dataloader import AdaptiveDataLoader
from lightning_as.data.datamodule import AdaptiveDataModule
from lightning_as.data.image_data import ImageDataModule
from lightning_as.data.iterable import AdaptiveIterableLoader
from lightning_as.data.mnist import MNISTDataModule
from lightning_as.data.partition import make_bins
from lightning_as.data.torchvision_data import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule
from lightning_as.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.models.residual import ResidualNetClassifier
from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.plugin.hand_over import hand_over
from lightning_as.plugin.irreducible import irreducible_losses
from lightning_as.report.callback import SamplingReport
from lightning_as.strategies import (
    AdaptiveSampling,
    BatchSelector,
    ClosenessSampling,
    GopalSampling,
    GradientNormSampling,
    InfoBatch,
    KeepOrSkip,
    LearnedFilter,
    LearnedProposal,
    LossProportional,
    OnlineBatchSelection,
    PrioritizedSampling,
    RebinnedSampling,
    RepeatedRandomSubset,
    RHOLoss,
    Scores,
    Selection,
    SelectiveBackprop,
    StaticImportanceSampling,
    Strategy,
    StratifiedSampling,
    SubmodularBatchSelection,
    Uniform,
    UpperBoundImportanceSampling,
)

try:
    __version__ = version("lightning-as")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "AdaptiveBatchSampler",
    "AdaptiveDataLoader",
    "AdaptiveDataModule",
    "AdaptiveIterableLoader",
    "AdaptiveSampling",
    "AdaptiveSamplingCallback",
    "BatchSelector",
    "BinaryCrossEntropy",
    "Bins",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "ClosenessSampling",
    "ConvNetClassifier",
    "CrossEntropy",
    "Draw",
    "FashionMNISTDataModule",
    "GopalSampling",
    "GradientNormSampling",
    "ImageDataModule",
    "InChunks",
    "InfoBatch",
    "KeepOrSkip",
    "LearnedFilter",
    "LearnedProposal",
    "LossProportional",
    "MNISTDataModule",
    "MeanSquaredError",
    "OnlineBatchSelection",
    "PrioritizedSampling",
    "RHOLoss",
    "RebinnedSampling",
    "RepeatedRandomSubset",
    "ResidualNetClassifier",
    "SamplingReport",
    "Scores",
    "Selection",
    "SelectiveBackprop",
    "StaticImportanceSampling",
    "Strategy",
    "StratifiedSampling",
    "SubmodularBatchSelection",
    "Uniform",
    "UpperBoundImportanceSampling",
    "__version__",
    "compare",
    "hand_over",
    "importance_weights",
    "irreducible_losses",
    "make_bins",
]
