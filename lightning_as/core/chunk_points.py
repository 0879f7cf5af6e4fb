"""The points of draws that come from a few chunks at a time, for data where reading an instance costs its chunk.

A distribution over the instances owns [0, 1), each instance one interval of it; a chunk is a run of instances, and its
interval has the length m_c. A pass of D draws takes its points in an order in which only W chunks are open at a time:

1. Each chunk gets its share of the D draws, which are N but for those that make no whole batch: K_c is D·m_c rounded
   up or down, m_c as it is at the beginning of the pass. With the chunks in random order and one uniform u in [0, 1),
   K_c is the number of integers in (D·M_{c−1} + u, D·M_c + u], M the sums of m in that order: so Σ K_c = D, and
   E[K_c] = D·m_c exactly.
2. In another random order the chunks are opened, so that W are open at a time; or more, where these have fewer draws
   left than a batch. A batch takes its draws from what is left of the shares of the open chunks, like balls from an
   urn. A chunk whose share is used up is closed, and the next one is opened in its place.
3. The K_c draws of a chunk are strata of its present interval, (π_c(k) + v) / K_c with a random permutation π_c and v
   uniform. The point is where that lies in [0, 1). With a window π_c goes through runs of so many strata, one after
   the other from a random one on, and is random inside each.

By 1 and 3 an instance i of the chunk c, with the probability q_i inside it, is drawn D·m_c·q_i times a pass in
expectation: as often as by independent draws, and that is what a draw's probability means here; given the chunks that
are open it is another. Under the uniform distribution a pass is a permutation. A chunk is opened at most once in the
D/B batches of a pass. If q moves within the pass, the draws follow; if m does, the next pass does.

With several processes each has chunks of its own: the draws of a pass are cut into as many parts of equal numbers, in
the order of 1, each with W open chunks. A chunk across a cut is in both, which share its strata. Draw number t is that
of process t modulo their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.chunk_order import ChunkOrder, Chunks
from lightning_as.core.points import Kind

_STEPS = 2**20
"""Places in a stratum: far enough from its ends that rounding moves no point out of it."""


class ChunkPoints:
    """Points for draws from a distribution over instances in chunks, a few of which are open at a time.

    Args:
        chunks: Where the instances lie.
        kind: As of :class:`lightning_as.core.points.Points`. Default: ``"strata"``.

    Raises:
        ValueError: If the points are to be ``"independent"``, which come from all chunks at a time.
    """

    def __init__(self, chunks: Chunks, kind: Kind = "strata") -> None:
        if kind != "strata":
            raise ValueError(f"`points={kind!r}` are of all chunks at a time: use 'strata', or `open_chunks=None`.")
        self.chunks = chunks
        self.order = ChunkOrder(chunks.open, chunks.window)
        self.lasts = chunks.starts()[1:] - 1
        """The last instance of each chunk, (chunks,) int64."""

    def take(self, size: int, generator: torch.Generator, ends: Tensor, processes: int = 1) -> Tensor:
        """The next `size` points, (size,) float64 in [0, 1), on the CPU.

        Args:
            size: Number of points, a multiple of the number of processes.
            generator: On the CPU. A pass takes from it when it begins; its points follow from that.
            ends: Where the chunks' intervals end, (chunks,) float64, rising to 1.
            processes: That share the points. Where they are other ones than before, a new pass begins. Default: 1.

        Raises:
            ValueError: If a pass has not so many.
        """
        draws = sum(self.chunks.sizes) // size * size
        if draws == 0:
            raise ValueError(
                f"A batch of {size} is more than the {sum(self.chunks.sizes)} instances of a pass: use smaller batches."
            )
        ends = ends.cpu()
        if size > self.order.left(processes):  # what is left of a pass is dropped, as in `Points`
            self.order.begin(torch.diff(ends, prepend=ends.new_zeros(1)), draws, generator, processes)
        strata = self.order.take(size)
        inside = torch.empty(size, dtype=torch.float64, device="cpu").random_(_STEPS, generator=generator)
        inside = inside.add_(0.5).div_(_STEPS).add_(strata.numbers).div_(strata.counts)
        high = ends[strata.chunks]
        low = torch.where(strata.chunks > 0, ends[strata.chunks - 1], 0.0)
        # Rounding must not move a point into the next chunk.
        return torch.minimum(low + (high - low) * inside, torch.nextafter(high, low))

    def state_dict(self) -> dict[str, Any]:
        """State as ints and tensors."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same chunks."""
        self.order.load_state_dict(state, len(self.chunks.sizes))
