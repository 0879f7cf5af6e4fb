"""The sampler: draws whole batches by a strategy, and remembers them until they have been trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from lightning_as.core.arguments import check_integer
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.core.state import check_layout, checksums
from lightning_as.data.chunks import AHEAD, Positions
from lightning_as.data.sampler_state import (
    FORMAT,
    check_bins,
    check_chunks,
    check_saved,
    check_use,
    chunk_sizes,
    generator_state,
    load_into,
    pending_draws,
)
from lightning_as.data.sharing import SharedSampler
from lightning_as.strategies import Strategy, Uniform


class AdaptiveBatchSampler(SharedSampler):
    """Yields batches of indices; use it as ``DataLoader(dataset, sampler=sampler, batch_size=None)``.

    The data set then gets the whole list of indices at once. Until a strategy is attached, epochs are shuffled
    and without replacement. A drawn batch is pending, with the probabilities it was drawn with, until
    :meth:`commit` says that it was trained on: between the two, workers may hold several. Plain shuffled epochs keep no
    such list: resumed in the middle, they begin with a new permutation, as torch's own loaders do.

    Lightning leaves this object alone, and does not wrap or replace it, because it is a `DistributedSampler`;
    all processes draw the same global batch and each yields its own share.

    Args:
        bins: The partition of the data set.
        batch_size: Instances per batch, of this process.
        batches_per_epoch: Length of an epoch. Default: the data set's size over the (global) batch size, floored.
        seed: Seed of the sampler's own generator, the only source of randomness. Default: 0.
        num_replicas: Number of processes. Default: that of torch's process group, or 1.
        rank: Which of them this is. Default: that in torch's process group, or 0.
        device: Where strategies that can keep their state and draw (:attr:`Strategy.any_device`); the others do so on
            the CPU. Batches of one that does not draw on the CPU are tensors instead of lists. Default: the CPU.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is not positive, the batch is larger than the data set, or `rank` is out of range.
    """

    def __init__(
        self,
        bins: Bins,
        batch_size: int,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_replicas, rank)
        if batches_per_epoch is not None:
            check_integer("batches_per_epoch", batches_per_epoch)
        self.bins = bins.to("cpu")
        self._bins_on_device = bins.to(device)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffling = torch.Generator().manual_seed(seed)  # without a strategy, so that a look moves no draw
        self._pending: deque[Draw] = deque()
        self._position = 0  # batches of this epoch that were trained on
        self._resuming = False
        self._iteration = 0
        self.limit: int | None = None
        """Batches of an epoch that will be asked for, if fewer than all: no more are drawn ahead."""
        self.data = 0
        """A fingerprint of the data set that is drawn from, which its loader gives; 0 if that is not known."""
        self.learned_from = 0
        """That of the data set that the strategy has learnt from, which the callback gives; 0 likewise."""
        self._uniform = Uniform()
        self.attach(self._uniform)

    @property
    def batch_size(self) -> int:
        """Instances per batch, of this process."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        check_integer("batch_size", value)
        if value * self.num_replicas > len(self.bins):
            raise ValueError(
                f"`batch_size` is {value} in each of {self.num_replicas} process(es), "
                f"but the data set has only {len(self.bins)} instances: use at most "
                f"{len(self.bins) // self.num_replicas}."
            )
        self._batch_size = value

    def attach(self, strategy: Strategy, anew: bool = False) -> None:
        """Draw from `strategy` from now on. It starts `anew`, or if it has not been at work on these bins before."""
        bins = self._own_bins_on_device if strategy.any_device else self.own_bins
        if anew:
            strategy.start_anew(bins)
        strategy.work_on(bins)
        if strategy is not self._uniform:
            self._uniform.start(self._own_bins_on_device)  # which forgets its permutation
        self.strategy = strategy
        self.end_epoch()

    def to(self, device: torch.device | str) -> None:
        """Have strategies that can keep their state on `device` do so from now on, with the state that they have."""
        self._bins_on_device = self.bins.to(device)
        self.attach(self.strategy)

    def detach(self) -> None:
        """Back to shuffled epochs. The strategy keeps its state, and goes on from it when attached again."""
        self.attach(self._uniform)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.batches_per_epoch or len(self.bins) // (self.batch_size * self.num_replicas)

    @property
    def own_bins(self) -> Bins:
        """The partition of what this process draws from, on the CPU."""
        return self.bins

    @property
    def _own_bins_on_device(self) -> Bins:
        return self._bins_on_device

    @property
    def bins_at_work(self) -> Bins:
        """The partition where the strategy at work has its state, and where the draws are."""
        return self.strategy.bins

    @property
    def off_host(self) -> bool:
        """Whether it has been given a device other than the CPU."""
        return not self._bins_on_device.on_host

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch; after :meth:`load_state_dict`, what is left of it."""
        self._iteration += 1  # there is one list of pending draws, so an older iterator must not go on
        iteration = self._iteration
        generator = self._shuffling if self.strategy is self._uniform else self._generator
        self.strategy.processes = self.sharing
        if self._resuming:
            self._resuming = False
        else:
            self._position = 0
            self._pending.clear()
            self.strategy.start_epoch(generator)
        resumed = list(self._pending)
        remaining = min(len(self), self.limit or len(self)) - self._position - len(resumed)
        for draw in resumed:
            yield self._listed(draw)
        for _ in range(remaining):
            if iteration != self._iteration:
                raise RuntimeError(
                    "The train DataLoader was iterated anew while an epoch was under way: to look at the data in "
                    "between, make another DataLoader, with a sampler of its own."
                )
            draw = self.strategy.draw(self.batch_size * self.sharing, generator)
            self.strategy.progress.step()
            if self.strategy is not self._uniform:  # nobody commits plain shuffled epochs
                self._pending.append(draw)
            yield self._listed(draw)

    @property
    def current(self) -> Draw:
        """The oldest pending batch, of all processes: the one that is trained on, or is next.

        Raises:
            RuntimeError: If no drawn batch is pending.
        """
        if not self._pending:
            raise RuntimeError(
                "No drawn batch is pending: the batch that is trained on did not come from this sampler."
            )
        return self._pending[0]

    def narrow(self, draw: Draw) -> None:
        """Note that of the :attr:`current` batch only a part, `draw`, is trained on."""
        self._pending[0] = draw

    def commit(self) -> Draw:
        """Note that the oldest pending batch was trained on.

        Returns:
            The batch as it was drawn, of all processes.

        Raises:
            RuntimeError: If no drawn batch is pending.
        """
        draw = self.current
        self._pending.popleft()
        self._position += 1
        return draw

    @property
    def common_generator(self) -> torch.Generator:
        """One that must be in the same state in all processes."""
        return self._generator

    @property
    def generator(self) -> torch.Generator:
        """The private generator of all draws, in the same state in all processes."""
        return self._generator

    def for_a_look(self, seed: int) -> AdaptiveBatchSampler:
        """Another one over the same instances, which shuffles them and leaves this one alone."""
        return AdaptiveBatchSampler(
            self.bins, self.batch_size, self.batches_per_epoch, seed, self.num_replicas, self.rank
        )

    def end_epoch(self) -> None:
        """Note that the epoch is over, however many of its batches were trained on."""
        self._position = 0
        self._pending.clear()
        self._resuming = False

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the generator's own state decides, since Lightning calls this after the first draws."""

    def state_dict(self, strategy: Strategy | None = None) -> dict[str, Any]:
        """Everything that the next draws depend on, as plain tensors, ints and strings.

        Args:
            strategy: One that this sampler has drawn from and that is to be saved, though it is not attached now.
                Default: the one that is attached.
        """
        state = self._state(self.strategy if strategy is None else strategy)
        return state | {"checksums": checksums(state)}

    def _state(self, strategy: Strategy) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "tags": self.bins.tags,  # which nobody changes
            "chunks": chunk_sizes(self.bins),
            "data": self.data,
            "batch_size": self.batch_size * self.num_replicas,
            "generator": self._generator.get_state(),
            "position": self._position,
            "pending": [draw.to("cpu")._asdict() for draw in self._pending],
            "strategy": type(strategy).__name__,
            "strategy_state": strategy.state_dict(),
            "progress": strategy.progress.state_dict(),
            "skipped": strategy.skipped,
            "record": {} if strategy.record is None else strategy.record.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken: pending batches are yielded again first.

        Raises:
            ValueError: If the state is of another layout, other bins or another strategy, or amid an epoch of another
                batch size; or if it is damaged. Nothing is changed then.
        """
        fresh = self.strategy.fresh()
        like = self._state(fresh) | {"pending": []}
        check_saved(state, like)
        check_bins(state["tags"], self.bins)
        check_chunks(state["chunks"], self.bins)
        check_use(state, self.strategy, self.batch_size * self.num_replicas)
        check_layout(state["strategy_state"], like["strategy_state"], "strategy_state")
        pending = pending_draws(state["pending"], self.own_bins)
        generator = generator_state(state["generator"])
        load_into(fresh, state)
        vars(self.strategy).update(vars(fresh))  # from here on nothing can go wrong
        self._generator.set_state(generator)
        self._position = state["position"] % len(self)
        self._pending = deque(draw.to(self.bins_at_work.device) for draw in pending)
        self._resuming = self._position > 0 or len(self._pending) > 0

    def _listed(self, draw: Draw) -> Any:
        """The instances that this process gets, as a data set takes them: a list, or a tensor that is not looked at."""
        share, order = self.share(draw.indices), self.strategy.chunk_order
        if order is not None:
            return Positions(share.tolist(), order.next(self.rank, AHEAD))
        return share.tolist() if self.bins_at_work.on_host else share.clone()  # which a backward pass may keep
