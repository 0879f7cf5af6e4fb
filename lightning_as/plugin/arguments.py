"""Checks of the callback's arguments that need neither a Trainer nor a module."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from lightning_as.core.arguments import check_choice, check_positive, check_share
from lightning_as.core.draw import Weighting
from lightning_as.plugin.criterion import PerSample
from lightning_as.plugin.forward import Forward
from lightning_as.plugin.rows import check_kept
from lightning_as.plugin.takeover import OtherData
from lightning_as.plugin.weights import check_weighting
from lightning_as.strategies import Strategy


class Options(NamedTuple):
    """What the callback was given, but for the strategy and the record; see :class:`AdaptiveSamplingCallback`."""

    logits_from: str | None
    recompute: bool
    target_key: int | str | None
    per_sample_loss: PerSample | str | None
    gradient_bound: PerSample | Literal["autograd"] | None
    weights: Weighting | Literal["source"]
    weight_limit: float
    weight_power: float
    forward: Forward | None
    weights_attribute: str
    kept: int | str | None
    compare_loss: bool
    other_data: OtherData


def check_options(options: Options) -> None:
    """Raise if an option is not what it must be.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If it is out of its range.
    """
    check_functions(options.forward, options.per_sample_loss, options.gradient_bound, options.logits_from)
    check_choice("weights", options.weights, ("source", *get_args(Weighting)))
    check_attribute(options.weights_attribute)
    check_positive("weight_limit", options.weight_limit)
    check_share("weight_power", options.weight_power, with_one=True)
    check_choice("other_data", options.other_data, get_args(OtherData))


def check_strategy(options: Options, strategy: Strategy) -> None:
    """Raise a `ValueError` if options do not go with a strategy."""
    check_weighting(options.weights, strategy)
    check_kept(options.kept, strategy)


def check_functions(forward: Any, per_sample_loss: Any, gradient_bound: Any, logits_from: str | None) -> None:
    """Raise if an argument that is to be called cannot be.

    Args:
        forward: As in the callback, and so are the others.
        per_sample_loss: It may be a name.
        gradient_bound: It may be ``"autograd"``, which needs `logits_from`.
        logits_from: See above.

    Raises:
        TypeError: If one is of another kind.
        ValueError: If a submodule is missing.
    """
    if not (forward is None or callable(forward)):
        raise TypeError(f"`forward` must be a function of a batch that gives its logits, got {forward!r}.")
    if not (per_sample_loss is None or isinstance(per_sample_loss, str) or callable(per_sample_loss)):
        raise TypeError(
            "`per_sample_loss` must be a function of logits and targets, or the name of the module's own, got "
            f"{per_sample_loss!r}."
        )
    if not (gradient_bound in (None, "autograd") or callable(gradient_bound)):
        raise TypeError(f"`gradient_bound` must be a function or 'autograd', got {gradient_bound!r}.")
    if gradient_bound == "autograd" and logits_from is None:
        raise ValueError("`gradient_bound='autograd'` observes a gradient at a submodule: name it, `logits_from`.")


def check_attribute(weights_attribute: Any) -> None:
    """Raise a `ValueError` if it cannot be the name of an attribute."""
    if not (isinstance(weights_attribute, str) and weights_attribute.isidentifier()):
        raise ValueError(f"`weights_attribute` must be the name of an attribute, got {weights_attribute!r}.")
