"""Selective-sampling methods: one paper, one file."""

from lightning_as.strategies.adaptive import AdaptiveSampling
from lightning_as.strategies.base import BatchSelector, Scores, Selection, Strategy
from lightning_as.strategies.uniform import Uniform

__all__ = ["AdaptiveSampling", "BatchSelector", "Scores", "Selection", "Strategy", "Uniform"]
