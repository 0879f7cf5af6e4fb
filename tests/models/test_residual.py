from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d

from lightning_as import ImageDataModule, ResidualNetClassifier
from lightning_as.data.image_data import ImageDataset, Part
from tests.helpers.tiny import normal, refused, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Colours(ImageDataModule):
    num_classes, dims = 4, (3, 8, 8)

    def load(self, part: Part) -> ImageDataset:
        return ImageDataset(normal(24, 3, 8, 8), torch.arange(24) % 4)


@pytest.mark.parametrize(("blocks", "parameters"), [(3, 269_722), (5, 464_154), (18, 1_727_962)])
def test_the_networks_are_as_large_as_the_paper_s(blocks: int, parameters: int):
    """Table 6: 20, 32 and 110 layers, of 0.27, 0.46 and 1.7 million parameters."""
    network = ResidualNetClassifier(blocks=blocks).network
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    layers = [part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 6 * blocks + 2


def naive(module: ResidualNetClassifier, images: Tensor, width: int, blocks: int) -> Tensor:
    """The logits, from the list of all weights in their order."""
    rest = list(module.network.state_dict().values())

    def convolve(images: Tensor, stride: int = 1) -> Tensor:
        kernel, scale, shift, mean, variance, _ = (rest.pop(0) for _ in range(6))
        return batch_norm(conv2d(images, kernel, stride=stride, padding=1), mean, variance, scale, shift)

    images = convolve(images).relu()
    for stage, block in ((stage, block) for stage in range(3) for block in range(blocks)):
        halved = stage > 0 and block == 0
        shortcut = images
        if halved:
            size, channels, side, _ = images.shape
            shortcut = torch.zeros(size, 2 * channels, side // 2, side // 2)
            for row in range(side // 2):
                for column in range(side // 2):
                    shortcut[:, :channels, row, column] = images[:, :, 2 * row, 2 * column]
        images = (convolve(convolve(images, 2 if halved else 1).relu()) + shortcut).relu()
        assert images.shape[1] == width * 2**stage
    weights, bias = rest
    return images.mean((2, 3)) @ weights.T + bias


@pytest.mark.parametrize(("width", "blocks"), [(2, 1), (4, 2)])
def test_the_network_is_that_of_section_4_2(width: int, blocks: int):
    torch.manual_seed(0)
    module = ResidualNetClassifier(5, width, blocks)
    for _ in range(3):
        module(normal(8, 3, 16, 16) + 1)  # so that there are running statistics
    images = normal(2, 3, 16, 16, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(images), naive(module, images, width, blocks))


def fit(folder: Path, module: Any, ckpt_path: Any = None, callbacks: Any = (), **options: Any) -> list[float]:
    """The learning rates of the steps."""

    def keep(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates, data = list[float](), Colours(6, seed=0)
    callbacks = [LambdaCallback(on_train_batch_start=keep), *callbacks]
    trainer = tiny_trainer(folder, callbacks=callbacks, limit_val_batches=0, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return rates


def test_the_learning_rate_goes_through_one_cycle_however_long_the_training_is(tmp_path: Path):
    def module() -> ResidualNetClassifier:
        return ResidualNetClassifier(4, width=2, blocks=1, learning_rate=0.05)

    saving = ModelCheckpoint(tmp_path, "last")
    for options, steps in (({"max_epochs": 5}, 20), ({"max_epochs": 5, "accumulate_grad_batches": 2}, 10)):
        rates = fit(tmp_path, module(), **options)[:: 20 // steps]
        assert max(rates) == pytest.approx(0.05)
        assert rates.index(max(rates)) == round(0.3 * steps) - 1
        assert rates[-1] < 1e-5
        assert rates[0] == pytest.approx(0.05 / 25)
    rates = fit(tmp_path, module(), max_epochs=3, callbacks=[saving], enable_checkpointing=True)
    with refused("learning rate ends after 12 steps, but 16 are to be trained: resume with the `max_epochs` that"):
        fit(tmp_path, module(), tmp_path / "last.ckpt", max_epochs=4)
    with refused("one cycle over the whole training, but the Trainer has no end: give it `max_epochs` or `max_steps`"):
        fit(tmp_path, module(), max_epochs=-1)
    loaded = ResidualNetClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert (loaded.hparams["width"], len(rates), len(fit(tmp_path, loaded, max_epochs=1))) == (2, 12, 4)


def test_another_optimizer_takes_the_place_of_the_cycle(tmp_path: Path):
    arguments = ["--model.width=2", "--model.blocks=1", "--optimizer=SGD", "--optimizer.lr=0.01"]
    module = LightningCLI(ResidualNetClassifier, run=False, args=arguments, save_config_callback=None).model
    assert fit(tmp_path, module, max_epochs=2) == [0.01] * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"width": 0}, r"`width` must be at least 1 \(channels\), got 0"),
        ({"blocks": 0}, "`blocks` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be finite and positive, got 0.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ResidualNetClassifier(**options)
