"""What drawing by rank costs: the ranking that no batch sorts anew, against a full sort of the losses for every batch.

A step draws a batch of 256 from the exponential distribution over the ranks (s = 10^8), gives the instances new losses,
and brings them into the order. `draw` finds the instances at the ranks and `rerank` sets their losses, both of
`Ranking`; `obs` is a whole step, draw and update, of `OnlineBatchSelection`, and `rank` of `PrioritizedSampling` by
rank, after every instance has been seen. `sort` is a stable sort of the N float64 losses, as the authors' script does
it for every batch of 100 or more. All on one CPU thread, in turns of some steps each. A figure is the mean over the
steps, because one in many merges all N: the slowest `rerank` is shown beside it. With 10^7 instances that is one in
some 300, which `--quick` does not get to.

    python benchmarks/online_batch_selection.py [--quick] [--sizes 60000 1000000]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.core.ranking import Ranking
from lightning_as.strategies import OnlineBatchSelection, PrioritizedSampling, Strategy

BATCH = 256
SIZES = (60_000, 1_000_000, 10_000_000)
COLUMNS = ("draw", "rerank", "obs", "rank", "sort")
ZEROS = 1 / 3  # the share of losses that are exactly 0, as losses in float32 soon are

Step = Callable[[], tuple[float, ...]]
"""One step; the seconds that its parts took."""


def new_losses(size: int, generator: torch.Generator) -> Tensor:
    losses = torch.rand(size, dtype=torch.float64, generator=generator).pow_(4)
    losses[torch.rand(size, generator=generator) < ZEROS] = 0.0
    return losses


def ranking_step(losses: Tensor, generator: torch.Generator) -> Step:
    """The draw, and the update with what it takes to have the order again."""
    ranking = Ranking(len(losses))
    ranking.load(losses)
    scale = -len(losses) / math.log(1e8)

    def step() -> tuple[float, ...]:
        uniforms = torch.rand(BATCH, dtype=torch.float64, generator=generator)
        values = new_losses(BATCH, generator)
        start = time.perf_counter()
        ranks = uniforms.neg_().log1p_().mul_(scale).long().clamp_(max=len(losses) - 1)
        indices = ranking.at(ranks)
        middle = time.perf_counter()
        ranking.set(indices, values)
        return middle - start, time.perf_counter() - middle

    return step


def strategy_step(strategy: Strategy, losses: Tensor, generator: torch.Generator) -> Step:
    """Draw and update of a strategy in its second epoch, in which every instance has one of the given losses."""
    strategy.start(Bins.single(len(losses)))
    epoch = len(losses) // BATCH
    strategy.plan(1000 * epoch, epoch)
    for _ in range(2):
        strategy.start_epoch(generator)
    strategy.load_state_dict(strategy.state_dict() | {"losses": losses})
    bounds = torch.zeros(BATCH, dtype=torch.float64)

    def step() -> tuple[float, ...]:
        values = new_losses(BATCH, generator)
        start = time.perf_counter()
        strategy.update(strategy.draw(BATCH, generator), values, bounds)
        return (time.perf_counter() - start,)

    return step


def sort_step(losses: Tensor) -> Step:
    """The sort alone: the draw from a sorted list costs next to nothing."""

    def step() -> tuple[float, ...]:
        start = time.perf_counter()
        torch.sort(losses, stable=True, descending=True)
        return (time.perf_counter() - start,)

    return step


@torch.inference_mode()
def interleave(steps: dict[str, Step], budget: float, turns: int) -> dict[str, list[tuple[float, ...]]]:
    """Seconds of the steps of each competitor, which gets so many seconds in all, and at least a step in each turn."""
    for step in steps.values():
        step()
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            end = time.perf_counter() + budget / turns
            seconds[name].append(step())
            while time.perf_counter() < end:
                seconds[name].append(step())
    return seconds


def measure(size: int, budget: float, turns: int) -> dict[str, float]:
    """Milliseconds of each column, and of the slowest update."""
    generator = torch.Generator().manual_seed(0)
    losses = new_losses(size, generator)
    steps = {
        "ranking": ranking_step(losses, generator),
        "obs": strategy_step(OnlineBatchSelection(recompute_every=0.0), losses, generator),
        "rank": strategy_step(PrioritizedSampling(variant="rank"), losses, generator),
        "sort": sort_step(losses),
    }
    seconds = interleave(steps, budget, turns)
    draw, rerank = zip(*seconds["ranking"], strict=True)
    whole = {name: [part for (part,) in seconds[name]] for name in ("obs", "rank", "sort")}
    means = {name: statistics.fmean(parts) for name, parts in ({"draw": draw, "rerank": rerank} | whole).items()}
    return {name: 1e3 * value for name, value in (means | {"slowest": max(rerank)}).items()}


def label(size: int) -> str:
    """60000 as 6e4."""
    return f"{size:.6e}".replace("e+0", "e").replace("e+", "e").replace(".000000", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of instances; default: 6·10^4, 10^6 and 10^7")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("Milliseconds per step, means")
    print(f"{'N':>8}" + "".join(f"{head:>12}" for head in (*COLUMNS, "slowest", "sort/step")))
    figures: dict[str, float] = {}
    for size in sorted(options.sizes or SIZES):
        cells = measure(size, *((0.8, 2) if options.quick else (15.0, 5)))
        ratio = cells["sort"] / (cells["draw"] + cells["rerank"])
        row = [*(cells[head] for head in (*COLUMNS, "slowest")), ratio]
        print(f"{label(size):>8}" + "".join(f"{cell:>12.3f}" for cell in row), flush=True)
        figures |= {f"{name}_ms_{label(size)}": round(cell, 4) for name, cell in cells.items()}
        figures[f"sort_over_step_{label(size)}"] = round(ratio, 2)
    print(json.dumps({"benchmark": "online_batch_selection", "figures": figures}))


if __name__ == "__main__":
    main()
