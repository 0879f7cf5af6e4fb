"""What a strategy's state costs at large N: to be made, saved and loaded, since each of them stalls a training.

For each N the seconds that the sampler takes to start a strategy over 10 bins, to give its state, and to take over such
a state, on one CPU thread: CPU time, which other programs disturb least, and the best of three.

    python benchmarks/state.py [--quick] [--sizes 100000 1000000] [--strategies AdaptiveSampling]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

import lightning_as.strategies
from lightning_as.core.bins import Bins
from lightning_as.data.batch_sampler import AdaptiveBatchSampler

BATCH = 256
BINS = 10
STEPS = ("make", "save", "load")


def best(step: Callable[[], object]) -> float:
    """Seconds of the fastest of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(n: int, name: str) -> dict[str, float]:
    """Seconds to make, save and load a strategy's state over n instances."""
    tags = torch.arange(n) % BINS
    make = getattr(lightning_as.strategies, name)
    bins = Bins(tags)
    sampler = AdaptiveBatchSampler(bins, BATCH)
    made = best(lambda: sampler.attach(make()))
    next(iter(sampler))
    saved = best(sampler.state_dict)
    state = sampler.state_dict()
    return {"make": made, "save": saved, "load": best(lambda: sampler.load_state_dict(state))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: up to 10^6 instances")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of instances; default: 10^5 to 10^7")
    parser.add_argument("--strategies", nargs="+", default=["AdaptiveSampling", "LossProportional"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = options.sizes or [10**power for power in range(5, 7 if options.quick else 8)]
    print(f"{'N':>10} {'strategy':>24}" + "".join(f"{step + ' (s)':>12}" for step in STEPS))
    figures: dict[str, float] = {}
    measure(1000, "AdaptiveSampling")  # compiles the loops
    for n in sizes:
        for name in options.strategies:
            seconds = measure(n, name)
            print(f"{n:>10} {name:>24}" + "".join(f"{seconds[step]:>12.4f}" for step in STEPS), flush=True)
            figures |= {f"{name}_{step}_s_{n}": round(seconds[step], 5) for step in STEPS}
    print(json.dumps({"benchmark": "state", "figures": figures}))


if __name__ == "__main__":
    main()
