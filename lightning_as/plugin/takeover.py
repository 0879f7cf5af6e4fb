"""What a strategy keeps of what it has learnt when its batches come from another sampler, or a checkpoint."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_as.plugin.wiring import Sampler, length_of_training
from lightning_as.strategies import Strategy

OtherData = Literal["reset", "keep"]
"""What becomes of what was learnt when other data come in the same bins."""


def take_over(
    trainer: Trainer,
    strategy: Strategy,
    sampler: Sampler,
    previous: Sampler | None,
    state: dict[str, Any] | None,
    other_data: OtherData,
) -> bool:
    """Have a sampler draw by a strategy, with what that has learnt if the data are still the same.

    Args:
        trainer: The Trainer.
        strategy: The method.
        sampler: Where the batches come from now.
        previous: Where they came from before, if anywhere; perhaps the same.
        state: A saved state of a sampler, to go on from instead. Default: none.
        other_data: As in the callback.

    Returns:
        Whether that goes on; else it is forgotten, as is the state.

    Raises:
        ValueError: If the state is of something else than other data in the same bins.
    """
    tags, learned_from = _origin(previous, state)
    in_bins = previous is sampler or (isinstance(tags, Tensor) and torch.equal(tags, sampler.bins.tags))
    known = other_data == "keep" or 0 in (learned_from, sampler.data) or learned_from == sampler.data
    forgets = tags is not None and (in_bins or state is None) and not (in_bins and known)
    if trainer.world_size > 1:  # all processes must draw the same, and so forget together
        forgets = trainer.strategy.reduce_boolean_decision(forgets, all=False)
    if forgets:
        _warn(strategy, in_bins)
        state = None
    elif state is None and previous is not None and previous is not sampler:
        state = previous.state_dict(strategy)
    if forgets or state is not None or sampler is not previous or sampler.strategy is not strategy:
        sampler.attach(strategy, anew=forgets)
    strategy.plan(*length_of_training(trainer))
    if state is not None:
        sampler.load_state_dict(state)
    sampler.learned_from = sampler.data
    return not forgets


def _origin(previous: Sampler | None, state: dict[str, Any] | None) -> tuple[Any, Any]:
    """The partition, (N,), and the fingerprint of the data that was learnt from, if any."""
    if state is not None:
        return state.get("tags"), state.get("data", 0)
    return (None, 0) if previous is None else (previous.bins.tags, previous.learned_from)


def _warn(strategy: Strategy, in_bins: bool) -> None:
    differ = "other instances" if in_bins else "other bins"
    keep = " Where they are still the same to you, keep it: `AdaptiveSamplingCallback(other_data='keep')`."
    rank_zero_warn(
        f"{type(strategy).__name__} has learnt from other data ({differ}) than it draws from now: what it has learnt "
        f"is forgotten, and it starts anew.{keep if in_bins else ''}"
    )
