"""What stands in for a sampler where a stream brings the samples: keeps or skips them by a strategy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed import get_rank, get_world_size, is_available, is_initialized

from lightning_as.core.arguments import check_integer
from lightning_as.core.draw import Draw
from lightning_as.core.state import check_layout, checksums
from lightning_as.core.stream import Stream
from lightning_as.data.candidates import warn_of_repeated
from lightning_as.data.sampler_state import FORMAT, check_saved, check_use, chunk_sizes, generator_state, load_into
from lightning_as.data.stream_log import Origin, Place, Replay, StreamLog, checked, joined, refuse_positions
from lightning_as.strategies import Strategy
from lightning_as.strategies.stream_filter import StreamFilter


class StreamSampler:
    """Decides for an :class:`AdaptiveIterableLoader` which candidates are trained on.

    To the callback it is what an :class:`AdaptiveBatchSampler` is, but its draws are of this process alone, which reads
    a stream of its own. Without a strategy all are kept, and nothing is noted.

    Args:
        batch_size: Instances per batch, of this process.
        batches_per_epoch: Length of an epoch.
        seed: Seed of the decisions, equal in all processes. Default: 0.
        place: Where the stream is. Default: nobody knows.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is not positive.
    """

    def __init__(self, batch_size: int, batches_per_epoch: int, seed: int = 0, place: Place | None = None) -> None:
        check_integer("batch_size", batch_size)
        check_integer("batches_per_epoch", batches_per_epoch)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.bins = self.own_bins = self.bins_at_work = Stream()
        self.strategy: StreamFilter | None = None
        self.limit: int | None = None
        """Batches of an epoch that will be asked for, if fewer than all."""
        self.data = self.learned_from = 0  # fingerprints: of a stream nobody knows one, and keys tell instances apart
        self.place = Place() if place is None else place
        self._generator = torch.Generator().manual_seed(seed)
        self._uniforms = self._generator  # of the batch that is being made, equal in all processes
        self._begins = self._generator.get_state()  # that of the generator when that was begun
        self._iteration = 0
        self._warned = False
        self.restart()

    @property
    def num_replicas(self) -> int:
        """Number of processes that train together."""
        return get_world_size() if is_available() and is_initialized() else 1

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return get_rank() if is_available() and is_initialized() else 0

    @property
    def generator(self) -> torch.Generator:
        """The private generator of all decisions, in the same state in all processes."""
        return self._generator

    common_generator = generator

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.batches_per_epoch

    def attach(self, strategy: Strategy, anew: bool = False) -> None:
        """Decide by `strategy` from now on. It starts `anew`, or if it has not been at work here before.

        Raises:
            ValueError: If it is none for streams.
        """
        if not isinstance(strategy, StreamFilter):
            raise ValueError(
                f"{type(strategy).__name__} chooses among positions, which the stream of an AdaptiveIterableLoader "
                "does not have: use `AdaptiveSamplingCallback(KeepOrSkip())`, which keeps or skips what it brings; "
                "or a map-style data set in an AdaptiveDataLoader."
            )
        if anew:
            strategy.start_anew(self.bins)
        strategy.work_on(self.bins)
        self.strategy = strategy
        self.restart()

    def detach(self) -> None:
        """Keep all from now on. The strategy keeps its state, and goes on from it when attached again."""
        self.strategy = None
        self.restart()

    def epoch(self) -> Iterator[None]:
        """Begin one batch of an epoch after another; after :meth:`load_state_dict`, of what is left of it.

        Raises:
            RuntimeError: If another one has begun meanwhile.
        """
        self._iteration += 1
        iteration = self._iteration
        if self._resuming:
            self._resuming = False
        else:
            self.end_epoch()
            if self.strategy is not None:
                self.strategy.start_epoch(self._generator)
                if self.strategy.progress.epoch == 0 and not self._replay:  # of another training
                    self.restart()
        for _ in range(self._position, min(len(self), self.limit or len(self))):
            if iteration != self._iteration:
                raise RuntimeError(
                    "The train loader was iterated anew while an epoch was under way: to look at the data in between, "
                    "make another loader."
                )
            if self.strategy is not None:
                self._begins = self._generator.get_state()
                seed = int(torch.randint(2**63 - 1, (), generator=self._generator, device="cpu"))
                self._uniforms = torch.Generator().manual_seed(seed)
            yield

    def choose(self, keys: Tensor, names: list[Any], origin: Origin | None) -> Tensor:
        """Decide about candidates.

        Args:
            keys: The hashes of their keys, (C,) int64.
            names: Their keys.
            origin: Where the stream stood before them; None if it cannot be resumed.

        Returns:
            The positions of those that are kept and not trained on yet, (b,) int64 ascending.
        """
        if self.strategy is None:
            return torch.arange(len(keys), device="cpu")
        done = 0
        positions = self._replayed(keys)
        if positions is None:
            self._warned = self._warned or warn_of_repeated(self.strategy.repeated(keys), names)
            shift = self.rank / self.num_replicas  # so that not all processes keep or skip at once
            uniform = torch.rand((), dtype=torch.float64, generator=self._uniforms, device="cpu")
            positions, draw = self.strategy.keep(keys, float(uniform + shift) % 1)
            self._waiting = joined(self._waiting, draw)
        else:
            assert self._replay is not None
            done, self._replay.done = self._replay.done, 0
        if origin is not None:
            self._log.add(origin, positions)
            self._log.trained(done)
        return positions[done:]

    def form(self) -> None:
        """Note that the first of those that wait have become a batch."""
        if self.strategy is None:  # nobody commits
            return
        size = torch.arange(len(self._waiting.indices), device="cpu")
        self._pending.append(self._waiting.select(size[: self.batch_size]))
        self._begun.append(self._begins)
        self._waiting = self._waiting.select(size[self.batch_size :])
        self.strategy.progress.step()

    def begin_pass(self) -> None:
        """Note that the stream begins."""
        if self.strategy is not None:
            self.strategy.begin_pass()

    @property
    def current(self) -> Draw:
        """The oldest pending batch of this process: the one that is trained on, or is next.

        Raises:
            RuntimeError: If none is pending.
        """
        if not self._pending:
            raise RuntimeError("No batch is pending: the one that is trained on did not come from this loader.")
        return self._pending[0]

    def commit(self) -> Draw:
        """Note that the oldest pending batch was trained on, and give it.

        Raises:
            RuntimeError: If none is pending.
        """
        draw = self.current
        del self._pending[0], self._begun[0]
        self._position += 1
        self._log.trained(len(draw.indices))
        return draw

    def share(self, batch: Tensor) -> Tensor:
        """What this process gets of a draw: all, for its draws are of its own."""
        return batch

    def end_epoch(self) -> None:
        """Note that the epoch is over. The stream goes on in the next one."""
        self._position = 0
        for draw in self._pending:  # which nobody will train on
            self._log.trained(len(draw.indices))
        self._pending, self._begun = deque(), deque()
        self._resuming = False

    def state_dict(self, strategy: Strategy | None = None) -> dict[str, Any]:
        """As of :class:`AdaptiveBatchSampler`, and where the stream is."""
        strategy = self.strategy if strategy is None else strategy
        assert strategy is not None, "without a strategy there is nothing to save"
        state = self._state(strategy)
        return state | {"checksums": checksums(state)}

    def _state(self, strategy: Strategy) -> dict[str, Any]:
        origin = self.place.now() if self.num_replicas == 1 else None  # a checkpoint is of the first process alone
        stream = None
        if origin is not None:
            left = joined(*self._pending, self._waiting)
            stream = self._log.state_dict(origin, self._replay) | {"left": left._asdict()}
        return {
            "format": FORMAT,
            "tags": self.bins.tags,
            "chunks": chunk_sizes(self.bins),
            "data": self.data,
            "batch_size": self.batch_size * self.num_replicas,
            "generator": self._begun[0] if self._begun else self._generator.get_state(),
            "position": self._position,
            "pending": [],
            "strategy": type(strategy).__name__,
            "strategy_state": strategy.state_dict(),
            "progress": strategy.progress.state_dict() | {"batch": strategy.progress.batch - len(self._pending)},
            "skipped": strategy.skipped,
            "record": {},
            "stream": stream,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken; with the stream as well, if that can be resumed.

        Raises:
            ValueError: If the state is of another layout or strategy, or amid an epoch of another batch size; or if it
                is damaged. Nothing is changed then.
        """
        assert self.strategy is not None, "attach a strategy first"
        refuse_positions(state)
        fresh = self.strategy.fresh()
        like = self._state(fresh) | {"stream": None}  # which stands for anything
        check_saved(state, like)
        check_use(state, self.strategy, self.batch_size * self.num_replicas)
        check_layout(state["strategy_state"], like["strategy_state"], "strategy_state")
        generator = generator_state(state["generator"])
        resumable = self.place.now() is not None and self.num_replicas == 1 and state["stream"] is not None
        stream = checked(state["stream"]) if resumable else None
        load_into(fresh, state)
        vars(self.strategy).update(vars(fresh))  # from here on nothing can go wrong
        self.restart()
        self._generator.set_state(generator)
        self._position = state["position"] % len(self)
        self._resuming = self._position > 0
        if stream is not None:
            self.place.restart(Origin(stream["number"], stream["state"]))
            self._waiting = Draw(**stream["left"])
            self._replay = Replay(stream, self._waiting.indices)
        elif self._resuming:
            rank_zero_warn(
                "The fit is resumed amid an epoch, and the stream begins anew, as it cannot be resumed: what comes of "
                "it again before it has come to where it was is trained on once more. A data set with `state_dict` and "
                "`load_state_dict`, one process and no loader processes go on where they were."
            )

    def _replayed(self, keys: Tensor) -> Tensor | None:
        """What was decided of candidates that come once more; None if these are none."""
        if not self._replay:
            return None
        positions = self._replay.next(keys)
        if positions is None:
            rank_zero_warn(
                "The stream does not go on where it was when the checkpoint was saved, as with a shuffle buffer, which "
                "is filled anew: up to a few batches that had been read then are not trained on in this pass."
            )
            come = len(self._waiting.indices) - self._replay.left
            self._waiting = self._waiting.select(torch.arange(come, device="cpu"))
            self._replay = None
        return positions

    def restart(self) -> None:
        """Have the stream begin anew, with nothing that waits."""
        self.place.restart()
        self._pending: deque[Draw] = deque()
        self._begun: deque[Tensor] = deque()  # for each of these the state of the generator when it was begun
        self._waiting = joined()
        self._log = StreamLog()
        self._replay: Replay | None = None
        self._position = 0  # batches of this epoch that were trained on
        self._resuming = False
