import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, ClosenessSampling, SamplingReport
from lightning_as.plugin.sharding import FOLDER, in_all
from tests.helpers.processes import Report, within
from tests.helpers.recording import Recording
from tests.helpers.tiny import BATCH, EPOCH, Tiny, TinyData, differences, refused, tiny_dataset, tiny_fit, tiny_trainer
from tests.plugin import test_ddp

SIZE = BATCH * EPOCH


def data(processes: int = 1, size: int = SIZE, sharded: bool = True, **options: Any) -> AdaptiveDataModule:
    return AdaptiveDataModule(TinyData(size, BATCH // processes), sharded=sharded, **options)


def fit(path: Path, processes: int, make: Any = Recording, module: Any = Tiny, **options: Any) -> Any:
    """What each process reports of a fit; or how it failed."""

    def run() -> None:
        strategy = make()
        ours = data(processes, num_workers=options.pop("num_workers", 0))
        devices = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto"}
        given = {"max_epochs": 2, **devices, **options}
        callbacks = (Report(path, strategy), *given.pop("callbacks", ()))
        tiny_fit(path.parent, strategy, module, ours, callbacks=callbacks, **given)

    failure = within(300, run)
    return failure or [torch.load(path.with_suffix(f".{rank}.pt")) for rank in range(processes)]


def where(rank: int, processes: int) -> Tensor:
    """The positions of what a process has."""
    sampler: Any = data(processes, bins="label")
    sampler.setup("fit")
    shard = sampler.train_dataloader().sampler.bins.in_shard(rank, processes).shard
    return shard.positions.long()


class Logged(Callback):
    """Writes down, in each process, what is logged in the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(found, self.path.with_suffix(f".{trainer.global_rank}.logged"))


def test_one_process_has_all_of_the_data_in_an_order_of_its_own(tmp_path: Path):
    path = tmp_path / "table.csv"
    ours = {"examples": str(path)}
    fitted = tiny_fit(tmp_path, data=data(), ours=ours, callbacks=(SamplingReport(tmp_path / "page.html"),))
    features, labels = tiny_dataset().tensors
    assert len(fitted.strategy.told) == EPOCH
    told, watch = fitted.strategy.told, fitted.watch
    for (draw, losses, _), (x, y), logits in zip(told, watch.batches, watch.logits, strict=True):
        positions = where(0, 1)[draw.indices]
        assert torch.equal(x, features[positions])
        assert torch.equal(y, labels[positions])
        torch.testing.assert_close(losses, cross_entropy(logits.double(), y, reduction="none"), rtol=1e-5, atol=1e-7)
    with (tmp_path / "table.0.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(SIZE))
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert not path.exists()


def saved(folder: Path, **options: Any) -> Path:
    tiny_fit(folder, data=data(**options), callbacks=(ModelCheckpoint(folder, "saved"),))
    return folder / "saved.ckpt"


def test_a_checkpoint_says_where_the_shards_are_and_they_may_be_moved(tmp_path: Path):
    path = saved(tmp_path / "first")
    (key,) = [key for key in torch.load(path, weights_only=True)["callbacks"] if "AdaptiveSampling" in key]
    state = torch.load(path, weights_only=True)["callbacks"][key]
    folder = Path(state["sampler"]["shards"]["folder"])
    assert folder.parent == tmp_path / "first" / FOLDER
    assert not any(isinstance(part, Tensor) for part in state["sampler"].values())
    second = tmp_path / "second"
    (second / FOLDER).mkdir(parents=True)
    shutil.move(folder, second / FOLDER)
    fitted = tiny_fit(second, data=data(), ckpt_path=path, max_epochs=2)
    assert fitted.strategy.record.batches == 2 * EPOCH
    shutil.rmtree(second / FOLDER)
    with pytest.raises(ValueError, match=r"What was learnt is kept beside the checkpoint, but .*/0 is not there"):
        tiny_fit(second, data=data(), ckpt_path=path, max_epochs=2)


def test_a_checkpoint_of_something_else_is_refused_before_training(tmp_path: Path):
    path, plain = saved(tmp_path / "one"), saved(tmp_path / "plain", sharded=False)
    for given, other, message in (
        (data(sharded=False), path, "`sharded=True`, but here it is `sharded=False`: use `sharded=True`"),
        (data(), plain, "`sharded=False`, but here it is `sharded=True`: use `sharded=False`"),
        (data(size=SIZE + BATCH), path, f"of {SIZE} instances in other bins than the {SIZE + BATCH} here"),
        (data(bins=None), path, f"of {SIZE} instances in other bins than the {SIZE} here"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_fit(tmp_path, data=given, ckpt_path=other, max_epochs=2)
    with pytest.raises(ValueError, match=r"give AdaptiveSamplingCallback the strategy it was saved with, Recording\("):
        tiny_fit(tmp_path, ClosenessSampling(), data=data(), ckpt_path=path, max_epochs=2)


def test_what_was_learnt_of_other_data_in_the_same_bins_is_forgotten(tmp_path: Path):
    path, other = saved(tmp_path), TinyData()
    other.dataset.tensors[0].add_(1)
    fitted = tiny_fit(tmp_path, data=AdaptiveDataModule(other, sharded=True), ckpt_path=path, max_epochs=2)
    assert any("it has learnt is forgotten" in message for message in fitted.messages)
    assert fitted.strategy.record.batches == EPOCH


def test_a_loader_that_is_made_anew_goes_on_with_what_was_learnt(tmp_path: Path):
    fitted = tiny_fit(tmp_path, data=data(), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert fitted.strategy.record.batches == 3 * EPOCH


def test_a_bucket_is_no_place_for_shards(tmp_path: Path):
    with refused("is saved to the Trainer's `default_root_dir`, but 'memory://there' is no folder"):
        tiny_fit(Path("memory://there"), data=data(), default_root_dir="memory://there")


def test_the_state_after_a_search_for_a_learning_rate_is_that_before(tmp_path: Path):
    module, callback = Tiny(), AdaptiveSamplingCallback(Recording(), logits_from="net")
    trainer = tiny_trainer(tmp_path, callbacks=[callback], limit_val_batches=0, max_epochs=2)
    trainer.fit(module, ours := data())
    before = callback.strategy.state_dict()
    Tuner(trainer).lr_find(module, ours, num_training=4)
    assert differences(callback.strategy.state_dict(), before) == []
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    again = tiny_trainer(tmp_path, callbacks=[callback], limit_val_batches=0, max_epochs=1)
    again.fit(module, ours)
    assert callback.strategy.record is not None
    assert callback.strategy.record.batches == 3 * EPOCH


def test_figures_of_all_processes_are_sums_means_and_the_largest():
    def all_gather(numbers: Tensor) -> Tensor:
        return torch.stack([numbers, torch.tensor([3.0, 4, 5, 6, 7, 8]).double()])

    strategy = SimpleNamespace(all_gather=all_gather, root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    figures = {"gamma": 1.0, "skipped": 2.0, "weight_max": 9.0, "effective_size": 1.0}
    sums, found = in_all(trainer, torch.tensor([1.0, 2.0]).double(), figures)
    assert sums.tolist() == [4, 6]
    assert found == {"gamma": 3.0, "skipped": 8.0, "weight_max": 9.0, "effective_size": 9.0}


@pytest.mark.slow
def test_each_of_two_processes_draws_from_its_own_and_learns_of_that_alone(tmp_path: Path):
    table, frozen = tmp_path / "table.csv", test_ddp.frozen
    ours = {"weights": "unbiased", "examples": str(table)}
    logs: dict[str, Any] = {"log_every_n_steps": 1, "callbacks": (Logged(tmp_path / "found"),)}
    both = fit(tmp_path / "two", 2, module=frozen, ours=ours, logger=True, **logs)
    features, labels = tiny_dataset().tensors
    for rank, report in enumerate(both):
        own = where(rank, 2)
        assert len(report["drawn"]) == 2 * EPOCH
        for drawn, (x, y) in zip(report["drawn"], report["batches"], strict=True):
            assert torch.equal(x, features[own[drawn]])
            assert torch.equal(y, labels[own[drawn]])
        counts = torch.cat(report["drawn"]).bincount(minlength=len(own))
        assert torch.equal(report["states"][-1]["record"]["counts"][:, 0].long(), counts)
    assert torch.equal(torch.cat([where(0, 2), where(1, 2)]).sort().values, torch.arange(SIZE))
    p = [report["states"][-1]["over_bins"]["probabilities"] for report in both]
    assert torch.equal(p[0], p[1])  # of the whole data, from the draws of both
    assert float(p[0].std()) > 0.01
    torch.manual_seed(0)
    for at in range(2 * EPOCH):
        module = frozen()
        module.load_state_dict(both[0]["weights"])
        losses = []
        for rank, report in enumerate(both):
            drawn = where(rank, 2)[report["drawn"][at]]
            each = cross_entropy(module.net(features[drawn]), labels[drawn], reduction="none")
            losses.append((each / (report["probabilities"][at] / 2 * SIZE)).mean())
        gradients = torch.autograd.grad(sum(losses) / 2, list(module.parameters()))
        for report in both:
            torch.testing.assert_close(report["gradients"][at], list(gradients), rtol=0, atol=1e-6, check_dtype=False)
    logged = [torch.load(tmp_path / f"found.{rank}.logged") for rank in range(2)]
    assert logged[0] == logged[1]
    assert logged[0]["adaptive/loss"] > 0
    rows = []
    for rank in range(2):
        with (tmp_path / f"table.{rank}.csv").open() as file:
            rows += csv.DictReader(file)
    assert sorted(int(row["index"]) for row in rows) == list(range(SIZE))
    assert {row["label"] == str(int(labels[int(row["index"])])) for row in rows} == {True}
    torch.testing.assert_close(sum(float(row["probability"]) for row in rows), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "num_workers"), [(Recording, 2), (ClosenessSampling, 0)])
def test_it_is_resumed_exactly_by_as_many_processes_and_cut_anew_for_others(
    tmp_path: Path, make: Any, num_workers: int
):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    checkpoint = tmp_path / "step=7.ckpt"
    whole = fit(tmp_path / "whole", 2, make, callbacks=(saving,), num_workers=num_workers)
    rest = fit(tmp_path / "rest", 2, make, seed=1, ckpt_path=checkpoint, num_workers=num_workers)
    for report, expected in zip(rest, whole, strict=True):
        assert len(report["batches"]) == 2 * EPOCH - 7
        for name in ("batches", "states"):
            assert differences(report[name], expected[name][7:]) == []
        assert differences(report["weights"], expected["weights"]) == []
    (alone,) = fit(tmp_path / "alone", 1, make, seed=1, ckpt_path=checkpoint, num_workers=num_workers)
    assert len(alone["batches"]) == 2 * EPOCH - 7
    then = torch.zeros(SIZE, dtype=torch.int32)
    for rank, report in enumerate(whole):
        then[where(rank, 2)] = report["states"][6]["record"]["counts"][:, 0]
    first = alone["states"][0]["record"]["counts"][:, 0] - then[where(0, 1)]
    assert (int(first.min()), int(first.sum())) == (0, BATCH)
    checkpoint.unlink()
    fit(tmp_path / "one", 1, make, callbacks=(saving,))
    two = fit(tmp_path / "two", 2, make, seed=1, ckpt_path=checkpoint)
    assert [len(report["batches"]) for report in two] == [2 * EPOCH - 7] * 2
    drawn = sum(int(report["states"][-1]["record"]["counts"][:, 0].sum()) for report in two)
    assert drawn == 2 * EPOCH * BATCH


@pytest.mark.slow
def test_a_shard_that_one_process_does_not_find_ends_all_of_them(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7)
    fit(tmp_path / "whole", 2, callbacks=(saving,))
    (folder,) = (tmp_path / FOLDER).iterdir()
    shutil.rmtree(folder / "1")
    failure = fit(tmp_path / "rest", 2, ckpt_path=tmp_path / "step=7.ckpt")
    assert "1 is not there" in failure or "cannot be brought back in another process" in failure


@pytest.mark.slow
def test_a_report_is_of_all_examples_and_refused(tmp_path: Path):
    report = SamplingReport(tmp_path / "page.html")
    assert "SamplingReport tells of all examples" in fit(tmp_path / "two", 2, callbacks=(report,))
