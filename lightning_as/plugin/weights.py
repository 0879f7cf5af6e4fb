"""Importance weights on their way from a draw to the loss of the batch that was drawn.

An instance drawn with probability r_i instead of 1/N counts w_i = 1 / (N r_i) times; then the expected gradient is that
of the mean loss over the data set. Thesis, eq. (65).
"""

from __future__ import annotations

import inspect
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_as.core.draw import Draw, Weighting, importance_weights
from lightning_as.plugin.candidates import submodules
from lightning_as.strategies import Strategy


class Weights:
    """The weights of the batches of one fit; arguments are those of the callback.

    Args:
        module: The module that is trained.
        strategy: What draws the batches.
        weighting: Which weights.
        limit: The largest weight of ``"clipped"``.
        power: The exponent of ``"power"``.
        scaled: Whether a hook can scale the gradient of the logits, for modules without the attribute.
        attribute: The attribute of modules that multiply their losses by the weights themselves.

    Raises:
        MisconfigurationException: If weights are wanted, and can reach the loss in neither way; or if the attribute is
            something of the module's own.
    """

    def __init__(
        self,
        module: LightningModule,
        strategy: Strategy,
        weighting: Weighting | Literal["source"],
        limit: float,
        power: float,
        scaled: bool,
        attribute: str = "importance_weights",
    ) -> None:
        self._module = module
        self._strategy = strategy
        self._weighting: Weighting | Literal["source"] = weighting
        self._limit = limit
        self._power = power
        self._attribute = attribute
        self._wanted = strategy.weighted if weighting == "source" else weighting != "none"
        if self._wanted:
            self._check_attribute()
        if self._wanted and not scaled and not self.by_module:
            raise MisconfigurationException(
                f"`weights={weighting!r}` of {type(strategy).__name__} cannot reach the loss: name the submodule that "
                f"gives the logits, `logits_from=…`, one of {submodules(module)}; or give {type(module).__name__} an "
                f"attribute `{attribute} = None` and multiply its losses by that; or leave them out, `weights='none'`."
            )

    @property
    def by_module(self) -> bool:
        """Whether it is up to the module to multiply its losses."""
        return hasattr(self._module, self._attribute)

    def of(self, draw: Draw) -> Tensor | None:
        """The weights of a batch, of all processes, (B,) float64; None for none."""
        if not self._wanted:
            return None
        if self._weighting == "source":  # which may do without them for a while
            return torch.ones_like(draw.probabilities) if draw.weights is None else draw.weights
        size = self._strategy.bins.mean_size
        return importance_weights(draw.probabilities, size, self._weighting, self._limit, self._power)

    def hand_out(self, weights: Tensor | None) -> Tensor | None:
        """Give a module that has the attribute the weights of its batch.

        Args:
            weights: Those of this process's share, (B,); None for none.

        Returns:
            The same as the loss takes them, float32 on the module's device.
        """
        if weights is None:
            return None
        weights = weights.to(torch.float32).to(self._module.device)
        if self.by_module:
            setattr(self._module, self._attribute, weights)
        return weights

    def take_back(self) -> None:
        """They are of one training batch: validation must not find them."""
        if self._wanted and self.by_module:
            setattr(self._module, self._attribute, None)

    def _check_attribute(self) -> None:
        """Raise if the weights would take the place of something that is the module's own, or cannot be put there."""
        name, kind = self._attribute, type(self._module)
        value, defined = getattr(self._module, name, None), inspect.getattr_static(kind, name, None)
        if value is not None or (isinstance(defined, property) and defined.fset is None):
            what = "a property" if isinstance(defined, property) else f"a {type(value).__name__}"
            raise MisconfigurationException(
                f"The importance weights of a batch are handed to the module as `{name}`, but {kind.__name__} has "
                f"{what} of that name: let it be None between batches if it is for them, or choose another name, "
                "`weights_attribute='…'`."
            )


def check_weighting(weighting: Weighting | Literal["source"], strategy: Strategy) -> None:
    """Raise a `ValueError` if weights go by probabilities that a strategy does not know."""
    if weighting not in ("source", "none") and not strategy.knows_probabilities:
        raise ValueError(
            f"`weights={weighting!r}` go by the probability of each instance, which {type(strategy).__name__} does not "
            "know of those that it chooses: leave `weights` out, or use a strategy that draws by probabilities, such "
            "as ClosenessSampling() or UpperBoundImportanceSampling()."
        )
