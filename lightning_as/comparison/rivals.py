"""Who is compared: uniform sampling, and strategies by name."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar

from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.strategies import Strategy

UNIFORM = "uniform"
_SWITCHED_OFF = (Checkpoint, ModelSummary, ProgressBar)


class Rival(NamedTuple):
    """One way to sample."""

    name: str
    strategy: Strategy | None
    """What the callback samples by; None for shuffled epochs without the callback."""

    def callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """The callbacks of one run: copies of those that were given, with what this rival samples by.

        Left out are checkpoints, progress bars, summaries and all others of this package.

        Raises:
            ValueError: If the options of the callback do not go with the strategy.
        """
        ours = callback_of(given)
        kept = [copy.deepcopy(one) for one in given if not isinstance(one, _SWITCHED_OFF) and not _is_ours(one)]
        if self.strategy is None:
            return kept
        callback = AdaptiveSamplingCallback() if ours is None else copy.deepcopy(ours)
        callback.strategy = copy.deepcopy(self.strategy)
        callback.examples_path = None  # the file is the user's own
        return [callback, *kept]


def callback_of(given: Sequence[Callback]) -> AdaptiveSamplingCallback | None:
    """The one that samples, if there is one."""
    return next((one for one in given if isinstance(one, AdaptiveSamplingCallback)), None)


def make_rivals(
    strategies: Mapping[str, Strategy] | Sequence[Strategy] | None, given: Sequence[Callback]
) -> list[Rival]:
    """Uniform sampling, and the strategies.

    Args:
        strategies: By name, or named by their classes and options. None: that of the callback.
        given: The Trainer's callbacks.

    Raises:
        TypeError: If one is no strategy.
        ValueError: If there are none, two have the same name, or one has been at work.
    """
    if strategies is None:
        callback = callback_of(given) or AdaptiveSamplingCallback()
        strategies = [callback.strategy]
    if not isinstance(strategies, Mapping) and not isinstance(strategies, Sequence):
        raise TypeError(f"`strategies` must be a list of strategies, or a dict of them, got {strategies!r}.")
    named = list(strategies.items()) if isinstance(strategies, Mapping) else [(None, one) for one in strategies]
    if not named:
        raise ValueError("`strategies` is empty: give at least one, such as `[ClosenessSampling()]`.")
    for _, strategy in named:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"`strategies` must hold objects such as ClosenessSampling(), got {strategy!r}.")
        if _has_been_at_work(strategy):
            raise ValueError(
                f"`strategies` has a {type(strategy).__name__} that has been at work in a fit: give a new one, since "
                "it would begin with what it has learnt."
            )
    rivals = [Rival(UNIFORM, None)]
    rivals += [Rival(describe_strategy(strategy) if name is None else name, strategy) for name, strategy in named]
    name, times = Counter(rival.name for rival in rivals).most_common(1)[0]
    if times > 1:
        raise ValueError(f"`strategies` has two rivals of the name {name!r}: give a dict with another name for each.")
    return rivals


def describe_strategy(strategy: Strategy) -> str:
    """Its class, and the options in which it differs from the default: ``OnlineBatchSelection(s_start=50)``."""
    try:
        usual: Any = type(strategy)()
    except TypeError:  # of one that has no default
        usual = None
    options: list[str] = []
    for name, parameter in inspect.signature(type(strategy)).parameters.items():
        value: Any = getattr(strategy, name, parameter.default)
        if isinstance(value, (bool, int, float, str)) and value != getattr(usual, name, parameter.default):
            options.append(f"{name}={value!r}")
    return type(strategy).__name__ + (f"({', '.join(options)})" if options else "")


def _has_been_at_work(strategy: Strategy) -> bool:
    try:
        return strategy.bins is not None
    except RuntimeError:
        return False


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "lightning_as"
