"""Checks of arguments that many constructors share, each with a message that names argument and value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def check_ranks(pressure: float, gamma: float | str) -> None:
    """Raise unless these are a selection pressure, and a γ of closeness or ``"follow"``.

    Args:
        pressure: s, at least 1.
        gamma: γ, at least 0, or ``"follow"``.

    Raises:
        TypeError: If one is no number.
        ValueError: If one is out of its range.
    """
    check_positive("pressure", pressure)
    if pressure < 1:
        raise ValueError(f"`pressure` must be at least 1, which is uniform, got {pressure}.")
    if not isinstance(gamma, str):
        check_positive("gamma", gamma, with_zero=True)
    elif gamma != "follow":
        raise ValueError(f"`gamma` must be a number of at least 0 or 'follow', got {gamma!r}.")


def check_share(name: str, value: float, with_one: bool = False) -> None:
    """Raise unless a number is in [0, 1), or in [0, 1].

    Args:
        name: The argument's name.
        value: What was given.
        with_one: Whether 1 itself is allowed. Default: False.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of the range.
    """
    interval = "[0, 1]" if with_one else "[0, 1)"
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number in {interval}, got {value!r}.")
    if not (0 <= value < 1 or (with_one and value == 1)):
        raise ValueError(f"`{name}` must be in {interval}, got {value}.")


def check_integer(name: str, value: int, least: int = 1, unit: str = "") -> None:
    """Raise unless a number is an integer and large enough.

    Args:
        name: The argument's name.
        value: What was given.
        least: The smallest that is allowed. Default: 1.
        unit: What is counted, such as ``"batches"``, for the message. Default: nothing.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is too small.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer{unit and f' number of {unit}'}, got {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}{unit and f' ({unit})'}, got {value}.")


def check_positive(name: str, value: float, with_zero: bool = False) -> None:
    """Raise unless a number is finite and positive, or, `with_zero`, not negative.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of the range.
    """
    wanted = "finite and not negative" if with_zero else "finite and positive"
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, {wanted}, got {value!r}.")
    if not (0 < value < math.inf or (with_zero and value == 0)):
        raise ValueError(f"`{name}` must be {wanted}, got {value}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a `ValueError` unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def without(name: str, instead: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function that had an argument once: whoever still gives it learns what took its place.

    Args:
        name: The argument's name.
        instead: What the message of the `TypeError` goes on with.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            if name in kwargs:
                raise TypeError(f"`{name}` is gone: {instead}.")
            return function(*args, **kwargs)

        return checked

    return decorate
