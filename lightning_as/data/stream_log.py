"""What a stream that can be resumed has to tell a checkpoint: where it stood before what was not trained on yet."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_as.core.draw import Draw
from lightning_as.core.state import check_layout, require


class Origin(NamedTuple):
    """Where a stream stands."""

    number: int
    """Of the pass, from 0."""
    state: Any
    """That of the data set; None at the beginning of the pass."""


class Place:
    """Where a stream is, as a loader knows it.

    Args:
        stream: The data set, if it can say where it is and be brought back there.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream
        self.number = 0
        """Of the pass that is under way, or else of the next."""
        self.under_way = False
        self.restart()

    def restart(self, start: Origin | None = None) -> None:
        """Have the stream begin anew, or there."""
        self.begins = True
        """Whether the stream is to begin at :attr:`start`. The loader takes notice."""
        self.start = Origin(0, None) if start is None else start

    def now(self) -> Origin | None:
        """Where it stands; None if that cannot be told."""
        if self._stream is None:
            return None
        if self.begins:
            return self.start
        return Origin(self.number, self._stream.state_dict() if self.under_way else None)


class StreamLog:
    """Remembers of the candidates that came last which were kept, until these have been trained on."""

    def __init__(self) -> None:
        self._entries = deque[tuple[Origin, Tensor]]()
        self._done = 0  # instances of the first entry that have been trained on

    def add(self, origin: Origin, positions: Tensor) -> None:
        """Note candidates, before which the stream stood there, and the positions of the kept ones, (b,)."""
        self._entries.append((origin, positions))

    def trained(self, count: int) -> None:
        """Note that so many more of the kept instances were trained on."""
        self._done += count
        while self._entries and self._done >= len(self._entries[0][1]):
            self._done -= len(self._entries.popleft()[1])

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._done = 0

    def state_dict(self, origin: Origin, replay: Replay | None = None) -> dict[str, Any]:
        """What to begin again with.

        Args:
            origin: Where the stream stands now.
            replay: What has been decided of the candidates that come next. Default: nothing.
        """
        first = self._entries[0][0] if self._entries else origin
        done = replay.done if replay is not None and not self._entries else self._done
        kept = [positions for _, positions in self._entries] + ([] if replay is None else list(replay.kept))
        return {"number": first.number, "state": first.state, "kept": [part.clone() for part in kept], "done": done}


class Replay:
    """Decides about candidates that come once more as was decided when they came first.

    Args:
        state: A :class:`StreamLog`'s.
        keys: Those of the instances that had been kept, but not trained on, (M,).
    """

    def __init__(self, state: dict[str, Any], keys: Tensor) -> None:
        self.kept = deque[Tensor](state["kept"])
        """The positions of those of the next candidates, one entry for each time that some come."""
        self.done: int = state["done"]
        """Instances of the next candidates that were trained on."""
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self.kept)

    @property
    def left(self) -> int:
        """Number of instances that have not come once more."""
        return len(self._keys)

    def next(self, keys: Tensor) -> Tensor | None:
        """The positions of those that were kept, (b,); None if these are other candidates than then.

        Args:
            keys: The hashes of the candidates' keys, (C,).
        """
        positions = self.kept.popleft()
        count = len(positions) - self.done
        if len(positions) and int(positions[-1]) >= len(keys):
            return None
        if count > len(self._keys) or not torch.equal(keys[positions[self.done :]], self._keys[:count]):
            return None
        self._keys = self._keys[count:]
        return positions


def joined(*draws: Draw) -> Draw:
    """Draws as one."""
    empty = torch.empty(0, dtype=torch.float64, device="cpu")
    none = empty.to(torch.int64)
    columns = zip(*((draw.indices, draw.bins, draw.probabilities, draw.within) for draw in draws), strict=True)
    parts = [torch.cat(column) for column in columns]  # pyright: ignore[reportArgumentType]
    return Draw(*(parts or (none, none, empty, empty)))


def checked(stream: Any) -> dict[str, Any]:
    """What a state says of its stream, if that is of use.

    Raises:
        ValueError: If it is damaged.
    """
    none = torch.empty(0, dtype=torch.int64, device="cpu")
    like = {"number": 0, "state": None, "kept": [], "done": 0, "left": dict.fromkeys(Draw._fields)}
    check_layout(stream, like, "stream")
    for at, positions in enumerate(stream["kept"]):
        check_layout(positions, none, f"stream.kept.{at}")
    left, decided = stream["left"], sum(map(len, stream["kept"])) - stream["done"]
    for name in ("indices", "bins", "probabilities", "within"):
        check_layout(left[name], none if name in ("indices", "bins") else none.double(), f"stream.left.{name}")
        require(len(left[name]) == decided, f"`stream.left.{name}` is not one for each instance that was kept")
    return stream


def refuse_positions(state: Any) -> None:
    """Raise a `ValueError` if a state is that of a sampler over positions."""
    if isinstance(state, dict) and "stream" not in state:
        raise ValueError(
            f"The state to load is of {state.get('strategy')} and of data with positions, but here is a stream: resume "
            "with the loader and the strategy it was saved with, or start a new training, if you like from the "
            "checkpoint's weights by `load_from_checkpoint`."
        )
