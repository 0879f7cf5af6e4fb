"""Whole fits on a GPU, where there is one.

The other tests of fits can be run there as well: `TESTS_ACCELERATOR=cuda pytest tests/plugin`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_as import (
    AdaptiveDataModule,
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    ClosenessSampling,
    ConvNetClassifier,
    MNISTDataModule,
    OnlineBatchSelection,
    Strategy,
    Uniform,
)
from tests.helpers.catalogue import CATALOGUE
from tests.helpers.measured import Measured
from tests.helpers.recording import Recording
from tests.helpers.tiny import EPOCH, TinyData, differences, tell, tiny_fit

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:::lightning"),
]
GPU: dict[str, Any] = {"accelerator": "cuda", "devices": 1}
THERE: dict[str, Callable[[], Strategy]] = {
    "AdaptiveSampling": AdaptiveSampling,
    "ClosenessSampling": ClosenessSampling,
    "Uniform": Uniform,
}


def fit(folder: Path, data: MNISTDataModule, sampling: Strategy, seed: int = 0, **options: Any) -> None:
    seed_everything(seed, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    own = {"max_epochs": 2, "limit_val_batches": 0, "enable_checkpointing": "callbacks" in options, **GPU, **quiet}
    callbacks, path = [AdaptiveSamplingCallback(sampling), *options.pop("callbacks", ())], options.pop("path", None)
    trainer = Trainer(default_root_dir=folder, callbacks=callbacks, deterministic="warn", **{**own, **options})
    trainer.fit(ConvNetClassifier(dropout=0.0), data, ckpt_path=path)


@pytest.mark.parametrize("make", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_strategy_trains_there(make: Callable[[], Strategy], tmp_path: Path):
    strategy = make()
    data = AdaptiveDataModule(TinyData())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_fit(tmp_path, strategy, Measured, data, max_epochs=2, limit_val_batches=1, **GPU)
    assert float(strategy.probabilities().sum()) == pytest.approx(1, rel=1e-6)
    assert strategy.skipped == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
@pytest.mark.parametrize("compile", [False, True])
def test_the_losses_are_those_of_the_batches(precision: str, compile: bool, tmp_path: Path):
    strategy = Recording()
    fitted = tiny_fit(tmp_path, strategy, max_epochs=2, precision=precision, compile=compile, **GPU)
    if precision in ("32-true", "64-true"):
        tell(2 * EPOCH, strategy, fitted.watch)
    else:
        assert len(strategy.told) == 2 * EPOCH
        assert all(losses.isfinite().all() and (losses > 0).all() for _, losses, _ in strategy.told)


@pytest.mark.parametrize("make", THERE.values(), ids=list(THERE))
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_with_images_there_a_resumed_fit_is_the_uninterrupted_one(
    make: Callable[[], Strategy], place: str, make_data: Callable[..., MNISTDataModule], tmp_path: Path
):
    def images_there() -> MNISTDataModule:
        data = make_data(device="auto")
        data.setup("fit")
        assert data.sampler is not None
        data.sampler.to(place)
        return data

    whole, rest, here = make(), make(), make()
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, images_there(), whole, callbacks=[saving])
    assert whole.probabilities().device.type == place
    fit(tmp_path, images_there(), rest, seed=1, path=tmp_path / "step=27.ckpt")
    torch.testing.assert_close(rest.probabilities(), whole.probabilities(), rtol=1e-6, atol=0)
    one, other = (
        {
            name: value
            for name, value in strategy.state_dict().items()
            if name in ("points", "drawn", "order", "position")
        }
        for strategy in (rest, whole)
    )
    assert one
    assert differences(one, other) == []
    # Begun on the GPU, ended on the CPU.
    fit(tmp_path, make_data(), here, seed=1, path=tmp_path / "step=27.ckpt", accelerator="cpu")
    assert here.probabilities().device.type == "cpu"
    assert here.progress.done == whole.progress.done


def test_one_process_of_ddp_by_nccl(make_data: Callable[..., MNISTDataModule], tmp_path: Path):
    sampling = OnlineBatchSelection()
    fit(tmp_path, make_data(), sampling, strategy="ddp", max_epochs=1)
    assert float(sampling.probabilities().sum()) == pytest.approx(1)
    torch.distributed.destroy_process_group()
