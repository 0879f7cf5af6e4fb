"""What a weighted draw costs: the sum tree and the whole sampler against torch.multinomial, cumsum and torchrl.

A step draws a batch of 256 with replacement in proportion to N float64 weights, and then sets the weights drawn to
new values, on one CPU thread. The competitors take turns of some steps each; a figure is the median over the steps,
without the first of each turn, which pays for the caches that the others have filled. The sampler's step is
the draw and the update of `AdaptiveSampling` over 10 bins, after every instance has been seen.

    python benchmarks/sum_tree.py [--quick] [--sizes 10000 100000] [--floor 0.1]

The 10^8 row takes 2 minutes or more, and up to the memory that is printed beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.sum_tree import SumTree
from lightning_as.strategies import AdaptiveSampling

BATCH = 256
BINS = 10
TURNS = 6
COMPETITORS = ("tree", "adaptive", "multinomial", "cumsum", "torchrl")

Step = Callable[[], object]


class NewWeights:
    """A new weight for each step. It is one for the whole batch, since an instance may be drawn twice."""

    def __init__(self) -> None:
        self._values = [torch.full((BATCH,), float(value), dtype=torch.float64) for value in torch.rand(64)]
        self._next = 0

    def __call__(self) -> Tensor:
        self._next = (self._next + 1) % len(self._values)
        return self._values[self._next]


def uniforms(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


def tree_step(n: int, generator: torch.Generator, new: NewWeights) -> Step:
    """Our sum tree with one channel."""
    tree = SumTree([n])
    tree.load(uniforms(n, 1, generator=generator))

    def step() -> None:
        leaves, _ = tree.draw(uniforms(BATCH, generator=generator))
        tree.set(leaves, new().unsqueeze(1))

    return step


def multinomial_step(n: int, generator: torch.Generator, new: NewWeights) -> Step:
    """``torch.multinomial``, which refuses more than 2**24 weights at its first call."""
    weights = uniforms(n, generator=generator)

    def step() -> None:
        weights[torch.multinomial(weights, BATCH, replacement=True, generator=generator)] = new()

    return step


def cumsum_step(n: int, generator: torch.Generator, new: NewWeights) -> Step:
    """A cumulative sum and a search in it."""
    weights = uniforms(n, generator=generator)
    cumulative = torch.empty_like(weights)

    def step() -> None:
        torch.cumsum(weights, 0, out=cumulative)
        indices = torch.searchsorted(cumulative, uniforms(BATCH, generator=generator).mul_(cumulative[-1]))
        weights[indices] = new()

    return step


def torchrl_step(n: int, generator: torch.Generator, new: NewWeights) -> Step:
    """The C++ segment tree that torchrl's prioritised replay draws from."""
    tree = importlib.import_module("torchrl._torchrl").SumSegmentTreeFp64(n)
    part = 10**6  # in parts: each update makes copies
    for start in range(0, n, part):
        indices = torch.arange(start, min(n, start + part))
        tree[indices] = uniforms(len(indices), generator=generator)

    def step() -> None:
        mass = uniforms(BATCH, generator=generator).mul_(tree.query(0, n))
        tree[tree.scan_lower_bound(mass).clamp_(max=n - 1)] = new()

    return step


def make_strategy(n: int, floor: float, generator: torch.Generator) -> AdaptiveSampling:
    """Adaptive sampling with random scores, as if every instance had been seen."""
    strategy = AdaptiveSampling(floor=floor)
    strategy.start(Bins(torch.arange(n) % BINS))
    state = strategy.state_dict()
    weights = torch.rand(n, 1, generator=generator)
    state["inside"] = {"leaves": weights.repeat(1, 2)}  # a weight and a score in proportion
    strategy.load_state_dict(state)
    return strategy


def adaptive_step(strategy: AdaptiveSampling, generator: torch.Generator) -> Step:
    """The whole two-level sampler. The losses and bounds come from outside: they are made beforehand."""
    pool = uniforms(64, 2, BATCH, generator=generator)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        losses, bounds = pool[count % len(pool)]
        strategy.update(strategy.draw(BATCH, generator), losses, bounds)

    return step


def kept_bytes(kept: object) -> int:
    """Bytes of all tensors that an object holds, itself or through its parts; shared storage counts once."""
    storages: dict[int, int] = {}
    visited: set[int] = set()

    def walk(part: Any) -> None:
        if id(part) in visited:  # nothing that is made on the way, whose number another one may have later
            return
        visited.add(id(part))
        if isinstance(part, Tensor):
            storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, (list, tuple)):
            for entry in part:
                walk(entry)
        elif isinstance(part, dict) or hasattr(part, "__dict__"):
            for entry in (part if isinstance(part, dict) else vars(part)).values():
                walk(entry)

    walk(kept)
    return sum(storages.values())


def peak_gigabytes() -> float:
    """The most memory that this process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def timed(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@torch.inference_mode()
def interleave(steps: dict[str, Step], budget: float) -> dict[str, float]:
    """Median seconds per step of each competitor. A turn takes its share of the budget, and at least two steps."""
    for step in steps.values():
        step()
    lengths = {}
    for name, step in steps.items():
        once = min(timed(step) for _ in range(2))
        lengths[name] = 1 + max(1, round(budget / TURNS / once))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            seconds[name] += [timed(step) for _ in range(lengths[name])][1:]
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(n: int, floor: float, budget: float) -> tuple[dict[str, float | str], float]:
    """Milliseconds per competitor, or why there are none, and the sampler's bytes per instance."""
    generator = torch.Generator().manual_seed(0)
    new = NewWeights()
    # The sampler is built first, while there is room for the copies that this takes. Then all fit side by side, at
    # 10^8 too: some 4 GB of the sampler's, 1.7 of the tree's, 1.6 of plain weights, 2.1 of torchrl's.
    strategy = make_strategy(n, floor, generator)
    cells: dict[str, float | str] = {}
    steps: dict[str, Step] = {"adaptive": adaptive_step(strategy, generator)}
    makers = {"tree": tree_step, "multinomial": multinomial_step, "cumsum": cumsum_step, "torchrl": torchrl_step}
    for name, make in makers.items():
        step = None
        try:
            step = make(n, generator, new)
            step()
            steps[name] = step
        except ImportError:
            cells[name] = "not installed"
        except RuntimeError as error:
            if "number of categories" not in str(error):
                raise
            cells[name] = "refuses"
        del step  # a refused one, with its weights
    cells |= {name: seconds * 1e3 for name, seconds in interleave(steps, budget).items()}
    return cells, kept_bytes(strategy) / n


def label(n: int) -> str:
    """10000 as 1e4."""
    return f"{n:.6e}".replace("e+0", "e").replace("e+", "e").replace(".000000", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: up to 10^6 weights")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of weights; default: 10^4 to 10^8")
    parser.add_argument("--floor", type=float, default=0.1, help="of AdaptiveSampling (default: its own, 0.1)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = sorted(options.sizes or [10**power for power in range(4, 7 if options.quick else 9)])
    print("Milliseconds per step: draw 256 and set them")
    heads = [*COMPETITORS, "bytes/instance", "peak GB"]
    print(f"{'N':>8}" + "".join(f"{head:>15}" for head in heads))
    figures: dict[str, float] = {}
    for n in sizes:
        cells, kept = measure(n, options.floor, budget=0.5 if options.quick else 1.5)
        row = [*(cells[name] for name in COMPETITORS), f"{kept:.1f}", f"{peak_gigabytes():.1f}"]
        texts = [cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row]
        print(f"{label(n):>8}" + "".join(f"{text:>15}" for text in texts), flush=True)
        for name, cell in cells.items():
            if isinstance(cell, float):
                figures[f"{name}_ms_{label(n)}"] = round(cell, 4)
        figures[f"bytes_per_instance_{label(n)}"] = round(kept, 2)
    base, largest = label(10**5), label(sizes[-1])
    if 10**5 in sizes and sizes[-1] > 10**5:
        for name, prefix in (("tree", ""), ("adaptive", "adaptive_")):
            ratio = figures[f"{name}_ms_{largest}"] / figures[f"{name}_ms_{base}"]
            figures[f"{prefix}ratio_{largest}_over_{base}"] = round(ratio, 3)
            print(f"{name}: {largest} takes {ratio:.2f} times as long as {base}")
    print(json.dumps({"benchmark": "sum_tree", "figures": figures}))


if __name__ == "__main__":
    main()
