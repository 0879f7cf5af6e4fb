"""Forward passes beside the training: right scores, and a training that does not notice them."""

from __future__ import annotations

import random
import warnings
from collections import UserDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveDataModule,
    AdaptiveSamplingCallback,
    Bins,
    Draw,
    Uniform,
    UpperBoundImportanceSampling,
    gradient_bound,
)
from lightning_as.plugin.scoring import take_rows
from lightning_as.strategies import BatchSelector, Scores, Selection, Strategy
from lightning_as.strategies.base import Reading
from tests.helpers.processes import within
from tests.helpers.tiny import BATCH, EPOCH, Tiny, TinyData, differences, tiny_dataset, tiny_trainer
from tests.helpers.versions import LOSES_COUNT

FACTOR = 3
ALL: frozenset[Reading] = frozenset({"losses", "bounds", "logits", "features", "inputs"})
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Point(NamedTuple):
    x: Tensor
    names: list[str]


class Chooser(BatchSelector):
    """Trains on the candidates with the largest losses, or on the first, whatever their losses are."""

    reads = ALL

    def __init__(self, by_loss: bool = True, weighted: bool = False) -> None:
        self.by_loss = by_loss
        self.weighted = weighted  # pyright: ignore[reportAttributeAccessIssue]
        self.asked: list[tuple[Draw, Scores, Selection]] = []
        self.learnt: list[tuple[Draw, Tensor]] = []

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._bins = bins
        self._noise = 0.0

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        indices = torch.randint(len(self._bins), (FACTOR * size,), generator=generator)
        return Draw(indices, self._bins.of(indices), torch.full((FACTOR * size,), 1 / len(self._bins)).double())

    def select(self, draw: Draw, scores: Scores, size: int, generator: torch.Generator) -> Selection:
        assert scores.losses is not None
        self._noise += float(torch.rand(1, generator=generator)) if self.by_loss else 0.0
        positions = scores.losses.argsort(descending=True)[:size] if self.by_loss else torch.arange(size)
        weights = torch.arange(1.0, size + 1).double() if self.weighted else None
        selection = Selection(positions, weights, weights)
        self.asked.append((draw, scores, selection))
        return selection

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        self.learnt.append((draw, losses.clone()))

    def probabilities(self) -> Tensor:
        return torch.full((len(self._bins),), 1 / len(self._bins)).double()

    def state_dict(self) -> dict[str, Any]:
        return {"noise": self._noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._noise = state["noise"]


class Unscored(Uniform):
    """Draws what a `Chooser` of the first candidates trains on, without any scoring."""

    def start_epoch(self, generator: torch.Generator) -> None:
        """Nothing to shuffle."""

    def draw(self, size: int, generator: torch.Generator) -> Draw:
        indices = torch.randint(len(self._bins), (FACTOR * size,), generator=generator)[:size]
        return Draw(indices, self._bins.of(indices), torch.full((size,), 1 / len(self._bins)).double())


class Asking(Uniform):
    """Wants instances scored before each draw, and keeps what it gets."""

    def __init__(self, reads: frozenset[Any], wanted: Tensor) -> None:
        super().__init__(replacement=True)
        self.reads = reads  # pyright: ignore[reportAttributeAccessIssue]
        self._wanted = wanted
        self.got: list[tuple[Tensor, Scores]] = []

    def wanted(self) -> Tensor | None:
        return self._wanted

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        self.got.append((indices, scores))


class Noisy(Tiny):
    """Has everything that a forward pass could disturb: batch norm, dropout, and random numbers of all libraries."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        norm = nn.BatchNorm1d(16, momentum=None)  # the count of its batches matters, too
        self.net = nn.Sequential(nn.Linear(8, 16), norm, nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))
        self.frozen = nn.Dropout().eval()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        _ = random.random(), np.random.rand(), torch.rand(1)  # as augmentation would
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        x = x + 0.01 * float(np.random.rand()) + 0.01 * random.random()
        return cross_entropy(self.net(x), y)


class WithForward(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Watch(Callback):
    """Keeps each trained batch, the module before it, its flags, and the global random states."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.weights: list[dict[str, Tensor]] = []
        self.flags: list[list[bool]] = []
        self.random: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.flags.append([part.training for part in pl_module.modules()])
        numpy: Any = np.random.get_state()
        self.random.append([torch.get_rng_state(), torch.tensor(numpy[1].astype(int)), random.random()])


def fit(
    folder: Path,
    sampling: Strategy,
    make: Callable[[], LightningModule] = Noisy,
    data: LightningDataModule | None = None,
    num_workers: int = 0,
    seed: int = 0,
    ckpt_path: Any = None,
    callbacks: tuple[Callback, ...] = (),
    **options: Any,
) -> Watch:
    seed_everything(seed, verbose=False)
    module, watch = make(), Watch()
    processes = options.get("devices", 1)
    data = TinyData(batch_size=BATCH // processes, num_workers=num_workers) if data is None else data
    trainer = tiny_trainer(
        folder,
        callbacks=[AdaptiveSamplingCallback(sampling, logits_from="net"), watch, *callbacks],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        limit_val_batches=0,
        **{"max_epochs": 2, **options},
    )
    trainer.fit(module, datamodule=AdaptiveDataModule(data), ckpt_path=ckpt_path)
    watch.on_train_batch_start(trainer, module, None, 0)
    return watch


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make", [Noisy, WithForward])
def test_training_does_not_notice_that_candidates_are_scored(
    tmp_path: Path, num_workers: int, make: Callable[[], LightningModule]
):
    plain = fit(tmp_path, Unscored(), make, num_workers=num_workers)
    strategy = Chooser(by_loss=False)
    scored = fit(tmp_path, strategy, make, num_workers=num_workers)
    assert len(strategy.asked) == 2 * EPOCH
    assert len(scored.weights) == 2 * EPOCH + 1
    for name in ("batches", "weights", "flags", "random"):
        assert differences(getattr(scored, name), getattr(plain, name)) == [], name
    assert len({tuple(flags) for flags in scored.flags}) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_does_not_notice_that_instances_are_scored(tmp_path: Path, num_workers: int):
    plain = fit(tmp_path, Uniform(replacement=True), num_workers=num_workers)
    strategy = Asking(ALL, torch.arange(37))
    scored = fit(tmp_path, strategy, num_workers=num_workers)
    assert len(strategy.got) == 2 + 2 * EPOCH  # before each epoch, and after each batch
    for name in ("batches", "weights", "flags", "random"):
        assert differences(getattr(scored, name), getattr(plain, name)) == [], name


def plain_pass(weights: dict[str, Tensor], indices: Tensor) -> Scores:
    """The scores of instances by a plain pass in evaluation mode with the given parameters."""
    module = Noisy()
    module.load_state_dict(weights)
    module.eval()
    x, y = tiny_dataset().tensors
    x, y = x[indices], y[indices]
    with torch.no_grad():
        *body, head = module.net
        features = nn.Sequential(*body)(x)
        logits = head(features)
    losses = cross_entropy(logits.double(), y, reduction="none")
    return Scores(losses, gradient_bound(logits.double(), y), logits.double(), features, x)


@pytest.mark.parametrize(("read", "num_workers"), [*((read, 0) for read in sorted(ALL)), ("all", 0), ("all", 2)])
def test_wanted_instances_get_the_scores_of_a_plain_pass(tmp_path: Path, read: str, num_workers: int):
    reads = ALL if read == "all" else frozenset({read})
    wanted = torch.tensor([5, 90, 5, 0, *range(40, 60)])  # more than a batch, in no order, with a duplicate
    strategy = Asking(reads, wanted)
    watch = fit(tmp_path, strategy, num_workers=num_workers)
    at = [0, *range(1, EPOCH + 1), EPOCH, *range(EPOCH + 1, 2 * EPOCH + 1)]  # batches trained on before each
    for (indices, scores), batches in zip(strategy.got, at, strict=True):
        assert torch.equal(indices, wanted)
        expected = plain_pass(watch.weights[batches], wanted)
        for name in ALL:
            value = getattr(scores, name)
            assert (value is not None) == (name in reads)
            if value is not None:
                torch.testing.assert_close(value, getattr(expected, name), rtol=2e-5, atol=1e-6)
        assert all(part is None or part.dtype == torch.float64 for part in scores[:3])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_chosen_candidates_are_trained_on_and_learnt_from(tmp_path: Path, num_workers: int):
    features, labels = tiny_dataset().tensors
    strategy = Chooser()
    watch = fit(tmp_path, strategy, num_workers=num_workers)
    assert len(strategy.asked) == len(strategy.learnt) == 2 * EPOCH
    for at, ((draw, scores, selection), (learnt, losses)) in enumerate(
        zip(strategy.asked, strategy.learnt, strict=True)
    ):
        expected = plain_pass(watch.weights[at], draw.indices)
        for name in ALL:
            torch.testing.assert_close(getattr(scores, name), getattr(expected, name), rtol=2e-5, atol=1e-6)
        assert len(draw.indices) == FACTOR * BATCH
        assert torch.equal(learnt.indices, draw.indices[selection.positions])
        assert torch.equal(learnt.bins, draw.bins[selection.positions])
        x, y = watch.batches[at]
        assert torch.equal(x, features[learnt.indices])
        assert torch.equal(y, labels[learnt.indices])
        assert losses.shape == (BATCH,)


def test_the_weights_and_probabilities_of_a_selection_take_the_place_of_the_draws_own(tmp_path: Path):
    seen: list[Tensor | None] = []

    class Weighted(Tiny):
        importance_weights: Tensor | None = None

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(self.importance_weights)
            return super().training_step(batch, batch_idx)

    strategy = Chooser(weighted=True)
    fit(tmp_path, strategy, Weighted)
    expected = torch.arange(1.0, BATCH + 1)
    assert all(torch.equal(draw.weights, expected.double()) for draw, _ in strategy.learnt if draw.weights is not None)
    assert all(torch.equal(draw.probabilities, expected.double()) for draw, _ in strategy.learnt)
    assert [None if one is None else one.tolist() for one in seen] == [expected.tolist()] * 2 * EPOCH
    plain = Chooser()
    fit(tmp_path, plain)
    assert all(draw.weights is None for draw, _ in plain.learnt)
    assert {float(p) for draw, _ in plain.learnt for p in draw.probabilities} == {float(torch.tensor(1 / 96))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fit_with_a_selector_is_resumed_exactly(tmp_path: Path, num_workers: int):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    strategy = Chooser()
    whole = fit(tmp_path, strategy, Tiny, num_workers=num_workers, callbacks=(saving,), max_epochs=3)
    for step in (EPOCH + 2,) if LOSES_COUNT else (EPOCH + 2, 2 * EPOCH):
        other, path = Chooser(), tmp_path / f"step={step}.ckpt"
        rest = fit(tmp_path, other, Tiny, num_workers=num_workers, seed=1, max_epochs=3, ckpt_path=path)
        assert len(other.asked) == 3 * EPOCH - step
        assert differences(rest.batches, whole.batches[step:]) == []
        assert differences(rest.weights, whole.weights[step:]) == []
        assert other.state_dict() == strategy.state_dict()


class Augmenting(Tiny):
    """Shifts the inputs in place, before and after they come to the device, and keeps what it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[Tensor] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch[0].add_(1)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch[0].mul_(2)
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


def test_the_users_batch_hooks_are_applied_once_to_what_is_scored_and_once_to_what_is_trained_on(tmp_path: Path):
    features, _ = tiny_dataset().tensors
    strategy, module = Chooser(), Augmenting()
    fit(tmp_path, strategy, lambda: module)
    for (draw, scores, selection), trained in zip(strategy.asked, module.trained, strict=True):
        assert scores.inputs is not None
        assert torch.equal(scores.inputs, (features[draw.indices] + 1) * 2)
        assert torch.equal(trained, scores.inputs[selection.positions])


def test_the_hooks_of_a_datamodule_count_too(tmp_path: Path):
    class Data(TinyData):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            batch[0].add_(1)
            return batch

    features, _ = tiny_dataset().tensors
    strategy = Chooser()
    watch = fit(tmp_path, strategy, data=Data())
    for (draw, scores, selection), (x, _) in zip(strategy.asked, watch.batches[:-1], strict=True):
        assert scores.inputs is not None
        assert torch.equal(scores.inputs, features[draw.indices] + 1)
        assert torch.equal(x, scores.inputs[selection.positions])


def test_mixed_precision_scores_in_the_precision_of_training(tmp_path: Path):
    plain = fit(tmp_path, Unscored(), precision="bf16-mixed")
    strategy = Chooser(by_loss=False)
    scored = fit(tmp_path, strategy, precision="bf16-mixed")
    assert differences(scored.weights, plain.weights) == []
    _, scores, _ = strategy.asked[-1]
    assert scores.logits is not None
    assert scores.losses is not None
    assert scores.logits.dtype == scores.losses.dtype == torch.float64
    assert torch.equal(scores.logits.bfloat16().double(), scores.logits)
    exact = cross_entropy(scores.logits, tiny_dataset().tensors[1][strategy.asked[-1][0].indices], reduction="none")
    torch.testing.assert_close(scores.losses, exact, rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_chosen(tmp_path: Path):
    plain = fit(tmp_path, Unscored(), accumulate_grad_batches=2)
    strategy = Chooser(by_loss=False)
    scored = fit(tmp_path, strategy, accumulate_grad_batches=2)
    assert differences(scored.weights, plain.weights) == []
    assert len(strategy.learnt) == 2 * EPOCH
    assert torch.equal(scored.weights[0]["net.0.weight"], scored.weights[1]["net.0.weight"])


class Both(Chooser):
    """A selector that wants instances scored, too."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._loss = torch.zeros(len(bins), dtype=torch.float64)

    def wanted(self) -> Tensor | None:
        return torch.arange(0, len(self._bins), 5)  # 20, and with batches of 7 chunks that are not full

    def refresh(self, indices: Tensor, scores: Scores) -> None:
        assert scores.losses is not None
        self._loss[indices] = scores.losses

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        super().learn(draw, losses, bounds)
        self._loss[draw.indices] = losses

    def state_dict(self) -> dict[str, Any]:
        return {"noise": self._noise, "loss": self._loss.clone()}


class Report(Callback):
    """Writes down what a process has trained on and knows."""

    def __init__(self, folder: Path, strategy: Both) -> None:
        self.folder = folder
        self.strategy = strategy
        self.states: list[dict[str, Any]] = []
        self.batches: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.states.append(self.strategy.state_dict())
        self.batches.append(list(batch))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        report = {
            "states": self.states,
            "batches": self.batches,
            "drawn": [draw.indices for draw, _ in self.strategy.learnt],
            "asked": [draw.indices for draw, _, _ in self.strategy.asked],
            "positions": [selection.positions for _, _, selection in self.strategy.asked],
            "scores": [list(scores) for _, scores, _ in self.strategy.asked],
            "weights": pl_module.state_dict(),
        }
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_choose_each_from_their_share_and_all_know(tmp_path: Path, num_workers: int, precision: str):
    def run() -> None:
        strategy = Both()
        fit(
            tmp_path,
            strategy,
            Tiny,
            num_workers=num_workers,
            devices=2,
            strategy="ddp_fork",
            precision=precision,
            callbacks=(Report(tmp_path, strategy),),
        )

    assert within(60, run) == ""
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("states", "drawn", "asked", "positions", "scores", "weights"):
        assert differences(one[name], other[name]) == [], name
    features, labels = tiny_dataset().tensors
    assert len(one["drawn"]) == 2 * EPOCH
    for at, drawn in enumerate(one["drawn"]):
        for rank, report in enumerate((one, other)):
            x, y = report["batches"][at]
            assert torch.equal(x, features[drawn[rank::2]])  # the global batch is dealt out in turn
            assert torch.equal(y, labels[drawn[rank::2]])
            asked = 2 * at + rank
            assert torch.equal(drawn[rank::2], one["asked"][asked][one["positions"][asked]])
            assert torch.equal(one["scores"][asked][4], features[one["asked"][asked]])  # of this share's own rows


class OnlyMapping(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class Mappings(TinyData):
    def train_dataloader(self) -> DataLoader[Any]:
        x, y = self.dataset.tensors
        rows = [{"x": one, "y": other} for one, other in zip(x, y, strict=True)]
        return DataLoader(rows, BATCH, shuffle=True)  # pyright: ignore[reportArgumentType]

    bins = "y"


@pytest.mark.parametrize("reads", [{"losses"}, {"inputs"}])
def test_a_batch_that_cannot_be_scored_is_refused(tmp_path: Path, reads: set[Any]):
    strategy = Asking(frozenset(reads), torch.arange(3))
    seed_everything(0, verbose=False)
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(strategy, "net", target_key="y")])
    with pytest.raises(MisconfigurationException, match=r"a mapping with 'x', 'y'.*use|goes by the inputs"):
        trainer.fit(OnlyMapping(), datamodule=AdaptiveDataModule(Mappings(), bins=None))


def test_features_are_of_the_linear_layer_that_is_called_last(tmp_path: Path):
    class Headed(Noisy):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    strategy = Asking(frozenset({"features"}), torch.arange(10))
    watch = fit(tmp_path, strategy, Headed)
    weights = {name: value for name, value in watch.weights[0].items() if not name.startswith("unused")}
    features = plain_pass(weights, torch.arange(10)).features
    torch.testing.assert_close(strategy.got[0][1].features, features)

    class Without(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 4, 1), nn.Flatten())

    with pytest.raises(MisconfigurationException, match=r"Asking goes by the inputs of the last linear layer"):
        fit(tmp_path, strategy, Without)


def test_workers_that_score_are_set_up_as_those_that_train(tmp_path: Path):
    dataset = NeedsSetUp(*tiny_dataset().tensors)

    class Data(TinyData):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(dataset, BATCH, num_workers=1, worker_init_fn=dataset.set_up)

    strategy = Asking(frozenset({"inputs"}), torch.arange(50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path, strategy, data=Data(), max_epochs=1)
    assert len(strategy.got) == 1 + EPOCH


class NeedsSetUp(TensorDataset):
    ready = False

    def set_up(self, worker: int) -> None:
        self.ready = True

    def __getitem__(self, index: int) -> Any:
        assert self.ready, "a worker that was not set up"
        return super().__getitem__(index)


def test_rows_are_taken_from_whatever_has_them():
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6)
    names = list("abcdef")
    ragged = [torch.zeros(length) for length in (1, 2, 6, 4, 5, 3)]
    at = torch.tensor([4, 0, 4])
    batch = {
        "pair": (x, [y, None]),
        "point": Point(x, names),
        "scalar": torch.tensor(3.0),
        "other": torch.arange(5),
        "names": tuple(names),
        "ragged": ragged,
        "word": "abcdef",
        "boxes": [{"box": one} for one in ragged],
    }
    taken = take_rows(batch, at, 6)
    assert torch.equal(taken["pair"][0], x[at])
    assert torch.equal(taken["pair"][1][0], y[at])
    assert taken["pair"][1][1] is None
    assert isinstance(taken["point"], Point)
    assert torch.equal(taken["point"].x, x[at])
    assert taken["point"].names == ["e", "a", "e"]
    assert taken["scalar"] is batch["scalar"]
    assert taken["other"] is batch["other"]
    assert taken["names"] == ("e", "a", "e")
    assert [len(one) for one in taken["ragged"]] == [5, 1, 5]
    assert taken["word"] == "abcdef"
    assert [len(one["box"]) for one in taken["boxes"]] == [5, 1, 5]
    assert batch["names"] == tuple(names)


def test_a_batch_of_as_many_parts_as_candidates_is_a_batch_of_parts():
    x, y = torch.arange(4.0).view(2, 2), torch.arange(2)
    taken = take_rows([{"x": x}, y], torch.tensor([1]), 2)
    assert torch.equal(taken[0]["x"], x[1:])
    assert torch.equal(taken[1], y[1:])


def test_a_mapping_keeps_its_type():
    taken = take_rows(UserDict(x=torch.arange(3)), torch.tensor([2]), 3)
    assert isinstance(taken, UserDict)
    assert taken["x"].tolist() == [2]
    assert take_rows(MappingProxyType({"x": torch.arange(3)}), torch.tensor([2]), 3) == {"x": torch.tensor([2])}


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_fit_the_loader_gives_its_batches_as_they_are(fails: bool, tmp_path: Path):
    class Own(Tiny):
        def train_dataloader(self) -> AdaptiveDataLoader:
            return loader

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if fails and batch_idx == 2:
                raise ValueError("something broke")
            return super().training_step(batch, batch_idx)

    loader = AdaptiveDataLoader(tiny_dataset(), BATCH)
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(Chooser(), logits_from="net")])
    with pytest.raises(ValueError, match="something broke") if fails else nullcontext():
        trainer.fit(Own())
    batches = list(loader)
    assert [len(x) for x, _ in batches] == [BATCH] * EPOCH
    assert torch.equal(torch.cat([x for x, _ in batches]).sum(0), tiny_dataset().tensors[0].sum(0))  # each once


def test_a_fit_that_goes_on_tells_the_strategy_its_new_length(tmp_path: Path):
    class Planned(Uniform):
        plans: list[tuple[int | None, int]] = []  # noqa: RUF012

        def plan(self, total: int | None, epoch: int) -> None:
            self.plans.append((total, epoch))

    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(Planned(), logits_from="net")])
    data, module = AdaptiveDataModule(TinyData()), Tiny()
    trainer.fit(module, datamodule=data)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, datamodule=data)
    assert Planned.plans[0] == (EPOCH, EPOCH)
    assert Planned.plans[-1] == (3 * EPOCH, EPOCH)


def test_a_forward_that_changes_its_inputs_in_place_leaves_the_trained_batch_alone(tmp_path: Path):
    class InPlace(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.mul_(0.5))

    class Seen(Callback):
        batches: list[Any] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.batches.append([part.clone() for part in batch])

    strategy = Chooser()
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), Seen()])
    trainer.fit(InPlace(), datamodule=AdaptiveDataModule(TinyData()))
    assert len(Seen.batches) == EPOCH
    for (x, _), (draw, _) in zip(Seen.batches, strategy.learnt, strict=True):
        assert torch.equal(x, tiny_dataset().tensors[0][draw.indices])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_more_is_drawn_than_a_limited_epoch_trains_on(num_workers: int, tmp_path: Path):
    class Counting(Uniform):
        drawn = 0

        def draw(self, size: int, generator: torch.Generator) -> Draw:
            Counting.drawn += 1
            return super().draw(size, generator)

    Counting.drawn = 0
    trainer = tiny_trainer(
        tmp_path, callbacks=[AdaptiveSamplingCallback(Counting())], max_epochs=3, limit_train_batches=4
    )
    trainer.fit(Tiny(), datamodule=AdaptiveDataModule(TinyData(num_workers=num_workers)))
    assert trainer.global_step == Counting.drawn == 12


def test_a_strategy_that_reads_nothing_needs_no_logits(tmp_path: Path):
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(Uniform())])
    trainer.fit(Tiny(), datamodule=AdaptiveDataModule(TinyData()))
    assert trainer.global_step == EPOCH


def test_weights_are_1_where_a_weighted_strategy_has_none_for_now(tmp_path: Path):
    class Cooperating(Tiny):
        importance_weights: Tensor | None = None
        seen: list[Tensor] = []  # noqa: RUF012

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.importance_weights is not None
            self.seen.append(self.importance_weights)
            x, y = batch
            return (cross_entropy(self.net(x), y, reduction="none") * self.importance_weights).mean()

    strategy = UpperBoundImportanceSampling(threshold=1e6)  # which is never worth its while
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net")])
    trainer.fit(Cooperating(), datamodule=AdaptiveDataModule(TinyData()))
    assert [weights.tolist() for weights in Cooperating.seen] == [[1.0] * BATCH] * EPOCH
