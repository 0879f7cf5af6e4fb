"""What is found, compared and put together before and between batches; several processes are stood in for."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, AdaptiveIterableLoader, Bins, Draw
from lightning_as.plugin.wiring import (
    check_processes_agree,
    find_loader,
    gather_batch,
    gather_draw,
    gather_rows,
    length_of_training,
)
from tests.helpers.tiny import BATCH, Tiny, TinyData, Watch, refused, tiny_trainer

DATA = TensorDataset(torch.zeros(12, 2), torch.arange(12) % 3)


def trainer(others: list[Tensor] | None = None, loader: Any = None, **attributes: Any) -> Trainer:
    """Stands in for a Trainer whose other processes would answer `others` in a collective."""

    def all_gather(tensor: Tensor) -> Tensor:
        collectives.append(tensor)
        return torch.stack([tensor, *(others or [])])

    collectives: list[Tensor] = []
    strategy = SimpleNamespace(all_gather=all_gather, root_device=torch.device("cpu"), collectives=collectives)
    size = 1 + len(others or [])
    return SimpleNamespace(
        world_size=size, strategy=strategy, distributed_sampler_kwargs=None, train_dataloader=loader, **attributes
    )  # pyright: ignore[reportReturnType]


def test_the_rows_of_several_processes_are_put_together_in_the_order_of_the_global_batch():
    indices, cpu = torch.arange(12), torch.device("cpu")
    first, second = indices[0::2], indices[1::2]
    several: Any = trainer([torch.stack([second, -second]).double()])
    losses, bounds = gather_batch(several, [first.float(), -first.float()], cpu)
    assert torch.equal(losses, indices.double())
    assert torch.equal(bounds, -indices.double())
    assert len(several.strategy.collectives) == 1
    rows, none = gather_rows(trainer([torch.stack([second, second], 1)]), [torch.stack([first, first], 1), None])
    assert rows is not None
    assert torch.equal(rows, torch.stack([indices, indices], 1))
    assert none is None
    alone: Any = trainer()
    rows = gather_batch(alone, [torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor([3])], cpu)
    assert [row.dtype for row in rows] == [torch.float64, torch.float64]
    assert [row.tolist() for row in rows] == [[1.5], [3.0]]
    loader = AdaptiveDataLoader(DATA, 4)
    check_processes_agree(alone, loader, loader.sampler)  # pyright: ignore[reportArgumentType]
    assert alone.strategy.collectives == []


def test_rows_may_be_on_several_devices():
    there = torch.device("meta")
    several: Any = trainer()
    several.world_size, several.strategy.root_device = 2, there
    several.strategy.all_gather = lambda packed: torch.stack([packed, packed])
    rows = gather_batch(several, [torch.zeros(3), torch.zeros(3, device=there)], there)
    assert [(row.device, tuple(row.shape)) for row in rows] == [(there, (6,))] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch_size": 3, "batches_per_epoch": 3}, "on the batch size: 4, 3"),
        ({"batches_per_epoch": 7}, "on the batches per epoch: 3, 7"),
        ({"seed": 1}, "on the seed"),
        ({"num_workers": 2, "prefetch_factor": 2}, "on the `num_workers`: 0, 2"),
        ({"bins": torch.arange(12) % 2}, "on the bins"),
        ({"dataset": TensorDataset(torch.zeros(13, 2), torch.arange(13) % 3)}, "on the number of instances: 12, 13"),
    ],
)
def test_processes_that_would_draw_differently(other: dict[str, Any], message: str):
    options: dict[str, Any] = {"dataset": DATA, "batch_size": 4, "seed": 0}
    mine, others = AdaptiveDataLoader(**options), AdaptiveDataLoader(**options | other)
    elsewhere: Any = trainer([torch.zeros(0)])
    asked: list[Tensor] = []
    elsewhere.strategy.all_gather = lambda facts: asked.append(facts) or torch.stack([facts, facts])  # all agree
    check_processes_agree(elsewhere, others, others.sampler)  # pyright: ignore[reportArgumentType]
    with refused(f"The processes do not agree {message}"):
        check_processes_agree(trainer(asked), mine, mine.sampler)  # pyright: ignore[reportArgumentType]


def test_the_draws_of_several_processes_are_put_together_in_the_same_order():
    def draw_of(keys: Tensor) -> Draw:
        numbers = keys.double() / 7
        return Draw(keys, torch.zeros_like(keys), numbers, numbers / 3)

    def packed(draw: Draw) -> Tensor:
        assert draw.within is not None
        return torch.stack([draw.indices, draw.probabilities.view(torch.int64), draw.within.view(torch.int64)])

    keys = torch.arange(8) + 2**62  # which no floating-point number has
    whole = gather_draw(trainer([packed(draw_of(keys[1::2]))]), draw_of(keys[0::2]))
    for one, other in zip(whole[:4], draw_of(keys)[:4], strict=True):
        assert torch.equal(one, other)  # pyright: ignore[reportArgumentType]
    torch.save(whole, io.BytesIO())
    assert gather_draw(trainer(), whole) is whole
    with refused("Several processes were given the same part of the stream"):
        gather_draw(trainer([packed(draw_of(keys[0::2]))]), draw_of(keys[0::2]))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.rand(8, 8), torch.zeros(8, dtype=torch.int64)


def test_the_sampler_is_found_in_our_loader_alone():
    for loader in (AdaptiveIterableLoader(Endless(), 4, 0, 3), AdaptiveDataLoader(DATA, 4)):
        assert find_loader(trainer(loader=loader)) == (loader, loader.sampler)
    ours_elsewhere = DataLoader(DATA, sampler=AdaptiveBatchSampler(Bins.single(12), 4), batch_size=None)
    for other, message in (
        (ours_elsewhere, "is a DataLoader that draws from a AdaptiveBatchSampler"),
        (DataLoader(DATA, 4), "is a DataLoader that draws from a SequentialSampler, .* return `Ada"),
        ({"a": loader, "b": loader}, "needs one train DataLoader, but .* gave a dict"),
        (DataLoader(Endless(), batch_size=None), "IterableDataset has no indices .* an AdaptiveIterableLoader and"),
    ):
        with refused(message):
            find_loader(trainer(loader=other))
    cli: Any = SaveConfigCallback(LightningArgumentParser(), Namespace())
    with refused("`--data=AdaptiveDataModule --data.data=tests.helpers.tiny.TinyData` with its arg"):
        find_loader(trainer(loader=DataLoader(DATA, 4), callbacks=[cli], datamodule=TinyData()))
    with refused(r"among 1 process\(es\), but the Trainer has 2"):
        find_loader(trainer([torch.zeros(0)], loader=loader))


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "accumulate", "total"),
    [
        (3, -1, 4, 30),
        (None, 25, 1, 25),
        (3, 25, 1, 25),
        (2, 25, 1, 20),
        (-1, 7, 4, 24),  # 3 steps make an epoch, of 4, 4 and 2 batches
        (3, 8, 4, 28),
        (-1, 5, 16, 50),  # a step at each end of an epoch
        (-1, -1, 1, None),
        (None, -1, 4, None),
    ],
)
@pytest.mark.filterwarnings("ignore:::lightning")
def test_the_length_of_training(max_epochs: Any, max_steps: int, accumulate: int, total: int | None, tmp_path: Path):
    options, watch = {"max_epochs": max_epochs, "max_steps": max_steps, "accumulate_grad_batches": accumulate}, Watch()
    assert length_of_training(trainer(num_training_batches=10, **options)) == (total, 10)
    if total is not None:
        fitted = tiny_trainer(tmp_path, callbacks=[watch], **options)
        fitted.fit(Tiny(), datamodule=TinyData(10 * BATCH))
        assert length_of_training(fitted) == (len(watch.batches), 10) == (total, 10)
