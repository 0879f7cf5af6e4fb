"""How batches are drawn: strategies by name, or written out as ``Strategy(option=value)``."""

from __future__ import annotations

import ast
import inspect

from lightning_as import strategies
from lightning_as.strategies import Strategy

UNIFORM = "uniform"
"""The name of no strategy at all: shuffled epochs, without the callback."""
RIVALS = {
    UNIFORM: "",
    "rs2": "RepeatedRandomSubset()",
    "infobatch": "InfoBatch()",
    # The script's other pressures, and a first epoch that is fair to data in any order.
    "obs": "OnlineBatchSelection(s_start=100, s_end=1.01, first_pass='shuffled')",
    "selective-backprop": "SelectiveBackprop()",
    "thesis": "AdaptiveSampling(floor=0.0, points='independent')",
    "closeness": "ClosenessSampling(pressure=10, gamma='follow')",
    "closeness-fixed": "ClosenessSampling(pressure=10, gamma=0.5)",
}
"""What each name stands for; a candidate needs a line here, or none if it is written out on the command line."""


def specification(rival: str) -> str:
    """What a rival stands for, in one way of writing; none for uniform sampling.

    Raises:
        ValueError: If it is neither a name of :data:`RIVALS` nor a strategy.
    """
    text = RIVALS.get(rival, rival)
    if not text:
        return ""
    name, options = parse(text)
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in sorted(options.items()))})"


def make(rival: str) -> Strategy | None:
    """A new strategy, or None for uniform sampling.

    Raises:
        ValueError: If it is neither a name of :data:`RIVALS` nor a strategy.
    """
    text = RIVALS.get(rival, rival)
    if not text:
        return None
    name, options = parse(text)
    try:
        return getattr(strategies, name)(**options)
    except TypeError as error:  # an option that it does not have
        raise ValueError(f"`--rivals {rival}` cannot be made: {error}.") from None


def parse(text: str) -> tuple[str, dict[str, object]]:
    """The name and the options of a strategy that is written out.

    Args:
        text: Such as ``OnlineBatchSelection(s_start=100, s_end=1)``: options by their names, with literals as values.

    Raises:
        ValueError: If it is anything else, or the package has no such strategy.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(
            f"`--rivals {text}` is neither one of {', '.join(RIVALS)} nor a strategy: write Name(option=1)."
        )
    found = getattr(strategies, call.func.id, None) if call.func.id in strategies.__all__ else None
    if not inspect.isclass(found) or not issubclass(found, Strategy) or inspect.isabstract(found):
        raise ValueError(f"`--rivals {text}`: `lightning_as` has no strategy {call.func.id}.")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"`--rivals {text}`: give options by their names, {call.func.id}(option=value).")
    try:
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        raise ValueError(f"`--rivals {text}`: values must be numbers, strings or other literals.") from None
    return call.func.id, options
