"""What has been learnt is kept for the same data, and forgotten, with a word, for other data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch.utils.data import Subset, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSampling, AdaptiveSamplingCallback
from tests.helpers.tiny import BATCH, EPOCH, Tiny, normal, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
N = BATCH * EPOCH
FORGETS = pytest.warns(UserWarning, match=r"AdaptiveSampling has learnt from other data \(other instances\)")


def dataset(seed: int = 0) -> TensorDataset:
    """Other instances of the same labels, as many of each."""
    return TensorDataset(normal(N, 8, seed=seed), torch.arange(N) % 4)


class Fits:
    """Fits with one callback, that note how unequal the distribution is as each epoch begins."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.callback = AdaptiveSamplingCallback(AdaptiveSampling(), logits_from="net", **options)

    def fit(self, data: Any, more: Any = (), ckpt_path: Any = None, **options: Any) -> list[float]:
        spreads: list[float] = []

        def note(*_: Any) -> None:
            law = self.callback.strategy.probabilities()
            spreads.append(float(law.max() / law.min()))

        callbacks = [self.callback, LambdaCallback(on_train_epoch_start=note), *more]
        self.trainer = tiny_trainer(self.folder, callbacks=callbacks, enable_checkpointing=bool(more), **options)
        loader = data if isinstance(data, AdaptiveDataLoader) else AdaptiveDataLoader(data, BATCH, seed=1)
        self.trainer.fit(Tiny(), loader, ckpt_path=ckpt_path)
        return spreads


def batches_in_figures(fits: Fits) -> int:
    """The number of batches that the figures are of."""
    return fits.callback.state_dict()["figures"]["sums"].shape[1]


def test_a_second_fit_keeps_what_was_learnt_of_equal_data_alone(tmp_path: Path):
    fits, keeping = Fits(tmp_path), Fits(tmp_path, other_data="keep")
    for each in (fits, keeping):
        assert each.fit(dataset()) == [pytest.approx(1)]
        assert each.fit(dataset())[0] > 1.1
    with FORGETS:
        assert fits.fit(dataset(1)) == [pytest.approx(1)]
    assert keeping.fit(dataset(1))[0] > 1.1
    with pytest.warns(UserWarning, match=r"\(other bins\) than .* starts anew.$"):
        assert keeping.fit(TensorDataset(normal(48, 8), torch.arange(48) % 4)) == [pytest.approx(1)]
    sampler = AdaptiveDataLoader(dataset(), BATCH).sampler  # one for several data sets
    fits = Fits(tmp_path)
    fits.fit(AdaptiveDataLoader(dataset(), sampler=sampler))
    with FORGETS:
        assert fits.fit(AdaptiveDataLoader(dataset(1), sampler=sampler)) == [pytest.approx(1)]


@pytest.mark.parametrize("other", [False, True])
def test_so_does_a_loader_that_is_made_anew(other: bool, tmp_path: Path):
    class Reloading(Tiny):
        def train_dataloader(self) -> AdaptiveDataLoader:
            first = BATCH * (self.trainer.current_epoch if other else 0)
            part = Subset(TensorDataset(normal(100, 8), torch.zeros(100).long()), range(first, first + 3 * BATCH))
            return AdaptiveDataLoader(part, BATCH)

    fits, spreads = Fits(tmp_path), []
    note = LambdaCallback(
        on_train_epoch_start=lambda *_: spreads.append(float(fits.callback.strategy.probabilities().max() * 48))
    )
    trainer = tiny_trainer(tmp_path, callbacks=[fits.callback, note], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    if other:
        with FORGETS:
            trainer.fit(Reloading())
    else:
        trainer.fit(Reloading())
    assert (max(spreads) > 1.1) is not other
    assert batches_in_figures(fits) == (1 if other else 3) * 3


def test_a_checkpoint_of_other_data_starts_anew_and_a_refused_one_is_not_met_again(tmp_path: Path):
    Fits(tmp_path).fit(dataset(), more=[ModelCheckpoint(tmp_path, "half")])
    half, two = tmp_path / "half.ckpt", {"ckpt_path": tmp_path / "half.ckpt", "max_epochs": 2}
    assert Fits(tmp_path).fit(dataset(), **two)[0] > 1.1
    keeping, fits = Fits(tmp_path, other_data="keep"), Fits(tmp_path)
    assert keeping.fit(dataset(1), **two)[0] > 1.1
    assert batches_in_figures(keeping) == 2 * EPOCH
    with FORGETS:
        assert fits.fit(dataset(1), **two) == [pytest.approx(1)]
    assert batches_in_figures(fits) == EPOCH
    short = Subset(dataset(), range(2 * BATCH))
    for refused in (Fits(tmp_path), fits):
        with pytest.raises(ValueError, match="state to load is of other bins"):
            refused.fit(short, ckpt_path=half, max_epochs=2)
        failing = LambdaCallback(setup=lambda trainer, pl_module, stage: 1 / 0)  # before the state could be of use
        refused.callback.load_state_dict(torch.load(half)["callbacks"]["AdaptiveSamplingCallback"])
        with pytest.raises(ZeroDivisionError):
            refused.fit(short, more=[failing])
        assert len(refused.fit(short)) == 1


@pytest.mark.parametrize("batch_size", [BATCH, BATCH // 2])
def test_after_an_interruption_an_epoch_is_begun_anew_with_what_was_learnt(batch_size: int, tmp_path: Path):
    def fail(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            raise ArithmeticError

    fits, same = Fits(tmp_path), AdaptiveDataLoader(dataset(), BATCH)
    with pytest.raises(ArithmeticError):
        fits.fit(same, more=[LambdaCallback(on_train_batch_start=fail)])
    for loader in (AdaptiveDataLoader(dataset(), batch_size), same):
        assert fits.fit(loader)[0] > 1.1
        assert fits.trainer.global_step == N // loader.sampler.batch_size
