"""Fits on data without positions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch.nn.functional import cross_entropy

from lightning_as import (
    AdaptiveDataLoader,
    AdaptiveIterableLoader,
    AdaptiveSamplingCallback,
    ClosenessSampling,
    KeepOrSkip,
    SamplingReport,
)
from lightning_as.core.key_table import hash_of
from tests.helpers.processes import within
from tests.helpers.streams import SIZE, Resumable, Shards, keys_of, loader_of
from tests.helpers.tiny import BATCH, EPOCH, Fitted, Tiny, differences, refused, tiny_dataset, tiny_fit, tiny_trainer
from tests.helpers.versions import LOSES_COUNT


class Recording(KeepOrSkip):
    """Keeps what it was told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"relaxation": 0, **options})
        self.told: list[Any] = []

    def update(self, draw: Any, losses: Any, bounds: Any) -> None:
        self.told.append((draw, losses.clone()))
        super().update(draw, losses, bounds)


def plain() -> AdaptiveIterableLoader:
    return loader_of(Shards())


class OnStream(Tiny):
    """Trains on mappings, from a loader of its own."""

    def __init__(self, make: Callable[[], Any] = plain) -> None:
        super().__init__()
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.net(batch["x"]), batch["y"])


def fit(folder: Path, make: Callable[[], Any] = plain, sampling: Any = None, **options: Any) -> Fitted:
    options = {"max_epochs": 5, **options}
    return tiny_fit(folder, Recording() if sampling is None else sampling, lambda: OnStream(make), "own", **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_strategy_is_told_of_each_batch_and_thins_from_the_second_pass_on(num_workers: int, tmp_path: Path):
    fitted = fit(tmp_path, lambda: loader_of(Shards(), num_workers=num_workers))
    batches = fitted.watch.batches
    assert len(batches) == len(fitted.strategy.told) == 5 * EPOCH
    for (draw, losses), batch, logits in zip(fitted.strategy.told, batches, fitted.watch.logits, strict=True):
        assert draw.indices.tolist() == [hash_of(key) for key in batch["__key__"]]
        expected = cross_entropy(logits.double(), batch["y"], reduction="none")
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-7)
    first = [key for keys in keys_of(batches[:EPOCH]) for key in keys]
    assert sorted(first) == [f"{i:06d}" for i in range(SIZE)]
    assert 0.2 < fitted.strategy.metrics()["kept"] < 0.6
    assert fitted.strategy.known == SIZE
    assert fitted.trainer.callback_metrics["adaptive/kept"] < 1
    assert not [message for message in fitted.messages if "lightning_as" in message or "stream" in message.lower()]
    with pytest.raises(RuntimeError, match="Recording keeps no record of the examples of a stream"):
        fitted.trainer.callbacks[0].examples()


def test_weights_undo_what_was_skipped(tmp_path: Path):
    handed = []
    note = LambdaCallback(on_before_backward=lambda trainer, module, loss: handed.append(module.weights.clone()))

    class Weighted(OnStream):
        weights: Any = None

    ours = {"weights": "unbiased", "weights_attribute": "weights"}
    fitted = tiny_fit(tmp_path, Recording(), Weighted, "own", ours=ours, callbacks=[note], max_epochs=5)
    for weights, (draw, _) in zip(handed, fitted.strategy.told, strict=True):
        torch.testing.assert_close(weights.cpu().double(), 1 / draw.probabilities, rtol=1e-6, atol=0)
    assert (torch.cat(handed[:EPOCH]) == 1).all()
    assert float(torch.cat(handed[2 * EPOCH :]).mean()) == pytest.approx(1, abs=0.2)
    assert float(torch.cat(handed[2 * EPOCH :]).std()) > 0.3


def columns() -> dict[str, Any]:
    features, labels = tiny_dataset().tensors
    return {"id": [f"row {i}" for i in range(SIZE)], "x": features.tolist(), "y": labels.tolist()}


def huggingface(shuffled: bool = False) -> AdaptiveIterableLoader:
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict(columns()).to_iterable_dataset(num_shards=4).with_format("torch")
    stream = stream.shuffle(seed=0, buffer_size=20) if shuffled else stream
    return AdaptiveIterableLoader(stream, BATCH, "id", EPOCH, seed=0)


class OfRows(OnStream):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.net(batch["x"].float()), batch["y"])


@pytest.mark.parametrize(("make", "step"), [(huggingface, 15), (huggingface, 18), (lambda: loader_of(Resumable()), 15)])
@pytest.mark.skipif(LOSES_COUNT, reason="Lightning 2.4 does not count the batch that was saved after")
def test_a_fit_is_resumed_exactly_where_the_stream_can_be(make: Any, step: int, tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole = tiny_fit(tmp_path, Recording(), lambda: OfRows(make), "own", callbacks=[saving], max_epochs=5)
    path = tmp_path / f"step={step}.ckpt"
    rest = tiny_fit(tmp_path, Recording(), lambda: OfRows(make), "own", seed=1, ckpt_path=path, max_epochs=5)
    assert len(rest.strategy.told) == 5 * EPOCH - step
    assert differences(rest.strategy.told, whole.strategy.told[step:]) == []
    assert differences(rest.strategy.state_dict(), whole.strategy.state_dict()) == []
    assert differences(rest.module.state_dict(), whole.module.state_dict()) == []
    assert not [message for message in rest.messages if "resum" in message.lower() or "mid-epoch" in message]


def test_with_a_shuffle_buffer_a_resumed_fit_goes_on_with_what_comes(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=16)
    make = lambda: OfRows(lambda: huggingface(shuffled=True))  # noqa: E731
    tiny_fit(tmp_path, Recording(), make, "own", callbacks=[saving], max_epochs=3)
    rest = tiny_fit(tmp_path, Recording(), make, "own", ckpt_path=tmp_path / "step=16.ckpt", max_epochs=5)
    assert len(rest.strategy.told) == 5 * EPOCH - 16
    assert rest.strategy.known == SIZE


def test_a_stream_that_cannot_be_resumed_or_has_grown_begins_anew_and_new_keys_are_kept(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=15)
    fit(tmp_path, callbacks=[saving], max_epochs=3)
    rest = fit(tmp_path, lambda: loader_of(Shards(SIZE + 64)), ckpt_path=tmp_path / "step=15.ckpt", max_epochs=6)
    assert len(rest.strategy.told) == 6 * EPOCH - 15
    assert [message for message in rest.messages if "amid an epoch, and the stream begins anew" in message]
    new = [draw for draw, _ in rest.strategy.told for key in draw.indices.tolist() if key == hash_of(f"{SIZE:06d}")]
    assert new
    assert rest.strategy.known == SIZE + 64


def test_a_second_fit_begins_the_stream_anew_and_knows_what_it_knew(tmp_path: Path):
    loader, strategy = loader_of(Shards()), Recording()
    callback = AdaptiveSamplingCallback(strategy, logits_from="net")
    for _ in range(2):
        tiny_trainer(tmp_path, max_epochs=3, callbacks=[callback]).fit(OnStream(lambda: loader))
    second = strategy.told[3 * EPOCH :]
    assert len(second) == 3 * EPOCH
    first = sorted(key for draw, _ in second[:EPOCH] for key in draw.indices.tolist())
    assert first == sorted(hash_of(f"{i:06d}") for i in range(SIZE))  # all of them, once
    after = list(loader)  # after it, and without it, all are kept
    assert sorted(key for keys in keys_of(after) for key in keys) == [f"{i:06d}" for i in range(SIZE)]


def test_a_look_from_a_hook_moves_nothing(tmp_path: Path):
    looks: list[Any] = []
    look = LambdaCallback(on_train_epoch_start=lambda trainer, _: looks.append(next(iter(trainer.train_dataloader))))
    make = lambda: loader_of(Resumable())  # noqa: E731
    one, other = (fit(tmp_path, make, callbacks=callbacks, max_epochs=4) for callbacks in ((), (look,)))
    assert len(looks) == 4
    assert looks[0]["x"].shape == (BATCH, 8)
    assert differences(one.strategy.told, other.strategy.told) == []
    assert differences(*(fitted.trainer.callbacks[0].state_dict()["sampler"] for fitted in (one, other))) == []


def test_a_loader_that_is_made_anew_for_each_epoch_goes_on_with_what_was_learnt(tmp_path: Path):
    fitted = fit(tmp_path, max_epochs=4, reload_dataloaders_every_n_epochs=1)
    assert len(fitted.strategy.told) == 4 * EPOCH
    assert fitted.strategy.known == SIZE
    assert min(float(draw.within.min()) for draw, _ in fitted.strategy.told) < 0.5


@pytest.mark.parametrize(
    ("make", "sampling", "message"),
    [
        (lambda: loader_of(Shards()), ClosenessSampling, r"ClosenessSampling chooses .*\(KeepOrSkip\(\)\)`"),
        (lambda: AdaptiveDataLoader(tiny_dataset(), BATCH), KeepOrSkip, "KeepOrSkip keeps or skips .* positions"),
        (lambda: loader_of(Shards(), key="id"), KeepOrSkip, "`key='id'` is not in a sample"),
        (lambda: loader_of(Shards(BATCH - 1)), KeepOrSkip, "ended after 15 samples"),
    ],
)
def test_what_does_not_go_together_ends_with_what_to_do(make: Any, sampling: Any, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, make, sampling())


def test_tables_of_examples_and_reports_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"`examples='.*table.csv'` is a table by positions"):
        fit(tmp_path, ours={"examples": str(tmp_path / "table.csv")})
    with refused("SamplingReport tells of examples by their positions"):
        fit(tmp_path, callbacks=[SamplingReport(tmp_path / "report.html")])


class Two(OnStream):
    """Notes in each process what it was trained on, and what the strategy knows at the end."""

    def __init__(self, path: Path, make: Callable[[], Any]) -> None:
        super().__init__(make)
        self.path, self.keys = path, list[list[str]]()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.keys.append(batch["__key__"])
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        callback: Any = self.trainer.callbacks[0]  # pyright: ignore[reportAttributeAccessIssue]
        found = {"keys": self.keys, "state": callback.strategy.state_dict(), "told": callback.strategy.told}
        torch.save(found, self.path / f"{self.global_rank}.pt")


def fit_two(path: Path, make: Callable[[], Any], **options: Any) -> str:
    return within(
        300,
        lambda: tiny_fit(
            path, Recording(), lambda: Two(path, make), "own", devices=2, strategy="ddp_fork", max_epochs=5, **options
        ),
    )


@pytest.mark.slow
def test_two_processes_read_their_own_parts_and_know_the_same(tmp_path: Path):
    options = {"batch_size": BATCH // 2, "seed": 0}
    assert fit_two(tmp_path, lambda: loader_of(Shards(), **options)) == ""
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert differences(one["state"], other["state"]) == []
    assert differences(one["told"], other["told"]) == []
    assert len(one["told"]) == 5 * EPOCH
    for (draw, _), mine, theirs in zip(one["told"], one["keys"], other["keys"], strict=True):
        assert draw.indices[0::2].tolist() == [hash_of(key) for key in mine]
        assert draw.indices[1::2].tolist() == [hash_of(key) for key in theirs]
    parts = [{key for keys in each["keys"] for key in keys} for each in (one, other)]
    assert parts[0].isdisjoint(parts[1])
    assert len(set.union(*parts)) == SIZE
    assert min(float(draw.within.min()) for draw, _ in one["told"]) < 0.5


class Uneven(Shards):
    """The second process gets nothing."""

    def order(self) -> list[int]:
        order = super().order()
        return order if 0 in order else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loader_of(Shards(split=False), seed=0), "Several processes were given the same part of the stream"),
        (lambda: loader_of(Uneven(), seed=0), "The stream of process 1 ended after 0 samples"),
        (lambda: loader_of(Shards(), seed=0, batches_per_epoch=5 + torch.distributed.get_rank()), "batches per epoch"),
    ],
)
def test_processes_whose_streams_do_not_do_end_with_an_error_in_time(make: Any, message: str, tmp_path: Path):
    assert message in fit_two(tmp_path, make)
