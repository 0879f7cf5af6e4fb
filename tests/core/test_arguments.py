import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from lightning_as.core.arguments import check_choice, check_integer, check_positive, check_share, without

WITH_ONE, WITH_ZERO = partial(check_share, with_one=True), partial(check_positive, with_zero=True)


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (check_share, 1.0, ValueError, r"`x` must be in \[0, 1\), got 1.0"),
        (check_share, float("nan"), ValueError, r"got nan"),
        (check_share, "0.1", TypeError, r"`x` must be a number in \[0, 1\), got '0.1'"),
        (WITH_ONE, 1.1, ValueError, r"`x` must be in \[0, 1\], got 1.1"),
        (WITH_ONE, -0.1, ValueError, r"got -0.1"),
        (check_integer, 2.0, TypeError, r"`x` must be an integer, got 2.0"),
        (check_integer, True, TypeError, r"got True"),
        (partial(check_integer, unit="batches"), 0, ValueError, r"`x` must be at least 1 \(batches\), got 0"),
        (partial(check_integer, unit="batches"), None, TypeError, r"an integer number of batches, got None"),
        (check_positive, 0.0, ValueError, r"`x` must be finite and positive, got 0.0"),
        (check_positive, "1", TypeError, r"`x` must be a number, finite and positive, got '1'"),
        (WITH_ZERO, -1, ValueError, r"`x` must be finite and not negative, got -1"),
        (WITH_ZERO, float("inf"), ValueError, r"got inf"),
        (partial(check_choice, choices=("a", "b")), "c", ValueError, r"`x` must be one of a, b; got 'c'"),
    ],
)
def test_the_message_names_argument_and_value(check: Callable, value: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        check("x", value)


def test_what_is_in_range_passes():
    for check, value in ((check_share, 0), (WITH_ONE, 1), (WITH_ZERO, 0), (check_positive, np.float32(1e-30))):
        check("x", value)
    check_integer("x", np.int64(0), least=0)
    check_choice("x", "a", ["a"])


def test_an_argument_that_is_gone_says_what_took_its_place():
    @without("old", "use `new`")
    def function(new: int = 1) -> int:
        return new

    assert function(new=3) == 3
    assert list(inspect.signature(function).parameters) == ["new"]
    with pytest.raises(TypeError, match="`old` is gone: use `new`"):
        function(old=2)  # pyright: ignore[reportCallIssue]
