from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveBatchSampler, AdaptiveDataLoader, Bins
from lightning_as.plugin.wiring import (
    check_processes_agree,
    find_sampler,
    gather_batch,
    length_of_training,
    refuse_overfit_batches,
)
from tests.helpers.tiny import EPOCH, Tiny, TinyData, tiny_trainer

DATA = TensorDataset(torch.zeros(12, 2), torch.arange(12) % 3)


def trainer(others: list[Tensor] | None = None, loader: Any = None, **attributes: Any) -> Trainer:
    """Stands in for a Trainer whose other processes would answer `others` in a collective."""

    def all_gather(tensor: Tensor) -> Tensor:
        collectives.append(tensor)
        return torch.stack([tensor, *(others or [])])

    collectives: list[Tensor] = []
    strategy = SimpleNamespace(all_gather=all_gather, root_device=torch.device("cpu"), collectives=collectives)
    size = 1 + len(others or [])
    return SimpleNamespace(  # pyright: ignore[reportReturnType]
        world_size=size, strategy=strategy, train_dataloader=loader, overfit_batches=0, **attributes
    )


def test_the_rows_of_several_processes_are_put_together_in_the_order_of_the_global_batch():
    indices = torch.arange(12)
    first, second = indices[0::2], indices[1::2]
    several = trainer([torch.stack([second, -second]).double()])
    losses, bounds = gather_batch(several, [first.float(), -first.float()], torch.device("cpu"))
    assert torch.equal(losses, indices.double())
    assert torch.equal(bounds, -indices.double())
    assert len(several.strategy.collectives) == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_alone_a_process_asks_nobody():
    alone = trainer()
    rows = gather_batch(alone, [torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor([3])], torch.device("cpu"))
    assert [row.dtype for row in rows] == [torch.float64, torch.float64]
    assert [row.tolist() for row in rows] == [[1.5], [3.0]]
    assert alone.strategy.collectives == []  # pyright: ignore[reportAttributeAccessIssue]
    loader = AdaptiveDataLoader(DATA, 4)
    check_processes_agree(alone, loader, loader.sampler)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (AdaptiveDataLoader(DATA, 3), "on the batch size: 4, 3"),
        (AdaptiveDataLoader(DATA, 4, batches_per_epoch=7), "on the batches per epoch: 3, 7"),
        (AdaptiveDataLoader(DATA, 4, seed=1), "on the seed"),
        (AdaptiveDataLoader(DATA, 4, seed=0, num_workers=2), "on the `num_workers`: 0, 2"),
        (AdaptiveDataLoader(DATA, 4, bins=torch.arange(12) % 2), "on the bins"),
        (
            AdaptiveDataLoader(TensorDataset(torch.zeros(13, 2), torch.arange(13)), 4),
            "on the number of instances: 12, 13",
        ),
    ],
)
def test_processes_that_would_draw_differently(other: AdaptiveDataLoader, message: str):
    loader = AdaptiveDataLoader(DATA, 4, seed=0)
    asked = trainer([torch.zeros(0)])
    answers: list[Tensor] = []
    asked.strategy.all_gather = lambda tensor: torch.stack([tensor, answers[0] if answers else tensor])
    check_processes_agree(asked, loader, loader.sampler)  # pyright: ignore[reportArgumentType]

    def note(tensor: Tensor) -> Tensor:
        answers.append(tensor)
        return torch.stack([tensor, tensor])

    elsewhere = trainer([torch.zeros(0)])
    elsewhere.strategy.all_gather = note
    check_processes_agree(elsewhere, other, other.sampler)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MisconfigurationException, match=message):
        check_processes_agree(asked, loader, loader.sampler)  # pyright: ignore[reportArgumentType]


def test_the_sampler_is_found_in_our_loader_alone():
    loader = AdaptiveDataLoader(DATA, 4)
    assert find_sampler(trainer(loader=loader)) is loader.sampler
    sampler = AdaptiveBatchSampler(Bins.single(12), 4)
    plain = DataLoader(DATA, sampler=sampler, batch_size=None)
    with pytest.raises(MisconfigurationException, match="is a DataLoader that draws from a AdaptiveBatchSampler"):
        find_sampler(trainer(loader=plain))
    with pytest.raises(MisconfigurationException, match=r"among 1 process\(es\), but the Trainer has 2"):
        find_sampler(trainer([torch.zeros(0)], loader=loader))


def test_overfit_batches_are_refused():
    refuse_overfit_batches(trainer())
    overfit = trainer()
    overfit.overfit_batches = 0.5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(MisconfigurationException, match=r"`overfit_batches=0\.5` replaces the sampler"):
        refuse_overfit_batches(overfit)


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "accumulate", "total"),
    [
        (3, -1, 1, 30),
        (3, -1, 4, 30),
        (-1, 25, 1, 25),
        (None, 25, 1, 25),
        (3, 25, 1, 25),
        (2, 25, 1, 20),
        (-1, 7, 4, 24),  # 3 steps make an epoch, of 4, 4 and 2 batches
        (-1, 6, 4, 20),
        (2, 7, 4, 20),
        (3, 8, 4, 28),
        (-1, 5, 16, 50),  # a step at each end of an epoch
        (-1, -1, 1, None),
        (None, -1, 4, None),
    ],
)
def test_the_length_of_training(max_epochs: int | None, max_steps: int, accumulate: int, total: int | None):
    planned = trainer(
        num_training_batches=10, max_epochs=max_epochs, max_steps=max_steps, accumulate_grad_batches=accumulate
    )
    assert length_of_training(planned) == (total, 10)


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize(("max_steps", "accumulate"), [(7, 2), (8, 2), (9, 4), (4, 7), (7, 1)])
def test_lightning_trains_as_long_as_planned(max_steps: int, accumulate: int, tmp_path: Path):
    class Counting(Callback):
        batches = 0

        def on_train_batch_end(self, *args: Any) -> None:
            self.batches += 1

    counting = Counting()
    fitted = tiny_trainer(
        tmp_path, callbacks=[counting], max_epochs=-1, max_steps=max_steps, accumulate_grad_batches=accumulate
    )
    fitted.fit(Tiny(), datamodule=TinyData())
    assert length_of_training(fitted) == (counting.batches, EPOCH)
