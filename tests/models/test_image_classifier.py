from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_as.models.image_classifier import ImageClassifier
from tests.helpers.tiny import normal, tiny_trainer


class Linear(ImageClassifier):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), 4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_step_returns_what_the_callback_reads_and_the_weights_reach_the_loss_alone():
    module, images, labels = Linear(), normal(6, 3, 2, 2), torch.arange(6) % 4
    module.trainer = SimpleNamespace(progress_bar_callback=None)  # pyright: ignore[reportAttributeAccessIssue]
    module.log = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    logits = images.flatten(1) @ module.network[1].weight.T + module.network[1].bias
    losses = cross_entropy(logits, labels, reduction="none")
    for weights in (None, torch.arange(6.0)):
        module.importance_weights = weights
        found = module.training_step((images, labels), 0)
        torch.testing.assert_close(found["logits"], logits)
        torch.testing.assert_close(found["losses"], losses)
        torch.testing.assert_close(found["loss"], (losses * (1 if weights is None else weights)).mean())
    torch.testing.assert_close(module.predict_step(images, 0), logits.softmax(1))


@pytest.mark.filterwarnings("ignore:::lightning")
def test_what_is_logged_is_of_all_batches(tmp_path: Path):
    def keep(trainer: Any, pl_module: Any) -> None:
        logged.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    images, labels = normal(10, 3, 2, 2), torch.arange(10) % 4
    loader, module, logged = DataLoader(TensorDataset(images, labels), 4), Linear(), dict[str, float]()
    trainer = tiny_trainer(tmp_path, callbacks=[LambdaCallback(on_train_epoch_end=keep, on_test_epoch_end=keep)])
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    with torch.no_grad():
        logits = module(images)
    accuracy, loss = (logits.argmax(1) == labels).double().mean(), cross_entropy(logits, labels)
    expected = {f"{stage}/accuracy": float(accuracy) for stage in ("train", "val", "test")}
    expected |= {f"{stage}/loss": float(loss) for stage in ("val", "test")}
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-5)
