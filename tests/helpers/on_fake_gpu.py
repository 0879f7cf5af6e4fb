"""Steps of `AdaptiveSampling`, with each of a JSON list of options, on a GPU of torch's fake tensors.

The points are independent: at the key of a pass, though it is on the CPU, somebody looks.
They need no GPU, but refuse to mix devices, and to be looked at.
"""

import json
import sys
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lightning_as.core.two_levels
from lightning_as import AdaptiveSampling, Bins
from lightning_as.core import execution

NOT_HERE = 77
"""The exit code where torch cannot fake a GPU: the CUDA builds of some versions look for a driver nevertheless."""


def put_there(thing: Any, fake: FakeTensorMode, done: set[int]) -> None:
    """Replace all tensors of an object of this package, and of those that it has, by ones on a GPU."""
    if id(thing) in done:
        return
    done.add(id(thing))
    for name, value in list(vars(thing).items()):
        if isinstance(value, torch.Tensor):
            vars(thing)[name] = fake.from_tensor(value).to("cuda")
        elif type(value).__module__.startswith("lightning_as"):
            put_there(value, fake, done)


def main(options: dict[str, Any]) -> None:
    execution._compiled = lambda: None
    # A pinned copy needs a driver.
    lightning_as.core.two_levels.to_device = lambda numbers, device: numbers.to(device)
    strategy, fake = AdaptiveSampling(beta=2, points="independent", **options), FakeTensorMode()
    strategy.start(Bins(torch.arange(150) % 5))
    strategy.plan(10, 10)
    with fake:
        put_there(strategy, fake, set())
        for _ in range(5):
            draw = strategy.draw(24, torch.Generator().manual_seed(0))
            strategy.update(draw, torch.empty_like(draw.probabilities), torch.empty_like(draw.probabilities))
            assert {field.device.type for field in draw if field is not None} == {"cuda"}
        assert strategy.probabilities().device.type == strategy.bin_probabilities.device.type == "cuda"


if __name__ == "__main__":
    try:
        with FakeTensorMode():
            torch.ones(2, device="cuda")[torch.zeros(1, dtype=torch.long, device="cuda")]
    except RuntimeError:
        sys.exit(NOT_HERE)
    for options in json.loads(sys.argv[1]):
        main(options)
