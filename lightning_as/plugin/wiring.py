"""What must be in place before the first batch: our sampler in the train loader, and processes that agree."""

from __future__ import annotations

import math
import zlib
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.dataloader import AdaptiveDataLoader
from lightning_as.data.iterable import AdaptiveIterableLoader
from lightning_as.data.sampler_state import chunk_sizes
from lightning_as.data.sharded_sampler import ShardedBatchSampler
from lightning_as.data.stream_sampler import StreamSampler
from lightning_as.strategies import Strategy

Loader = AdaptiveDataLoader | AdaptiveIterableLoader
"""What the training batches come from: from positions that a strategy draws, or from a stream that it thins."""
Sampler = AdaptiveBatchSampler | StreamSampler
"""Whom the callback tells what was trained on."""


def refuse_overfit_batches(trainer: Trainer) -> None:
    """Raise if Lightning will put a sequential sampler in place of ours."""
    overfit_batches: float = trainer.overfit_batches  # pyright: ignore[reportAttributeAccessIssue]
    if overfit_batches > 0:
        raise MisconfigurationException(
            f"`overfit_batches={overfit_batches}` replaces the sampler by a sequential one: leave it out, or leave out "
            "AdaptiveSamplingCallback."
        )


_USERS: WeakKeyDictionary[Strategy, ref[Callback]] = WeakKeyDictionary()


def claim(strategy: Strategy, callback: Callback) -> None:
    """Raise if a strategy is, or was, at work for another callback, whose state would be a mixture then."""
    user = _USERS.setdefault(strategy, ref(callback))
    if user() is not callback:
        raise MisconfigurationException(
            f"This {type(strategy).__name__} has been at work in another AdaptiveSamplingCallback, and its state "
            "belongs to that one's data: give each callback a strategy of its own, such as `copy.deepcopy(strategy)`."
        )


def refuse_nested_fit(trainer: Trainer, other: Trainer) -> None:
    """Raise if a callback that is at work for the other Trainer is given to this one."""
    if other is trainer or other.state.status == TrainerStatus.RUNNING:
        raise MisconfigurationException(
            "This AdaptiveSamplingCallback is at work in a fit that has not ended: give a fit within it a callback of "
            "its own, with a strategy of its own."
        )


def find_loader(trainer: Trainer) -> tuple[Loader, Sampler]:
    """The loader and the sampler that the training batches will come from.

    Raises:
        MisconfigurationException: If there is none of ours, or it would not be heard.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, AdaptiveIterableLoader):
        return loader, _of_all_processes(trainer, loader.sampler)
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"AdaptiveSamplingCallback needs one train DataLoader, but `train_dataloader` gave a "
            f"{type(loader).__name__}: return a single AdaptiveDataLoader."
        )
    if isinstance(loader.dataset, IterableDataset):
        raise MisconfigurationException(
            "An IterableDataset has no indices to sample from: use a map-style dataset, with `__getitem__`; a "
            "litdata.StreamingDataset has some in an AdaptiveDataLoader; of others an AdaptiveIterableLoader and "
            "`AdaptiveSamplingCallback(KeepOrSkip())` keep or skip what comes."
        )
    sampler = loader.sampler
    if not isinstance(loader, AdaptiveDataLoader) or not isinstance(sampler, AdaptiveBatchSampler):
        raise MisconfigurationException(
            f"The train loader is a {type(loader).__name__} that draws from a {type(sampler).__name__}, which "
            f"AdaptiveSamplingCallback cannot guide: {_remedy(trainer)}"
        )
    return loader, _of_all_processes(trainer, sampler)


def _of_all_processes(trainer: Trainer, sampler: Sampler) -> Any:
    """The sampler, if it knows of as many processes as the Trainer has."""
    if sampler.num_replicas != trainer.world_size:
        raise MisconfigurationException(
            f"The sampler shares batches among {sampler.num_replicas} process(es), but the Trainer has "
            f"{trainer.world_size}: leave `num_replicas` out of AdaptiveBatchSampler, and use a strategy on "
            "torch.distributed, such as 'ddp'."
        )
    shares = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size)
    if shares != trainer.world_size:  # as of tensor parallelism, whose default has all processes in one group
        raise MisconfigurationException(
            f"Batches are to be shared among {shares} group(s) of processes, each of which has the same one, but the "
            f"sampler gives each of {trainer.world_size} processes one of its own: give ModelParallelStrategy "
            f"`data_parallel_size={trainer.world_size}, tensor_parallel_size=1`."
        )
    return sampler


def _remedy(trainer: Trainer) -> str:
    """What to do for a loader of ours, where the user is: in Python, or on a command line."""
    from lightning.pytorch.cli import SaveConfigCallback  # late: few messages need it

    if any(isinstance(callback, SaveConfigCallback) for callback in getattr(trainer, "callbacks", ())):
        data = getattr(trainer, "datamodule", None)
        theirs = "YourDataModule" if data is None else f"{type(data).__module__}.{type(data).__qualname__}"
        return (
            f"wrap your DataModule on the command line, `--data=AdaptiveDataModule --data.data={theirs}` with its "
            "arguments as `--data.data.…`, for which a LightningCLI of your own needs `subclass_mode_data=True`; or "
            "return `AdaptiveDataLoader(dataset, batch_size=…)` from its `train_dataloader`."
        )
    return (
        "return `AdaptiveDataLoader(dataset, batch_size=…)` from `train_dataloader`, or wrap your DataModule as "
        "`AdaptiveDataModule(datamodule)`."
    )


def validation_metrics(trainer: Trainer) -> dict[str, float] | None:
    """What validation has logged, the same in all processes; None if it is not one amid training."""
    if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
        return None
    return trainer.strategy.broadcast({name: float(value) for name, value in trainer.callback_metrics.items()})


def check_processes_agree(trainer: Trainer, loader: Loader, sampler: Sampler) -> None:
    """Raise, in every process, if the processes would not draw the same batches, or as many of their own."""
    if trainer.world_size == 1:
        return
    facts = {
        "number of instances": len(sampler.bins),
        "bins (a checksum)": _checksum(sampler.bins.tags),
        "chunks (a checksum)": _checksum(chunk_sizes(sampler.bins)),
        "`open_chunks`": 0 if sampler.bins.chunks is None else sampler.bins.chunks.open,
        "batch size": sampler.batch_size,
        "batches per epoch": len(sampler),
        "seed (a checksum of the generator)": _checksum(sampler.common_generator.get_state()),
        "`sharded`": isinstance(sampler, ShardedBatchSampler),
        "`num_workers`": loader.num_workers,
        "`prefetch_factor`": loader.prefetch_factor or 0,
    }
    mine = torch.tensor(list(facts.values()), dtype=torch.int64, device=trainer.strategy.root_device)
    everyones = trainer.strategy.all_gather(mine)
    for name, values in zip(facts, everyones.T.tolist(), strict=True):
        if len(set(values)) > 1:
            raise MisconfigurationException(
                f"The processes do not agree on the {name}: {', '.join(map(str, values))}. All must have the same "
                "data, bins, batch size and `seed`: call `seed_everything` first, or give the loader a `seed`."
            )


def check_labels(bins: Bins, drawn: Tensor, labels: Tensor) -> None:
    """Raise if the labels of a batch are not those of the bins that were drawn."""
    assert bins.labels is not None
    expected, labels = bins.labels.index_select(0, drawn.cpu()), labels.to("cpu", torch.int64)
    if expected.tolist() != labels.tolist():  # of a batch's few numbers faster than torch.equal
        at = int((expected != labels).nonzero()[0])
        raise MisconfigurationException(
            f"The target of an instance is {int(labels[at])}, but it was drawn from the bin of the label "
            f"{int(expected[at])}: the losses would be filed under the wrong instances. Make the bins from the labels "
            "of this very dataset, in its order; if the `collate_fn` sorts the samples, have it add their positions, "
            "`kept=…`; if the batch has other labels than the data set keeps, as of a `target_transform`, give the "
            "bins yourself, `bins=lambda dataset: dataset.targets` or `Bins(tags)`."
        )


def length_of_training(trainer: Trainer) -> tuple[int | None, int]:
    """Number of batches of a fit in all, None if there is no end in sight, and of batches in an epoch."""
    epoch = int(trainer.num_training_batches)
    ends = [] if trainer.max_epochs in (None, -1) else [trainer.max_epochs * epoch]
    if trainer.max_steps > 0:
        # What has been accumulated at the end of an epoch makes a step there, however little it is.
        steps = max(math.ceil(epoch / trainer.accumulate_grad_batches), 1)  # of an epoch
        epochs, rest = divmod(trainer.max_steps, steps)
        ends.append(epochs * epoch + rest * trainer.accumulate_grad_batches)
    return (min(ends) if ends else None), epoch


def logs_now(trainer: Trainer, batch_idx: int) -> bool:
    """Whether what is logged after this batch is kept: what is logged in between Lightning keeps to itself.

    So is that of the first batch, for the sake of the progress bar.
    """
    every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
    return batch_idx == 0 or (every > 0 and trainer.global_step % every == 0)


def gather_draw(trainer: Trainer, draw: Draw) -> Draw:
    """The draw of the global batch, where each process has one of its own; one collective.

    Args:
        trainer: The Trainer.
        draw: That of this process.

    Raises:
        MisconfigurationException: In every process, if two have drawn the same.
    """
    if trainer.world_size == 1:
        return draw
    assert draw.within is not None, "a stream's draws have the chances"
    numbers = [part.view(torch.int64) for part in (draw.probabilities, draw.within)]  # as they are, to the bit
    packed = torch.stack([draw.indices, *numbers]).to(trainer.strategy.root_device)
    shares = trainer.strategy.all_gather(packed)  # (processes, 3, B)
    assert isinstance(shares, Tensor)
    shares = shares.cpu()
    if len(shares[:, 0].unique(dim=0)) < len(shares):
        raise MisconfigurationException(
            "Several processes were given the same part of the stream: have the data set give each its own, as "
            "`datasets.distributed.split_dataset_by_node` and webdataset's `split_by_node` do."
        )
    indices, probabilities, within = shares.permute(1, 2, 0).flatten(1).unbind()  # in the order of `gather_batch`
    # Copies, for no file can have one storage as two types.
    probabilities, within = (part.view(torch.float64).clone() for part in (probabilities, within))
    return Draw(indices, torch.zeros_like(indices), probabilities, within)


def gather_batch(trainer: Trainer, rows: list[Tensor], device: torch.device, alone: bool = False) -> list[Tensor]:
    """Rows about each process's share of a batch, put together to rows about the global batch, in its order.

    One collective for all of them, and none without other processes.

    Args:
        trainer: The Trainer.
        rows: Numbers for each instance of this process's share, (B,) each.
        device: Where they are wanted.
        alone: Whether this process's share is all that it is to have. Default: False.

    Returns:
        The same for the global batch, (B · processes,) each, float64 on that device.
    """
    if trainer.world_size == 1 or alone:
        return [row.to(device).to(torch.float64) for row in rows]  # in this order: not every device knows float64
    root = trainer.strategy.root_device  # where not all of them are
    packed = torch.stack([row.to(torch.float64).to(root) for row in rows])
    shares = trainer.strategy.all_gather(packed)  # (processes, rows, B)
    assert isinstance(shares, Tensor)
    # Entry i of process r is entry i · processes + r of the global batch.
    return list(shares.permute(1, 2, 0).flatten(1).to(device).unbind())


def gather_rows(trainer: Trainer, parts: list[Tensor | None]) -> list[Tensor | None]:
    """As :func:`gather_batch`, for rows of any shape, (B, …) each, one collective for each of them; None stays None.

    Returns:
        The same for the global batch, (B · processes, …) each, on the CPU.
    """
    if trainer.world_size > 1:
        device = trainer.strategy.root_device
        parts = [None if part is None else _interleave(trainer, part.to(device)) for part in parts]
    return [None if part is None else part.cpu() for part in parts]


def _interleave(trainer: Trainer, rows: Tensor) -> Tensor:
    shares = trainer.strategy.all_gather(rows)  # (processes, B, …)
    assert isinstance(shares, Tensor)
    return shares.transpose(0, 1).flatten(0, 1)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().tobytes())
