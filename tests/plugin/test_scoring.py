import random
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveDataModule,
    Draw,
    Uniform,
)
from lightning_as.losses import gradient_bound
from lightning_as.strategies import BatchSelector, Scores, Selection, Strategy
from tests.helpers.processes import within
from tests.helpers.tiny import BATCH, EPOCH, Noisy, Tiny, TinyData, differences, refused, tiny_dataset, tiny_fit

FACTOR = 3
ALL: frozenset[Any] = frozenset({"losses", "bounds", "logits", "features", "inputs", "entropies"})
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Unscored(Uniform):
    """Draws what a `Chooser` of the first candidates trains on, without any scoring."""

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return super().draw(FACTOR * size, generator).select(torch.arange(size))


class Asking(Uniform):
    def __init__(self, reads: frozenset[Any] = ALL, wanted: Tensor | None = None) -> None:
        super().__init__(replacement=True)
        self.reads, self._wanted = reads, wanted  # pyright: ignore[reportAttributeAccessIssue]
        self.got: list[tuple[Tensor, Scores]] = []
        self.drawn = 0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        self.drawn += 1
        return super().draw(size, generator)

    def wanted(self) -> Tensor | None:
        return self._wanted

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        self.got.append((indices, scores))


class Chooser(Asking, BatchSelector):
    """Trains on the candidates with the largest losses, or on the first, whatever their losses are."""

    def __init__(self, by_loss: bool = True, weighted: bool = False, wanted: Tensor | None = None) -> None:
        super().__init__(wanted=wanted)
        self.by_loss, self.weighted = by_loss, weighted  # pyright: ignore[reportAttributeAccessIssue]
        self.asked: list[tuple[Draw, Scores, Selection]] = []
        self.learnt: list[tuple[Draw, Tensor]] = []

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        return super().draw(FACTOR * size, generator)

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        positions = scores.losses.argsort(descending=True)[:size] if self.by_loss else torch.arange(size)
        weights = torch.arange(1.0, size + 1).double() if self.weighted else None
        selection = Selection(positions, weights, weights)
        self.asked.append((draw, scores, selection))
        return selection

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.learnt.append((draw, losses.clone()))


class InPlace(Noisy):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].add_(1), batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].mul_(2), batch[1]]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(0.5))


class Before(Callback):
    """Keeps, as of before each batch, the batch, the module, its flags, and the global random states."""

    def __init__(self) -> None:
        self.batches, self.weights, self.rest, self.given = list[Any](), list[Any](), list[Any](), list[Any]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(deepcopy(batch))
        self.weights.append(deepcopy(pl_module.state_dict()))
        self.given.append(getattr(pl_module, "importance_weights", None))
        states = [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.random()]  # pyright: ignore
        self.rest.append([[part.training for part in pl_module.modules()], states])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_batch_start(trainer, pl_module, [], 0)


def fit(folder: Path, sampling: Strategy, make: Any = Noisy, data: Any = None, **options: Any) -> Before:
    before, data = Before(), AdaptiveDataModule(TinyData() if data is None else data)
    tiny_fit(folder, sampling, make, data, callbacks=(before,), **{"max_epochs": 2, **options})
    return before


@pytest.mark.parametrize("make", [Noisy, InPlace])
@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize("select", [True, False])
def test_training_does_not_notice_that_something_is_scored(tmp_path: Path, make: Any, options: Any, select: bool):
    strategy = Chooser(by_loss=False) if select else Asking(ALL, torch.arange(37))
    plain, scored = (
        fit(tmp_path, one, make, TinyData(num_workers=0 if "precision" in options else 2), **options)
        for one in ((Unscored if select else Uniform)(replacement=True), strategy)
    )
    if isinstance(strategy, Chooser):
        assert len(strategy.asked) == len(strategy.learnt) == 2 * EPOCH
        logits: Any = strategy.asked[-1][1].logits
        assert torch.equal(logits.bfloat16().double(), logits) == ("precision" in options)
    else:
        assert len(strategy.got) == 2 + 2 * EPOCH  # before each epoch, and after each batch
    assert len(scored.batches) == 2 * EPOCH + 1
    for name in ("batches", "weights", "rest"):
        assert differences(getattr(scored, name), getattr(plain, name)) == [], name


def plain_pass(weights: dict[str, Tensor], indices: Tensor) -> Scores:
    module = Noisy().eval()
    module.load_state_dict(weights)
    x, y = (part[indices] for part in tiny_dataset().tensors)
    with torch.no_grad():
        *body, head = module.net
        features = nn.Sequential(*body)(x)
        logits = head(features)
    losses = cross_entropy(logits.double(), y, reduction="none")
    entropies = torch.distributions.Categorical(logits=logits.double()).entropy()
    return Scores(losses, gradient_bound(logits.double(), y), logits, features, x, entropies)


def assert_scores(scores: Scores, expected: Scores, reads: frozenset[Any] = ALL) -> None:
    for name in ALL:
        value = getattr(scores, name)
        assert (value is not None) == (name in reads)
        if value is not None:
            torch.testing.assert_close(value, getattr(expected, name), rtol=2e-5, atol=1e-6)


class NeedsSetUp(TensorDataset):
    ready = False

    def set_up(self, worker: int) -> None:
        self.ready = True

    def __getitem__(self, index: int) -> Any:
        assert self.ready, "a worker that was not set up"
        return super().__getitem__(index)


@pytest.mark.parametrize(("read", "num_workers"), [*((read, 0) for read in sorted(ALL)), ("all", 2)])
def test_wanted_instances_get_the_scores_of_a_plain_pass(tmp_path: Path, read: str, num_workers: int):
    reads = ALL if read == "all" else frozenset({read})
    wanted = torch.tensor([5, 90, 5, 0, *range(40, 60)])  # more than a batch, in no order, with a duplicate
    strategy, data = Asking(reads, wanted), TinyData(num_workers=num_workers)
    if num_workers:
        data.dataset = NeedsSetUp(*data.dataset.tensors)
        data.options["worker_init_fn"] = data.dataset.set_up
    before = fit(tmp_path, strategy, data=data)
    trained = [0, *range(1, EPOCH + 1), EPOCH, *range(EPOCH + 1, 2 * EPOCH + 1)]  # batches trained on before each
    for (indices, scores), batches in zip(strategy.got, trained, strict=True):
        assert torch.equal(indices, wanted)
        assert_scores(scores, plain_pass(before.weights[batches], wanted), reads)


class Weighted(Noisy):
    importance_weights: Any = None


@pytest.mark.parametrize("weighted", [False, True])
def test_the_chosen_candidates_are_trained_on_and_learnt_from(tmp_path: Path, weighted: bool):
    strategy = Chooser(weighted=weighted)
    before = fit(tmp_path, strategy, Weighted, TinyData(num_workers=2))
    assert len(strategy.asked) == len(strategy.learnt) == 2 * EPOCH
    for at, (draw, scores, selection) in enumerate(strategy.asked):
        learnt, losses = strategy.learnt[at]
        assert_scores(scores, plain_pass(before.weights[at], draw.indices))
        assert len(draw.indices) == FACTOR * len(losses) == FACTOR * BATCH
        assert torch.equal(learnt.indices, draw.indices[selection.positions])
        assert torch.equal(learnt.bins, draw.bins[selection.positions])
        assert differences(before.batches[at], [part[learnt.indices] for part in tiny_dataset().tensors]) == []
        # The weights and probabilities of a selection take the place of the draw's own.
        weights = selection.weights
        expected = [draw.probabilities[:BATCH], None, None] if weights is None else [weights, weights, weights.float()]
        assert differences([learnt.probabilities, learnt.weights, before.given[at]], expected) == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "num_workers"), [("32-true", 2), ("bf16-mixed", 0)])
def test_two_processes_choose_each_from_their_share_and_all_know(tmp_path: Path, num_workers: int, precision: Any):
    def report(trainer: Any, pl_module: Any) -> None:
        asked = [(draw.indices, *scores, selection.positions) for draw, scores, selection in strategy.asked]
        drawn = [(draw.indices, draw.weights, draw.probabilities) for draw, _ in strategy.learnt]
        got = [(indices, *scores) for indices, scores in strategy.got]
        found = {"got": got, "weights": before.weights, "asked": asked, "drawn": drawn, "batches": before.batches}
        torch.save(found, tmp_path / f"{trainer.global_rank}.pt")

    # A selector that wants instances scored, too: 19, which two processes cannot share in halves.
    strategy, before = Chooser(weighted=True, wanted=torch.arange(0, 95, 5)), Before()
    data = AdaptiveDataModule(TinyData(batch_size=BATCH // 2, num_workers=num_workers))
    callbacks = (before, LambdaCallback(on_fit_end=report))
    options = {"devices": 2, "strategy": "ddp_fork", "precision": precision, "callbacks": callbacks}
    assert within(300, lambda: tiny_fit(tmp_path, strategy, Tiny, data, max_epochs=2, **options)) == ""
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(one["got"]) == 2 + 2 * EPOCH
    for name in ("got", "weights", "drawn", "asked"):
        assert differences(one[name], other[name]) == [], name
    dataset = tiny_dataset().tensors
    assert len(one["drawn"]) == 2 * EPOCH
    of_selection = torch.arange(1.0, BATCH // 2 + 1, dtype=torch.float64)
    for at, (drawn, weights, probabilities) in enumerate(one["drawn"]):
        for rank, its in enumerate((one, other)):
            assert torch.equal(weights[rank::2], of_selection)
            assert torch.equal(probabilities[rank::2], of_selection)
            share = drawn[rank::2]  # the global batch is dealt out in turn
            assert differences(its["batches"][at], [part[share] for part in dataset]) == []
            indices, *scores, positions = one["asked"][2 * at + rank]
            assert torch.equal(share, indices[positions])
            assert torch.equal(scores[4], dataset[0][indices])  # of this share's own rows


class Convolution(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 4, 1), nn.Flatten())


@pytest.mark.parametrize(
    ("reads", "make", "data", "message"),
    [
        (
            "inputs",
            Tiny,
            [{"x": 0, "z": 0, "y": 0}] * 96,
            "Asking goes by the inputs, the first tensor of a tuple or the only .* but the batch is a mapping",
        ),
        ("features", Convolution, tiny_dataset(), "Asking goes by the inputs of the last linear layer"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, reads: Any, make: Any, data: Any, message: str):
    with refused(message):
        tiny_fit(tmp_path, Asking({reads}, torch.arange(3)), make, AdaptiveDataLoader(data, BATCH, bins=None))


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_fit_nothing_is_left_on_the_loader_and_the_module(fails: bool, tmp_path: Path):
    class Failing(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if fails and batch_idx == 2:
                raise ValueError("something broke")
            return super().training_step(batch, batch_idx)

    loader, module = AdaptiveDataLoader(tiny_dataset(), BATCH), Failing()
    with pytest.raises(ValueError, match="something broke") if fails else nullcontext():
        tiny_fit(tmp_path, Chooser(), lambda: module, loader, limit_train_batches=4)
    assert len(module.net._forward_hooks) == 1  # that of the Watch
    batches = [x for x, _ in loader]
    assert [len(x) for x in batches] == [BATCH] * EPOCH
    assert torch.equal(torch.cat(batches).sum(0), tiny_dataset().tensors[0].sum(0))  # each once


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fit_draws_no_more_than_it_trains_on_and_knows_its_new_length(num_workers: int, tmp_path: Path):
    data, nothing = AdaptiveDataModule(TinyData(num_workers=num_workers)), {"logits_from": None}
    options: Any = {"data": data, "ours": nothing, "max_epochs": 2, "limit_train_batches": 4}
    strategy, _, trainer, module, _ = tiny_fit(tmp_path, Asking(reads=frozenset()), **options)
    assert trainer.global_step == strategy.drawn == strategy.progress.total == 8
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == strategy.drawn == strategy.progress.total == 12
