"""What the default strategy's state costs at 10^5 to 10^8 instances: memory, build, steps, a checkpoint and its return.

Each N has a process of its own, on one thread. The state is built over 10 bins (`build`: bins, sampler and strategy),
then batches are drawn and learnt from for a fifth of a pass, in which new ranks come once, so that all that is done
with the N instances at times has been done once. `step` is the median of these, `p99` the time that one in a hundred
exceeds, both of the processor's time. `save` is what a checkpoint stalls the training if it is written by Lightning's
`AsyncCheckpointIO`, `write` how long that takes beside it, `load` what a resumed fit needs. Other seconds are of the
wall clock, bytes of the process's memory, per instance.

    python benchmarks/scale.py [--quick] [--sizes 100000 …] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import torch

from lightning_as import Bins, ClosenessSampling
from lightning_as.data.batch_sampler import AdaptiveBatchSampler

BINS = 10
MOST_STEPS = 20_000
COLUMNS = ("bytes", "build_s", "step_ms", "p99_ms", "save_s", "saved_bytes", "write_s", "load_s")


def memory() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def batches(sampler: AdaptiveBatchSampler, strategy: ClosenessSampling, count: int) -> list[float]:
    """The processor's seconds of each of so many batches, drawn and learnt from."""
    losses = torch.linspace(0, 3, sampler.batch_size, dtype=torch.float64)
    bounds, seconds = torch.zeros_like(losses), list[float]()
    drawn = iter(sampler)
    for _ in range(count):
        start = time.process_time()
        next(drawn)
        strategy.update(sampler.commit(), losses, bounds)
        seconds.append(time.process_time() - start)
    return seconds


def measure(n: int, folder: str) -> dict[str, float]:
    """The figures of n instances, in a process of its own."""
    torch.set_num_threads(1)
    warm, batch = ClosenessSampling(warm_up=0.0), max(256, n // 8 // MOST_STEPS)
    sampler = AdaptiveBatchSampler(Bins(torch.arange(1000) % BINS), 10)
    sampler.attach(warm)
    batches(sampler, warm, 50)  # which compiles the loops
    tags, before = torch.arange(n, dtype=torch.int32).remainder_(BINS), memory()
    start = time.perf_counter()
    sampler, strategy = AdaptiveBatchSampler(Bins(tags), batch), ClosenessSampling(warm_up=0.0)
    sampler.attach(strategy)
    strategy.plan(None, len(sampler))
    built = time.perf_counter() - start
    steps = batches(sampler, strategy, min(len(sampler), n // 5 // batch))
    held = memory() - before
    start = time.perf_counter()
    state = sampler.state_dict()
    saved = time.perf_counter() - start
    path = Path(folder) / f"{n}.pt"
    start = time.perf_counter()
    torch.save(state, path)
    written, size = time.perf_counter() - start, path.stat().st_size
    path.unlink()
    start = time.perf_counter()
    sampler.load_state_dict(state)
    loaded = time.perf_counter() - start
    p99 = quantiles(steps, n=100)[-1]
    values = (held / n, built, 1000 * median(steps), 1000 * p99, saved, size / n, written, loaded)
    return {"batch": batch, **dict(zip(COLUMNS, values, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: up to 10^6 instances")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of instances; default: 10^5 to 10^8")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where checkpoints are written to")
    options = parser.parse_args()
    sizes = options.sizes or [10**power for power in range(5, 7 if options.quick else 9)]
    print(f"{'N':>11}{'batch':>7}" + "".join(f"{name:>13}" for name in COLUMNS))
    figures: dict[str, float] = {}
    for n in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(measure, n, options.folder).result()
        print(f"{n:>11}{found['batch']:>7}" + "".join(f"{found[name]:>13.3f}" for name in COLUMNS), flush=True)
        figures |= {f"{name}_{n}": round(found[name], 4) for name in COLUMNS}
    print(json.dumps({"benchmark": "scale", "figures": figures}))


if __name__ == "__main__":
    main()
