"""Whoever looks at the train loader sees batches, and changes nothing: draws belong to the fit."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint

from lightning_as import PrioritizedSampling, RHOLoss
from tests.helpers.tiny import BATCH, EPOCH, Tiny, differences, make_data, tiny_dataset, tiny_fit
from tests.helpers.versions import LOSES_COUNT

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
INSTANCES = {tuple(row) for row in tiny_dataset().tensors[0].tolist()}
HOOKS = [
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward"),
    *("on_train_batch_end", "on_validation_start", "on_validation_end", "on_train_epoch_end", "on_train_end"),
]


def look(trainer: Any, *_: Any, whole: bool) -> None:
    """See the batches of an epoch, or the first."""
    loader = trainer.train_dataloader
    if loader is None:  # Lightning has not asked for it yet
        return
    batches = [batch for batch, _ in zip(loader, range(EPOCH if whole else 1), strict=False)]
    assert {len(batch[0]) for batch in batches} == {BATCH}
    seen = [tuple(row) for batch in batches for row in batch[0].tolist()]
    assert len(seen) == len(set(seen)) == len(batches) * BATCH
    assert INSTANCES.issuperset(seen)


class Twice(Tiny):
    """Looks from hooks of the module, which come after those of the callbacks."""

    def on_train_start(self) -> None:
        look(self.trainer, whole=False)

    on_train_epoch_start = on_train_epoch_end = on_train_start


@pytest.mark.parametrize(
    ("num_workers", "options"),
    [(0, {}), (0, {"reload_dataloaders_every_n_epochs": 1}), (0, {"limit_train_batches": 4}), (2, {})],
    ids=str,
)
def test_looks_from_any_hook_change_nothing(num_workers: int, options: dict[str, Any], tmp_path: Path):
    def fit(*more: Callback, make: Any = Tiny, ckpt_path: Any = None) -> Any:
        saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = more if ckpt_path else (*more, saving)
        fitted = tiny_fit(
            tmp_path,
            data=make_data("wrapped", num_workers),
            make=make,
            callbacks=callbacks,
            ckpt_path=ckpt_path,
            **{"max_epochs": 2, "limit_val_batches": 1, "val_check_interval": 2, **options},
        )
        return fitted

    plain = fit()
    hooks = HOOKS if num_workers == 0 else HOOKS[2::5]
    looking = LambdaCallback(**{hook: partial(look, whole=num_workers == 0) for hook in hooks})
    looked = fit(looking, make=Twice)
    assert looked.strategy.indices() == plain.strategy.indices()
    assert differences(looked.strategy.state_dict(), plain.strategy.state_dict()) == []
    # Amid an epoch, and at the end of one.
    for step in (3, 4, 6) if num_workers == 0 and not LOSES_COUNT else ():
        resumed = fit(looking, make=Twice, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.strategy.indices() == plain.strategy.indices()[step:]


def test_looks_before_between_and_after_fits_change_nothing(tmp_path: Path):
    def fits(looks: bool) -> tuple[Any, Any]:
        data = make_data("ready")
        data.setup("fit")
        loader = data.train_dataloader()
        data.train_dataloader = lambda: loader
        for _ in range(2):
            if looks:
                assert len([batch for batch in loader]) == EPOCH
            strategy = PrioritizedSampling()
            watch = tiny_fit(tmp_path, strategy, data=data).watch
        if looks:
            assert len([batch for batch in loader]) == EPOCH
        return torch.stack([batch[0] for batch in watch.batches]), strategy.probabilities()

    for plain, looked in zip(fits(False), fits(True), strict=True):
        assert torch.equal(plain, looked)


def test_a_look_is_not_selected_from_and_moves_no_global_random_state(tmp_path: Path):
    sizes, states = [], []

    def look_on(trainer: Any, *_: Any) -> None:
        states.append(torch.get_rng_state())
        sizes.extend(len(batch[0]) for batch in trainer.train_dataloader)
        states.append(torch.get_rng_state())

    strategy = RHOLoss(torch.zeros(BATCH * EPOCH), keep=0.5)
    tiny_fit(tmp_path, strategy, callbacks=(LambdaCallback(on_train_batch_end=look_on),), limit_train_batches=2)
    assert sizes == [BATCH] * 2 * EPOCH
    assert all(torch.equal(*pair) for pair in zip(states[::2], states[1::2], strict=True))
