"""Every strategy with options for small data: what the tests over all of them go through."""

from __future__ import annotations

from collections.abc import Callable

from lightning_as.strategies import AdaptiveSampling, Strategy, Uniform

CATALOGUE: dict[str, Callable[[], Strategy]] = {
    "AdaptiveSampling": lambda: AdaptiveSampling(beta=3),
    "Uniform": Uniform,
    "Uniform with replacement": lambda: Uniform(replacement=True),
}
