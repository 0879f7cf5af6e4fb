"""Which strategies can draw from a part of the data at a time."""

from __future__ import annotations

from lightning_as.core.bins import Bins


def check_parts(name: str, bins: Bins, by_chunks: bool, by_shards: bool) -> None:
    """Raise a `ValueError` if the data lie in parts that a strategy cannot work on.

    Args:
        name: The strategy's.
        bins: The partition of the data set.
        by_chunks: Whether it can draw from a few chunks at a time.
        by_shards: Whether it can draw from the shard of a process.
    """
    if bins.chunks is not None and not by_chunks:
        raise ValueError(
            f"The data lie in chunks, a few of which are open at a time, but {name} draws from all "
            "of them: use ClosenessSampling, AdaptiveSampling or Uniform; or `open_chunks=None`, to read the "
            "instances wherever they are."
        )
    if bins.shard is not None and not by_shards:
        raise ValueError(
            f"The data are cut among the processes, `sharded=True`, but {name} goes by all of them: use "
            "ClosenessSampling, AdaptiveSampling or Uniform; or leave `sharded` out."
        )
