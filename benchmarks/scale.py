"""What a strategy's state costs at 10^5 to 10^8 instances, in one process and cut among several.

Each N has a process of its own, on one thread. The state of a strategy, the default one and then `AdaptiveSampling`, is
built over 10 bins (`build`: bins, sampler and strategy), then batches are drawn and learnt from for a fifth of a pass,
in which new ranks come once, so that all that is done with the N instances at times has been done once. `step` is the
median of these, `p99` the time that one in a hundred exceeds, both of the processor's time. `save` is what a checkpoint
stalls the training if it is written by Lightning's `AsyncCheckpointIO`, `write` how long that takes beside it, `load`
what a resumed fit needs. Other seconds are of the wall clock, bytes of the process's memory, per instance.

Of a shard (`sharded=True`) of N instances: the memory of one of so many processes, beside the bins of all, the seconds
to find its part, and its step; alone, and in so many processes at a time with gloo between them, which
`AdaptiveSampling` needs every ten batches.

    python benchmarks/scale.py [--quick] [--sizes 100000 …] [--ranks 2 4 …] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.distributed import destroy_process_group, init_process_group

import lightning_as.strategies
from lightning_as import Bins, ClosenessSampling, Strategy
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.sharded_sampler import ShardedBatchSampler

BINS = 10
STRATEGIES = ("ClosenessSampling", "AdaptiveSampling")
MOST_STEPS = 20_000
COLUMNS = ("bytes", "build_s", "step_ms", "p99_ms", "save_s", "saved_bytes", "write_s", "load_s")


def memory() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def batches(sampler: AdaptiveBatchSampler, strategy: Strategy, count: int) -> list[float]:
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


def made(name: str) -> Strategy:
    """A strategy that does from the first batch on what it does in the end."""
    return ClosenessSampling(warm_up=0.0) if name == "ClosenessSampling" else getattr(lightning_as.strategies, name)()


def measure(n: int, name: str, folder: str) -> dict[str, float]:
    """The figures of n instances, in a process of its own."""
    torch.set_num_threads(1)
    warm, batch = made(name), max(256, n // 8 // MOST_STEPS)
    sampler = AdaptiveBatchSampler(Bins(torch.arange(1000) % BINS), 10)
    sampler.attach(warm)
    batches(sampler, warm, 50)  # which compiles the loops
    tags, before = torch.arange(n, dtype=torch.int32).remainder_(BINS), memory()
    start = time.perf_counter()
    sampler, strategy = AdaptiveBatchSampler(Bins(tags), batch), made(name)
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


def alone(n: int, ranks: int) -> dict[str, float]:
    """The figures of the first of so many shards of n instances, in a process of its own."""
    torch.set_num_threads(1)
    warm = ShardedBatchSampler(Bins(torch.arange(1000) % BINS), 10, num_replicas=2, rank=0)
    warm.attach(ClosenessSampling(warm_up=0.0))
    batches(warm, warm.strategy, 50)
    bins = Bins(torch.arange(n, dtype=torch.int32).remainder_(BINS))
    before, start = memory(), time.perf_counter()
    sampler = ShardedBatchSampler(bins, 256, num_replicas=ranks, rank=0)
    sampler.attach(ClosenessSampling(warm_up=0.0))
    cut = time.perf_counter() - start
    sampler.strategy.plan(None, len(sampler))
    steps = batches(sampler, sampler.strategy, min(len(sampler), n // ranks // 5 // 256))
    return {"bytes": (memory() - before) / n, "cut_s": cut, "step_ms": 1000 * median(steps)}


def together(rank: int, ranks: int, n: int, name: str, store: str) -> float:
    """Milliseconds of the wall clock of a step of one of so many processes at a time, the median of 300."""
    torch.set_num_threads(1)
    init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks)
    sampler = ShardedBatchSampler(Bins(torch.arange(n) % BINS), 256)
    sampler.attach(getattr(lightning_as.strategies, name)())
    sampler.strategy.plan(None, len(sampler))
    batches(sampler, sampler.strategy, 50)
    start = time.perf_counter()
    batches(sampler, sampler.strategy, 300)
    seconds = time.perf_counter() - start
    destroy_process_group()
    return 1000 * seconds / 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s: up to 10^6 instances, 2 processes")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of instances; default: 10^5 to 10^8")
    parser.add_argument("--ranks", type=int, nargs="+", help="numbers of processes; default: 2, 4 and, alone, 64")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where checkpoints are written to")
    options = parser.parse_args()
    sizes = options.sizes or [10**power for power in range(5, 7 if options.quick else 9)]
    ranks = options.ranks or ([2] if options.quick else [2, 4, 64])
    print(f"{'strategy':>18}{'N':>11}{'batch':>7}" + "".join(f"{name:>13}" for name in COLUMNS))
    figures: dict[str, float] = {}
    spawn = multiprocessing.get_context("spawn")
    for strategy, n in product(STRATEGIES, sizes):
        with ProcessPoolExecutor(1, spawn) as pool:
            found = pool.submit(measure, n, strategy, options.folder).result()
        columns = "".join(f"{found[name]:>13.3f}" for name in COLUMNS)
        print(f"{strategy:>18}{n:>11}{found['batch']:>7}{columns}", flush=True)
        figures |= {f"{name}_{strategy}_{n}": round(found[name], 4) for name in COLUMNS}
    for count in ranks:
        with ProcessPoolExecutor(1, spawn) as pool:
            found = pool.submit(alone, sizes[-1], count).result()
        print(f"one of {count} shards of {sizes[-1]}: {found}", flush=True)
        figures |= {f"{name}_{sizes[-1]}_of_{count}": round(value, 4) for name, value in found.items()}
    most = 2 * (os.cpu_count() or 1)
    for count in (count for count in ranks if count <= most):
        for name in STRATEGIES:
            with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(count, spawn) as pool:
                store = f"{folder}/store"
                runs = [pool.submit(together, rank, count, 1_000_000, name, store) for rank in range(count)]
                figures[f"wall_ms_{name}_{count}"] = round(max(run.result() for run in runs), 4)
            print(f"{name}, {count} processes at a time: {figures[f'wall_ms_{name}_{count}']} ms", flush=True)
    print(json.dumps({"benchmark": "scale", "figures": figures}))


if __name__ == "__main__":
    main()
